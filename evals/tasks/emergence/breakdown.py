"""All metrics by length and by size of problem: the same answers under sharp metrics and under smooth ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

from evals.breakdowns import Breakdown, Entry, Estimate, of_memory
from evals.rows import Row
from evals.stats import bootstrap, wilson

RESAMPLES = 2000
# Metric to the head of its column, and whether it is a share.
METRICS: dict[str, tuple[str, bool]] = {
    "exact": ("exact match", True),
    "grade": ("multiple choice", True),
    "edit": ("edit similarity", True),
    "distance": ("edit distance", False),
    "likelihood": ("log-likelihood, nats a token", False),
    "per_token": ("p a token", True),
    "probability": ("p of the answer", True),
    "brier": ("Brier, 0 to 2", False),
}
_RATES = ("exact", "grade")  # right or wrong


def tables(rows: Sequence[Row]) -> list[Breakdown]:
    """Of the rows of one task: a table with a line for each length and size, and one for each length over all sizes."""
    lines: list[tuple[Entry, ...]] = []
    for length, own in of_memory(rows).items():
        measured = [row for row in own if row.detail and "edit" in row.detail]
        sizes = sorted({_size(row) for row in measured})
        for size in sizes:
            lines.append((length, size, *line([row for row in measured if _size(row) == size])))
        if len(sizes) > 1:
            lines.append((length, "all", *line(measured)))
    if not lines:
        return []
    note = (
        "Exact match and multiple choice are sharp, edits and likelihoods smooth in what a model can do; of edit "
        "distance and Brier less is better. p of the answer is the rate of exact matches that its likelihood "
        "predicts. Nothing finer than 1/n can be seen of a rate. Intervals: Wilson for rates, else bootstrap, 95%."
    )
    heads = ("tokens", "size", "n", *(head for head, _ in METRICS.values()))
    return [Breakdown(rows[0].task, "Metrics by length and size", heads, tuple(lines), note)]


def line(rows: Sequence[Row]) -> tuple[Entry, ...]:
    """How many rows, and each metric's mean over them with its interval."""
    return (len(rows), *(estimate(name, [float((row.detail or {})[name]) for row in rows]) for name in METRICS))


def estimate(name: str, values: Sequence[float]) -> Estimate:
    """A mean with its 95% interval: Wilson's where values are right or wrong, else the bootstrap's.

    No interval of one value, nor where one is not finite (nats of what a model holds for impossible).
    """
    mean = sum(values) / len(values)
    if name in _RATES:
        return Estimate(mean, wilson(round(sum(values)), len(values)), len(values))
    interval = bootstrap(values, resamples=RESAMPLES) if len(values) > 1 and math.isfinite(mean) else None
    return Estimate(mean, interval, len(values), percent=METRICS[name][1])


def _size(row: Row) -> int:
    return int((row.detail or {}).get("size", 0))
