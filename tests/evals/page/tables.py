"""Tables that a task may make of its rows, registered in tests as makers of the breakdowns of made-up tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from evals.breakdowns import Breakdown, Estimate, of_memory
from evals.rows import Row
from evals.stats import Interval, wilson
from tests.evals.page.made import HOSTILE


def share(rows: Sequence[Row]) -> Estimate:
    right = sum(row.correct for row in rows)
    return Estimate(right / len(rows), wilson(right, len(rows)), len(rows))


def tables(rows: Sequence[Row]) -> list[Breakdown]:
    """By size and length, by verdict, metrics without intervals, and something only some models have."""
    task, lengths = rows[0].task, of_memory(rows)
    by_size = [
        (length, size, share(mine), Estimate(0.5 * size, Interval(0.4 * size, 0.6 * size), len(mine), percent=False))
        for length, own in lengths.items()
        for size in (1, 2, 3, 5)
        if (mine := [row for row in own if row.document % 6 == size])
    ]
    verdicts = Counter("passed" if row.correct else "timeout" for own in lengths.values() for row in own)
    total = sum(verdicts.values())
    by_verdict = [
        (name, count, Estimate(count / total, wilson(count, total), total)) for name, count in verdicts.items()
    ]
    metrics = [("F1", Estimate(0.291)), ("gain", Estimate(float("nan"))), (HOSTILE, None), ("words", "a few")]
    made = [
        Breakdown(task, "By size", ("tokens", "size", "right", "nodes"), tuple(by_size), "A note of " + HOSTILE),
        Breakdown(task, "By verdict", ("verdict", "answers", "share"), tuple(by_verdict)),
        Breakdown(task, "Metrics", ("metric", "value"), tuple(metrics)),
    ]
    if verdicts["passed"] < 0.8 * total:
        lines = ((1, Estimate(0.3, Interval(0.2, 0.4), 9)), (10, Estimate(0.5, Interval(0.4, 0.6), 9)))
        made.append(Breakdown(task, "Only of some", ("k", "pass@k"), lines))
    return made
