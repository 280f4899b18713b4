"""Two models on the same questions: which answers belong together, and whether the difference could be luck.

Rights and wrongs go through McNemar's exact test, other scores, and several samples of one question, through a
bootstrap of the paired differences, documents drawn whole; all
p-values of a page that compare models are one family, and Holm's procedure corrects for its size.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from evals.cells import MEMORY, samples_of
from evals.page.collect import Run
from evals.rows import Row
from evals.stats import Interval, agresti_min, bootstrap, bootstrap_p, holm, mcnemar


@dataclass(frozen=True)
class Comparison:
    """Two models on the questions of one task and length that both answered.

    Attributes:
        first, second: names of the models.
        task, length: of the documents.
        n: questions that both answered.
        difference: mean score of the first less that of the second.
        interval: 95% of it: Agresti and Min's for rights and wrongs, else a bootstrap over documents.
        only_first, only_second: questions right in one alone; None where scores are not right or wrong, or several
            are samples of one question.
        p_value: two-sided, of this comparison alone.
        p_holm: corrected for all comparisons of the family.
        same_documents: whether the pairs are of the same tokens; else of the same question asked at the same number.
        lower_is_better: for nats.
    """

    first: str
    second: str
    task: str
    length: int
    n: int
    difference: float
    interval: Interval
    only_first: int | None
    only_second: int | None
    p_value: float
    p_holm: float
    same_documents: bool
    lower_is_better: bool

    @property
    def better(self) -> str:
        """The model that is better beyond luck (corrected p below 0.05), or empty."""
        if self.p_holm >= 0.05 or self.difference == 0:
            return ""
        return self.first if (self.difference > 0) != self.lower_is_better else self.second


def compare(runs: Sequence[Run]) -> list[Comparison]:
    """Every two runs on every task and length both have, Holm-corrected as one family."""
    made = []
    cells = [_cells(run) for run in runs]
    for one, other in combinations(range(len(runs)), 2):
        for cell, rows in cells[one].items():
            if cell in cells[other]:
                pairs, same = pair(rows, cells[other][cell])
                if pairs:
                    made.append(_comparison(runs[one].name, runs[other].name, pairs, same))
    corrected = holm([comparison.p_value for comparison in made])
    return [replace(comparison, p_holm=p) for comparison, p in zip(made, corrected, strict=True)]


def pair(one: Sequence[Row], other: Sequence[Row]) -> tuple[list[tuple[Row, Row]], bool]:
    """Answers of two models to the same questions, and whether the documents were the same tokens.

    Where digests agree, that is what pairs. Where none does (another tokenizer), a question pairs with the one that
    has the same words and the same right answer and belongs to the document of the same number among those of its
    task and length.
    """
    pairs = _matched(one, other, [(row.digest, row.question) for row in one], [(r.digest, r.question) for r in other])
    if pairs:
        return pairs, True
    return _matched(one, other, _numbers(one), _numbers(other)), False


def documents_of(rows: Sequence[Row]) -> list[int]:
    """A number for each row, the same for rows of one document."""
    numbers = {digest: number for number, digest in enumerate(dict.fromkeys(row.digest for row in rows))}
    return [numbers[row.digest] for row in rows]


def _comparison(first: str, second: str, pairs: Sequence[tuple[Row, Row]], same: bool) -> Comparison:
    values = [(one.value, other.value) for one, other in pairs]
    differences = [one - other for one, other in values]
    only_first = only_second = None
    if all(value in (0, 1) for both in values for value in both) and not samples_of([one for one, _ in pairs]):
        only_first = sum(one > other for one, other in values)
        only_second = sum(other > one for one, other in values)
        p_value = mcnemar(only_first, only_second).p_value
        interval = agresti_min(only_first, only_second, len(pairs))
    else:
        documents = documents_of([one for one, _ in pairs])
        p_value = bootstrap_p(differences, documents)
        interval = bootstrap(differences, clusters=documents)
    row = pairs[0][0]
    return Comparison(
        first=first,
        second=second,
        task=row.task,
        length=row.length,
        n=len(pairs),
        difference=sum(differences) / len(differences),
        interval=interval,
        only_first=only_first,
        only_second=only_second,
        p_value=p_value,
        p_holm=p_value,
        same_documents=same,
        lower_is_better=row.scorer == "value",
    )


def _cells(run: Run) -> dict[tuple[str, int], list[Row]]:
    cells: dict[tuple[str, int], list[Row]] = {}
    for row in run.rows:
        if row.control == MEMORY:
            cells.setdefault((row.task, row.length), []).append(row)
    return cells


def _matched(
    one: Sequence[Row], other: Sequence[Row], keys: Iterable[Hashable], others: Iterable[Hashable]
) -> list[tuple[Row, Row]]:
    """Pairs whose keys agree and whose right answers do."""
    found = dict(zip(others, other, strict=True))
    pairs = [(row, found[key]) for key, row in zip(keys, one, strict=True) if key in found]
    return [(row, twin) for row, twin in pairs if row.expected == twin.expected]


def _numbers(rows: Sequence[Row]) -> list[Hashable]:
    first = min((row.document for row in rows), default=0)
    return [(row.document - first, row.question, row.asked) for row in rows]
