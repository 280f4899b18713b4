"""Scorers of answers about images: one word against one word, numbers, and open answers of a person's own questions.

Answers are compared without case, articles, punctuation and the space around; a number may be said as a word or in
numerals ("7" is "seven"), as is usual since VQA (Antol et al., arXiv 1505.00468) and SQuAD (arXiv 1606.05250).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from evals.scorers import Assessed

NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
_NUMERALS = {word: str(number) for number, word in enumerate(NUMBERS)}
_ARTICLES = ("a", "an", "the")
METRICS = ("exact", "contains", "f1")


def words(text: Any) -> list[str]:
    """The words of an answer in lower case, without articles and punctuation, numbers in numerals.

    Of nothing but articles all are kept: "A" may be a letter that was read, or the name of a choice.
    """
    found = re.findall(r"[^\W_]+(?:[.'-][^\W_]+)*", str(text).lower())
    return [_numeral(word) for word in found if word not in _ARTICLES] or found


def _numeral(word: str) -> str:
    if word.isdecimal():
        return str(int(word))
    return _NUMERALS.get(word, word)


def answer(answered: Any, answers: Sequence[str], asked: str = "") -> float:
    """1 if what is said is one of the answers and nothing else; articles, case, and how a number is written aside."""
    said = words(answered)
    return float(bool(said) and any(said == words(right) for right in answers))


def count(answered: Any, answers: Sequence[str], asked: str = "") -> Assessed:
    """1 if the right number is said, and no other; ``error`` is how far it is off, absent where no number is said."""
    numbers = {int(word) for word in words(answered) if word.isdecimal()}
    right = int(words(answers[0])[0])
    if len(numbers) != 1:
        return Assessed(0.0, {"error": None})
    (said,) = numbers
    return Assessed(float(said == right), {"error": abs(said - right)})


def free(answered: Any, answers: Sequence[str], asked: str = "", option: str = "exact") -> Assessed:
    """An open answer by three metrics, of which ``option`` is the score: exact, contains or f1 (see :func:`metrics`).

    Raises ValueError on another option.
    """
    if option not in METRICS:
        raise ValueError(f"image_free: expected one of {', '.join(METRICS)}, got {option!r}; name one of these")
    found = metrics(answered, answers)
    return Assessed(found[option], found)


def metrics(answered: Any, answers: Sequence[str]) -> dict[str, float]:
    """The best of the answers by each metric.

    - exact: the same words.
    - contains: the answer's words stand in a row among those said.
    - f1: 2PR / (P + R) of the words said and the words of the answer, as bags (SQuAD, arXiv 1606.05250, section 6.1).
    """
    said, best = words(answered), dict.fromkeys(METRICS, 0.0)
    for right in map(words, answers):
        if not right:
            continue
        common = sum((Counter(said) & Counter(right)).values())
        inside = any(said[i : i + len(right)] == right for i in range(len(said) - len(right) + 1))
        scores = (float(said == right), float(inside), 2 * common / (len(said) + len(right)))
        best = {name: max(best[name], score) for name, score in zip(METRICS, scores, strict=True)}
    return best
