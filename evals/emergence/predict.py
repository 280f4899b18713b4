"""Exact match predicted from the probability of single tokens, beside exact match as measured.

A model that gets each token right with probability p, independently, gets all of an answer of L tokens right with
probability p^L (arXiv 2304.15004, sec. 2, eq. 1), and the expected number of wrong tokens is L(1 - p) (eq. 2): the
first is sharp in p where the second is linear. Two predictions are made:

- ``power``: p^L with one p for a model, exp of its mean nats a token over all its answers. The paper's curve.
- ``product``: exp of the nats of each right answer, averaged. It needs no independence and no common p.

Both are of answers that are drawn from the model. One that is decoded greedily is right wherever each token is the most
likely one, so what is measured may lie above either of them, most of all where p is middling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evals.emergence.curves import Point, point
from evals.emergence.family import Family, Member, answers, tokens_of, value
from evals.rows import Row
from evals.stats import Interval, Proportion


@dataclass(frozen=True)
class Prediction:
    """What exact match should be, and what it is.

    Attributes:
        member, parameters: the model.
        per_token: p, exp of the mean nats over all tokens of all right answers.
        power: mean of p^L over the answers' lengths L in tokens.
        product: mean of exp(nats) of the right answers.
        measured: exact match with its interval; None where it was not measured.
        error: 95% interval of measured - product over the same answers; None likewise. It is that of what is measured,
            moved: a bootstrap of differences has no width where nothing was right. It is a little too wide, for
            answers that are right with unlike probabilities spread less than those that share one.
        n: answers.
    """

    member: str
    parameters: int
    per_token: float
    power: float
    product: float
    measured: Point | None
    error: Interval | None
    n: int


@dataclass(frozen=True)
class SizePoint:
    """One size (digits or letters) of a task.

    Attributes:
        size: of the target.
        measured: exact match.
        power, product: as in ``Prediction``, with the p of all sizes together; None where nothing says how likely.
    """

    size: int
    measured: Proportion
    power: float | None
    product: float | None


def power_law(per_token: float, lengths: Sequence[int]) -> float:
    """Mean of p^L over lengths L in tokens. ValueError unless 0 <= p <= 1 and there is a length."""
    if not 0 <= per_token <= 1 or not lengths:
        raise ValueError(f"expected a probability and one or more lengths, got {per_token} and {len(lengths)} lengths")
    return math.fsum(per_token**length for length in lengths) / len(lengths)


def predict(member: Member, task: str, length: int | None = None) -> Prediction | None:
    """The predictions for one model; None if no answer says how likely it was.

    Raises:
        ValueError: several lengths (of background) and none named.
    """
    rows = _scored(answers(member, task, length))
    if not rows:
        return None
    p, lengths = per_token(rows), [tokens_of(row) or 1 for row in rows]
    products = [math.exp(_nats(row)) for row in rows]
    product = math.fsum(products) / len(products)
    measured = point(Member(member.name, member.parameters, tuple(rows)), task, "exact", length)
    error = None if measured is None else Interval(*(end - product for end in measured.interval))
    return Prediction(member.name, member.parameters, p, power_law(p, lengths), product, measured, error, len(rows))


def predictions(family: Family, task: str, length: int | None = None) -> list[Prediction]:
    """``predict`` for each member that can be predicted, parameters rising."""
    found = [predict(member, task, length) for member in family]
    return sorted((p for p in found if p is not None), key=lambda p: p.parameters)


def per_token(rows: Sequence[Row]) -> float:
    """exp of the mean nats over all tokens of the right answers in ``rows``; ValueError if none says how likely."""
    rows = _scored(rows)
    if not rows:
        raise ValueError("expected rows with a likelihood, got none; evaluate with a model that scores")
    return math.exp(math.fsum(map(_nats, rows)) / sum(tokens_of(row) or 1 for row in rows))


def by_size(member: Member, task: str, length: int | None = None) -> list[SizePoint]:
    """Exact match over the size of the target, sizes rising, beside p^L with one p for all of them.

    With one p for all sizes the predicted curve decays geometrically; what is measured decays faster where long targets
    are harder for each token too.
    """
    rows = answers(member, task, length)
    groups: dict[int, list[Row]] = {}
    for row in rows:
        size = (row.detail or {}).get("size")
        if isinstance(size, int) and value(row, "exact") is not None:
            groups.setdefault(size, []).append(row)
    p = per_token(rows) if _scored(rows) else None
    points = []
    for size, group in sorted(groups.items()):
        right = sum(value(row, "exact") == 1 for row in group)
        scored = _scored(group)
        power = power_law(p, [tokens_of(row) or 1 for row in scored]) if p is not None and scored else None
        product = math.fsum(math.exp(_nats(row)) for row in scored) / len(scored) if scored else None
        points.append(SizePoint(size, Proportion(right, len(group)), power, product))
    return points


def _scored(rows: Sequence[Row]) -> list[Row]:
    """Those that say how likely the right answer is, and how many tokens it has."""
    return [row for row in rows if value(row, "likelihood") is not None and tokens_of(row) is not None]


def _nats(row: Row) -> float:
    """Sum of the nats of the right answer; from the mean, which does not underflow, and at most 0."""
    return min(0.0, (value(row, "likelihood") or 0.0) * (tokens_of(row) or 1))
