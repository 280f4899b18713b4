"""What the rows of image tasks say beyond a mean: by attribute and number of images, counts, refusals, open metrics.

Only the score itself is looked at, no control. Intervals are 95%, of documents drawn whole, as answers from one memory
depend on one another: Wilson's where answers are right or wrong, a bootstrap of the mean else. Knows no task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from evals.breakdowns import Breakdown, Entry, Estimate, of_memory
from evals.rows import Row
from evals.stats import bootstrap, wilson, wilson_clustered
from evals.tasks.images.scoring import METRICS, words
from evals.tasks.images.world import UNKNOWN

_NOTE = "Intervals are 95%, Wilson's, of documents: answers from one memory depend on one another."


def tables(rows: Sequence[Row]) -> list[Breakdown]:
    """Accuracy by attribute, and by number of images where that differs, at each length."""
    by = ("images", "attribute") if any("images" in _detail(row) for row in rows) else ("attribute",)
    return _shown(
        rows, "Accuracy by " + " and ".join(by), (*by, "n", "accuracy"), by, lambda own: (len(own), _right(own))
    )


def counting(rows: Sequence[Row]) -> list[Breakdown]:
    """Exact answers and absolute errors, by attribute and by the right number."""

    def line(own: Sequence[Row]) -> tuple[Entry, ...]:
        numbered = [row for row in own if _detail(row).get("error") is not None]
        errors = [float(_detail(row)["error"]) for row in numbered]
        mean = _mean(errors, numbered, percent=False) if errors else None
        return len(own), _right(own), mean, len(own) - len(errors)

    heads = ("n", "exact", "absolute error", "no number")
    note = "The absolute error is the mean over answers that say one number, with a bootstrap interval of 95%."
    found = _shown(rows, "Counting", ("attribute", *heads), ("attribute",), line, note)
    return found + _shown(rows, "Counting, by the right number", ("right", *heads), ("count",), line, note)


def unanswerable(rows: Sequence[Row]) -> list[Breakdown]:
    """Rates on questions that have an answer and on those that have none, and their mean, the balanced score."""
    lines: list[tuple[Entry, ...]] = []
    for length, own in of_memory(rows).items():
        some = [row for row in own if _detail(row).get("answerable") is True]
        none = [row for row in own if _detail(row).get("answerable") is False]
        balanced = None
        if some and none:
            balanced = Estimate((_right(some).value + _right(none).value) / 2, None, len(own))
        # Its first word, as behind it a model may go on that has learned no end.
        refused = [float(words(row.answered)[:1] == [UNKNOWN]) for row in some]
        shares = (_right(some), _share(refused, some)) if some else (None, None)
        lines.append((length, len(own), *shares, _right(none) if none else None, balanced))
    heads = ("tokens", "n", "answerable", "refused though answerable", "unanswerable", "balanced")
    note = "Balanced is the mean of both rates: 50% for always saying unknown. Other intervals are 95%, Wilson's."
    return [Breakdown(rows[0].task, "Answers and refusals", heads, tuple(lines), note)] if lines else []


def free(rows: Sequence[Row]) -> list[Breakdown]:
    """The three metrics of open answers at each length."""

    def line(own: Sequence[Row]) -> tuple[Entry, ...]:
        return len(own), *(_mean([float(_detail(row)[metric]) for row in own], own) for metric in METRICS)

    note = "The best of a question's answers by each metric; intervals are 95%, a bootstrap over documents."
    kept = [row for row in rows if all(metric in _detail(row) for metric in METRICS)]
    return _shown(kept, "Open answers", ("n", *METRICS), (), line, note)


def _shown(
    rows: Sequence[Row],
    title: str,
    heads: tuple[str, ...],
    by: tuple[str, ...],
    line: Callable[[Sequence[Row]], tuple[Entry, ...]],
    note: str = _NOTE,
) -> list[Breakdown]:
    """A table with a line for each length and each value of some entries of the detail; none without rows."""
    lines: list[tuple[Entry, ...]] = []
    for length, own in of_memory(rows).items():
        groups: dict[tuple[Any, ...], list[Row]] = {}
        for row in own:
            if all(key in _detail(row) for key in by):
                groups.setdefault(tuple(_detail(row)[key] for key in by), []).append(row)
        lines += [(length, *value, *line(groups[value])) for value in sorted(groups)]
    return [Breakdown(rows[0].task, title, ("tokens", *heads), tuple(lines), note)] if lines else []


def _detail(row: Row) -> dict[str, Any]:
    return dict(row.detail or {})


def _right(rows: Sequence[Row]) -> Estimate:
    return _share([float(row.correct) for row in rows], rows)


def _share(values: Sequence[float], rows: Sequence[Row]) -> Estimate:
    """The share of ones among values, one for each row."""
    found: dict[str, list[float]] = {}
    for value, row in zip(values, rows, strict=True):
        found.setdefault(row.digest, []).append(value)
    sums, counts = [sum(own) for own in found.values()], [len(own) for own in found.values()]
    alone = len(found) == len(rows)
    interval = wilson(int(sum(sums)), len(rows)) if alone else wilson_clustered(sums, counts)
    return Estimate(sum(sums) / len(rows), interval, len(rows))


def _mean(values: Sequence[float], rows: Sequence[Row], percent: bool = True) -> Estimate:
    """The mean of values, one for each row."""
    places = {digest: place for place, digest in enumerate(dict.fromkeys(row.digest for row in rows))}
    interval = bootstrap(values, clusters=[places[row.digest] for row in rows])
    return Estimate(sum(values) / len(values), interval, len(values), percent=percent)
