"""Several metrics of one answer: sharp ones and smooth ones (arXiv 2304.15004, sections 2 and 3).

An answer is what ``evals.answerer`` measures: the text generated, the log-likelihood of the right continuation, and
that of each choice, of which the first is right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from evals.scorers import Assessed


def emergence(answered: Any, answers: Sequence[str], asked: str = "") -> Assessed:
    """Score: exact match. The detail has all metrics; with log-likelihood N <= 0 of the T tokens that are right::

        exact        1 if the text is the answer, but for spaces
        distance     edits (insert, delete, replace) from the text to the answer, in symbols
        edit         1 - distance / (symbols of the longer one)
        tokens       T
        likelihood   N / T, nats a token
        probability  exp(N): the rate of exact matches of sampled answers that the likelihoods predict
        per_token    exp(N / T): the p of p^T, a geometric mean over tokens
        grade        1 if the first choice is more likely than all others
        brier        sum over choices of (softmax(N_i) - [i is right])^2, from 0 to 2

    A symbol is a character that is no space. It stands for the paper's token, which a log does not know; where each
    character or letter that stands apart is a token, they are the same.

    Raises:
        ValueError: an answer that was not measured, or nothing to compare it with.
    """
    if not isinstance(answered, Mapping) or not answers or not answered.get("choices"):
        raise ValueError(
            f"answered: expected what is measured (text, nats, tokens, choices) and a right answer, got {answered!r}; "
            "ask with method='measure'"
        )
    said = symbols(str(answered["text"]))
    right = min((symbols(answer) for answer in answers), key=lambda answer: distance(said, answer))
    away = distance(said, right)
    nats, tokens = float(answered["nats"]), max(1, int(answered["tokens"]))
    choices = [float(choice) for choice in answered["choices"]]
    detail = {
        "exact": float(said == right),
        "edit": 1 - away / max(1, len(said), len(right)),
        "distance": away,
        "tokens": tokens,
        "likelihood": nats / tokens,
        "probability": math.exp(nats),
        "per_token": math.exp(nats / tokens),
        "grade": float(all(choices[0] > other for other in choices[1:])),
        "brier": brier(choices),
    }
    return Assessed(detail["exact"], detail)


def symbols(text: str) -> str:
    """The characters that are no space."""
    return "".join(text.split())


def distance(first: str, second: str) -> int:
    """Levenshtein distance: the least number of symbols to insert, delete or replace.

    V. Levenshtein, "Binary codes capable of correcting deletions, insertions, and reversals" (1966), by rows.
    """
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        corner, row[0] = row[0], i
        for j, b in enumerate(second, start=1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (a != b))
    return row[-1]


def brier(nats: Sequence[float]) -> float:
    """Brier score of the softmax over choices, the first of which is right; 0 is best, 2 worst.

    G. Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78 (1950).
    Where no choice is possible at all, all are as likely.
    """
    most = max(nats)
    shares = [1.0 if most == -math.inf else math.exp(value - most) for value in nats]
    total = math.fsum(shares)
    return math.fsum((share / total - (place == 0)) ** 2 for place, share in enumerate(shares))
