"""Cells of a result: the score of one task at one length under one control, with its interval, out of rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evals.rows import Row
from evals.stats import Interval, McNemar, Proportion, bootstrap, mcnemar, wilson_clustered

MEMORY = "memory"
RATE, NATS = "rate", "nats"  # what a score is: a share of what is right, or nats a token, where less is better
CONTROLS = ("zeroed", "shuffled", "swapped")


@dataclass(frozen=True)
class Cell:
    """Score of one task at one length (tokens) under one control ("memory": the score itself).

    ``successes`` is the sum of the scores of n questions, a whole number where each is right or wrong. ``documents``
    says how many documents the questions come from: where it is smaller than n they are not quite independent and
    the interval is somewhat too narrow. Where several answers are samples of one question, ``samples`` holds the sum
    of scores and the number of samples of each, and the interval allows for it. ``values`` holds the scores where one
    of them is not 0 or 1. ``unit`` is "rate", a share of what is right, or "nats", where less is better.
    """

    task: str
    length: int
    control: str
    successes: float
    n: int
    documents: int
    values: tuple[float, ...] = ()
    unit: str = RATE
    samples: tuple[tuple[float, int], ...] = ()

    @property
    def questions(self) -> int:
        """How many different questions the n answers are to."""
        return len(self.samples) or self.n

    @property
    def rate(self) -> float:
        """The mean score."""
        return self.successes / self.n

    @property
    def interval(self) -> Interval:
        """95%: Wilson's for rights and wrongs, a bootstrap of the mean for other scores, Wilson's over questions for
        samples of them.
        """
        if self.samples:
            return wilson_clustered([total for total, _ in self.samples], [count for _, count in self.samples])
        return bootstrap(self.values) if self.values else self.proportion.interval

    @property
    def proportion(self) -> Proportion:
        """Rights out of n with their Wilson interval. ValueError where scores are not 0 or 1."""
        if self.values:
            raise ValueError(f"{self.task}: expected scores of 0 and 1, got others; use rate and interval")
        return Proportion(int(self.successes), self.n)


def tally(rows: Iterable[Row]) -> list[Cell]:
    """Cells of rows: tasks in order of appearance, lengths rising, the score before its controls."""
    groups: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.task, row.length, row.control), []).append(row)
    tasks = list(dict.fromkeys(task for task, _, _ in groups))
    order = (MEMORY, *CONTROLS)
    cells = [_cell(*key, [row.value for row in group], group) for key, group in groups.items()]
    return sorted(cells, key=lambda cell: (tasks.index(cell.task), cell.length, order.index(cell.control)))


def _cell(task: str, length: int, control: str, values: Sequence[float], rows: Sequence[Row]) -> Cell:
    binary = all(value in (0, 1) for value in values)
    documents = len({row.digest for row in rows})
    total = int(sum(values)) if binary else sum(values)
    unit = NATS if rows[0].scorer == "value" else RATE
    rest = () if binary else tuple(values)
    return Cell(
        task, length, control, total, len(rows), documents, rest, unit, samples_of(rows) if unit == RATE else ()
    )


def samples_of(rows: Sequence[Row]) -> tuple[tuple[float, int], ...]:
    """Sum of scores and number of samples by question; nothing where no question of a document was asked twice.

    The same question is one with the same words and the same right answer. Rows without words are questions of their
    own, and so is all where a score is not in [0, 1].
    """
    found: dict[tuple[str, str, str], list[float]] = {}
    for place, row in enumerate(rows):
        words = row.asked or f"\0{place}"
        found.setdefault((row.digest, words, repr(row.expected)), []).append(row.value)
    if len(found) == len(rows) or not all(0 <= row.value <= 1 for row in rows):
        return ()
    return tuple((sum(values), len(values)) for values in found.values())


def paired(rows: Iterable[Row], control: str = "zeroed") -> dict[tuple[str, int], McNemar]:
    """McNemar's exact test of the score against ``control`` on the same questions, per (task, length).

    Right is what is fully right. Samples of one question are no questions of their own: they count as one, for the
    side that more of them are right on, and for neither where as many are. Nats a token are neither right nor wrong
    and left out; ``evals.tasks.perplexity.gain`` compares them.
    """
    pairs: dict[tuple[str, int], dict[tuple[str, int], dict[str, bool]]] = {}
    asked: dict[tuple[str, int], tuple[str, ...]] = {}
    for row in rows:
        if row.control in (MEMORY, control) and row.scorer != "value":
            questions = pairs.setdefault((row.task, row.length), {})
            place = row.digest, row.question
            questions.setdefault(place, {})[row.control] = row.correct
            asked[place] = (row.digest, row.asked or f"\0{row.question}", repr(row.expected))
    results = {}
    for cell, questions in pairs.items():
        more: dict[tuple[str, ...], int] = {}  # rights by the memory beyond those by the control, of each question
        for place, pair in questions.items():
            if len(pair) == 2:
                more[asked[place]] = more.get(asked[place], 0) + pair[MEMORY] - pair[control]
        results[cell] = mcnemar(sum(n > 0 for n in more.values()), sum(n < 0 for n in more.values()))
    return results
