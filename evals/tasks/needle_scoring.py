"""Scorers of the needle in a haystack. Each is 1 or 0, and 1 only where nothing else was offered beside the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from evals.tasks.memory import PLACES


def number(answered: Any, answers: Sequence[str], asked: str = "") -> float:
    """1 if the right number is said as a whole word, and no other word with a digit is.

    Words around it do not count, nor do commas between thousands. A longer number that holds the right one is another
    number; any other number is refused too, whether the document has it or not.
    """
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", str(answered))
    said = set(re.findall(r"\w*\d\w*", text))
    return float(len(said) == 1 and said <= set(answers))


def place(answered: Any, answers: Sequence[str], asked: str = "") -> float:
    """1 if the right place is named, in any case, and no other one of ``evals.tasks.memory.PLACES`` is."""
    words = set(re.findall(r"\w+", str(answered).lower()))
    said = words & set(PLACES)
    return float(len(said) == 1 and said <= {answer.lower() for answer in answers})


def phrases(answered: Any, answers: Sequence[str], asked: str = "") -> float:
    """1 if every one of the answers is part of the text, but for case and space between words.

    For Kamradt's needle, which was judged by a model; what else is said does not count, as it did not there.
    """
    text = _plain(str(answered))
    return float(bool(answers) and all(_plain(answer) in text for answer in answers))


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
