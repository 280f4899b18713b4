"""F1, precision, recall and accuracy of the entailed class, by length and control, relation and number of variables.

With what follows as the positive class and "Yes" as naming it (Jin et al., arXiv 2306.05836, section 5)::

    precision = TP / (TP + FP), recall = TP / (TP + FN), F1 = 2 TP / (2 TP + FP + FN)

An answer that is neither yes nor no names nothing: it misses what follows, and is wrong where nothing does. What has
no denominator (precision, where nobody said yes) is left empty rather than called 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from evals.breakdowns import Breakdown, Entry, Estimate, of_memory
from evals.memory_eval import CONTROLS, MEMORY
from evals.rows import Row
from evals.stats import Interval
from evals.tasks.corr2cause.relations import RELATIONS
from evals.tasks.corr2cause.scoring import said

METRICS = ("F1", "precision", "recall", "accuracy")
_RESAMPLES = 10_000
_NOTE = (
    "Positive is what is entailed. Intervals: bootstrap over questions, 95%, of the resamples in which the number is "
    "defined; empty where it is not."
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


def metrics(counts: Counts, seed: int = 0) -> dict[str, Estimate | None]:
    """The four metrics with their intervals; None where one is not defined.

    Questions of one of five kinds are alike, so a bootstrap sample of them is a multinomial one of their counts.
    """
    own = np.array([[counts.tp, counts.fp, counts.fn, counts.tn, counts.other]])
    if not counts.n:
        return dict.fromkeys(METRICS)
    drawn = np.random.default_rng(seed).multinomial(counts.n, own[0] / counts.n, size=_RESAMPLES)
    found: dict[str, Estimate | None] = {}
    for name, value, sample in zip(METRICS, _values(own), _values(drawn), strict=True):
        if np.isnan(value[0]):
            found[name] = None
            continue
        low, high = np.quantile(sample[~np.isnan(sample)], [0.025, 0.975])
        found[name] = Estimate(float(value[0]), Interval(float(low), float(high)), counts.n)
    return found


def _values(kinds: np.ndarray) -> tuple[np.ndarray, ...]:
    """The metrics of rows of counts; nan where a denominator is 0."""
    tp, fp, fn, tn, other = kinds.T.astype(np.float64)
    pairs = ((2 * tp, 2 * tp + fp + fn), (tp, tp + fp), (tp, tp + fn), (tp + tn, tp + fp + fn + tn + other))
    return tuple(np.divide(top, low, out=np.full(len(tp), np.nan), where=low > 0) for top, low in pairs)


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
    by_length = Breakdown(task, "The entailed class", ("length", "control", *heads), tuple(lines), _NOTE)
    relations = _grouped(rows, "relation", lambda value: RELATIONS.index(str(value)))
    sizes = _grouped(rows, "variables", int)
    return [
        by_length,
        Breakdown(task, "The entailed class, by relation", ("length", "relation", *heads), relations, _NOTE),
        Breakdown(task, "The entailed class, by variables", ("length", "variables", *heads), sizes, _NOTE),
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
