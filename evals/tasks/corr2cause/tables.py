"""F1, precision, recall and accuracy of the entailed class, by length and control, relation and number of variables.

With what follows as the positive class and "Yes" as naming it (Jin et al., arXiv 2306.05836, section 5)::

    precision = TP / (TP + FP), recall = TP / (TP + FN), F1 = 2 TP / (2 TP + FP + FN)

An answer that is neither yes nor no names nothing: it misses what follows, and is wrong where nothing does. What has
no denominator (precision, where nobody said yes) is left empty rather than called 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from evals.breakdowns import Breakdown, Entry, Estimate, of_memory
from evals.memory_eval import CONTROLS, MEMORY
from evals.rows import Row
from evals.stats import Interval, wilson
from evals.tasks.corr2cause.relations import RELATIONS
from evals.tasks.corr2cause.scoring import said

METRICS = ("F1", "precision", "recall", "accuracy")
_NOTE = (
    "Positive is what is entailed. Intervals: 95%, Wilson's, of the questions that a number is of; empty where there "
    "are none."
)


@dataclass(frozen=True)
class Counts:
    """Questions by what follows and what was said; ``other``: nothing follows, and neither yes nor no was said."""

    tp: int
    fp: int
    fn: int
    tn: int
    other: int

    @property
    def n(self) -> int:
        """All questions."""
        return self.tp + self.fp + self.fn + self.tn + self.other


def count(rows: Iterable[Row]) -> Counts:
    """Rows of this task, by what follows and what was said."""
    kinds = [0] * 5
    for row in rows:
        word, follows = said(row.answered), row.expected == ("Yes",)
        if follows:
            kinds[0 if word == "yes" else 2] += 1
        else:
            kinds[{"yes": 1, "no": 3}.get(word or "", 4)] += 1
    return Counts(*kinds)


def metrics(counts: Counts) -> dict[str, Estimate | None]:
    """The four metrics with their intervals; None where one is not defined.

    All but F1 are shares of some of the questions (precision of those that were said yes to), so Wilson's interval is
    theirs. So is J = TP / (TP + FP + FN), and F1 = 2 J / (1 + J) grows with it: F1's ends are made of J's. At 0 and at
    1 these do not shrink to a point, as those of a bootstrap would. ``n`` is what the share is of.
    """
    tp, fp, fn, right = counts.tp, counts.fp, counts.fn, counts.tp + counts.tn
    shares = zip(METRICS, (tp, tp, tp, right), (tp + fp + fn, tp + fp, tp + fn, counts.n), strict=True)
    found: dict[str, Estimate | None] = {}
    for name, hits, of in shares:
        if not of:
            found[name] = None
            continue
        value, interval = hits / of, wilson(hits, of)
        if name == "F1":
            value, interval = _f1(value), Interval(*map(_f1, interval))
        found[name] = Estimate(value, interval, of)
    return found


def _f1(jaccard: float) -> float:
    return 2 * jaccard / (1 + jaccard)


def tables(rows: Sequence[Row]) -> list[Breakdown]:
    """By length and control; and, of the score itself, by length and relation, and by length and variables."""
    task = rows[0].task
    lengths = sorted({row.length for row in rows})
    lines = []
    for length in lengths:
        for control in (MEMORY, *CONTROLS):
            own = [row for row in rows if row.length == length and row.control == control]
            if own:
                lines.append(_line((length, control), own))
    heads = ("questions", "entailed", "said yes", *METRICS)
    by_length = Breakdown(task, "The entailed class", ("tokens", "control", *heads), tuple(lines), _NOTE)
    relations = _grouped(rows, "relation", lambda value: RELATIONS.index(str(value)))
    sizes = _grouped(rows, "variables", int)
    return [
        by_length,
        Breakdown(task, "The entailed class, by relation", ("tokens", "relation", *heads), relations, _NOTE),
        Breakdown(task, "The entailed class, by variables", ("tokens", "variables", *heads), sizes, _NOTE),
    ]


def _grouped(rows: Iterable[Row], key: str, rank: Callable[[str | int], int]) -> tuple[tuple[Entry, ...], ...]:
    lines = []
    for length, own in of_memory(rows).items():
        groups: dict[str | int, list[Row]] = {}
        for row in own:
            if row.detail and key in row.detail:
                groups.setdefault(row.detail[key], []).append(row)
        lines += [_line((length, value), groups[value]) for value in sorted(groups, key=rank)]
    return tuple(lines)


def _line(head: tuple[Entry, ...], rows: Sequence[Row]) -> tuple[Entry, ...]:
    counts = count(rows)
    found = metrics(counts)
    return (*head, counts.n, counts.tp + counts.fn, counts.tp + counts.fp, *(found[name] for name in METRICS))
