"""Numbers of a family as Markdown: metrics by model, the emergence score of each, and exact match as predicted."""

from __future__ import annotations

from collections.abc import Sequence

from evals.emergence.curves import curves, samples
from evals.emergence.family import METRICS, Family, answers
from evals.emergence.predict import by_size, predictions
from evals.emergence.score import Emergence, emergence
from evals.report import short_count
from evals.stats import Interval


def score_of(family: Family, task: str, metric: str, length: int | None = None, seed: int = 0) -> Emergence:
    """The emergence score of one metric of one task, positive where bigger models are better, questions resampled.

    Raises:
        ValueError: an unknown metric, or several lengths and none named.
    """
    if metric not in METRICS:
        raise ValueError(f"metric: expected one of {', '.join(METRICS)}, got {metric!r}; name one")
    members = sorted(family, key=lambda member: member.parameters)
    held = [samples(answers(member, task, length), metric) for member in members]
    held = [(numbers, digests) for numbers, digests in held if numbers]
    kind = METRICS[metric]
    return emergence(
        [numbers for numbers, _ in held],
        units=[digests for _, digests in held],
        floor=1 / min(len(numbers) for numbers, _ in held) if kind.rate and held else None,
        rises=kind.rises,
        seed=seed,
    )


def table(family: Family, task: str, length: int | None = None) -> str:
    """One task: a row a metric with its mean and 95% interval for each model, its emergence score and steepest step.

    Below it exact match as p^L and the exact product predict it. ValueError if no member was asked the task.
    """
    found = curves(family, task, length)
    if not found:
        raise ValueError(f"task: expected answers to {task} with metrics, got none; evaluate the family on it")
    members = sorted(family, key=lambda member: member.parameters)
    heads = ["metric", *(f"{m.name} ({short_count(m.parameters)})" for m in members), "emergence", "steepest step"]
    lines = []
    for metric, points in found.items():
        held = {(p.member, p.parameters): p for p in points}
        means = [held.get((member.name, member.parameters)) for member in members]
        score = score_of(family, task, metric, length)
        shown = ["" if p is None else _number(p.value, p.interval) for p in means]
        lines.append([METRICS[metric].label, *shown, emergence_text(score), f"{100 * score.steepest:.0f}%"])
    made = predictions(family, task, length)
    if made:
        by_name = {(p.member, p.parameters): p for p in made}
        own = [by_name.get((member.name, member.parameters)) for member in members]
        lines.append(["p^L", *("" if p is None else _digits(p.power) for p in own), "", ""])
        lines.append(["mean of exp(nats)", *("" if p is None else _digits(p.product) for p in own), "", ""])
        gaps = ["" if p is None or p.error is None else _interval(p.error) for p in own]
        lines.append(["exact match - mean of exp(nats)", *gaps, "", ""])
    sizes = sorted({p.n for points in found.values() for p in points})
    span = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    note = f"{task}: n = {span} answers a model, resolution floor 1/n = {1 / sizes[0]:.2g}; 95% intervals."
    return f"{note}\n\n{_markdown(heads, lines)}\n"


def size_table(family: Family, task: str, length: int | None = None) -> str:
    """Exact match by size of the target for each model, as measured and, behind a slash, as p^L; Markdown."""
    members = sorted(family, key=lambda member: member.parameters)
    each = [{p.size: p for p in by_size(member, task, length)} for member in members]
    sizes = sorted({size for points in each for size in points})
    if not sizes:
        raise ValueError(f"task: expected answers to {task} with a size, got none; evaluate the family on it")
    lines = []
    for size in sizes:
        cells = [points.get(size) for points in each]
        texts = [
            "" if p is None else f"{p.measured}{'' if p.power is None else f' / {100 * p.power:.1f}'}" for p in cells
        ]
        lines.append([str(size), *texts])
    heads = ["size", *(f"{m.name} ({short_count(m.parameters)})" for m in members)]
    note = f"{task}: exact match, percent, with its Wilson 95% interval / p^L with one p for all sizes of a model."
    return f"{note}\n\n{_markdown(heads, lines)}\n"


def emergence_text(score: Emergence) -> str:
    """A score with its interval, or why there is none, in a few words."""
    if score.score is None:
        held = f"; {score.resolved:.1f} with steps of at least 1/n" if score.resolved is not None else ""
        return f"none: {score.reason}{held}"
    return f"{score.score:.1f} " + ("[no end]" if score.interval is None else _interval(score.interval, ".1f"))


def _number(value: float, interval: Interval) -> str:
    return f"{_digits(value)} {_interval(interval)}"


def _interval(interval: Interval, form: str = "") -> str:
    low, high = (format(end, form) if form else _digits(end) for end in interval)
    return f"[{low}, {high}]"


def _digits(value: float) -> str:
    """Three decimals; two significant digits where that would hide a small number."""
    return f"{value:.2g}" if 0 < abs(value) < 0.001 else f"{value:.3f}"


def _markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
