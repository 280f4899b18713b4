"""How an answer is read: "Yes" or "No", and nothing in between. Knows no task."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from evals.scorers import Assessed

CHOICES = ("Yes", "No")


def said(answered: Any) -> str | None:
    """ "yes" or "no": the first word, unless the first sentence says the other one as well; None for anything else."""
    sentence = re.split(r"[.!?\n]", str(answered).strip().lower(), maxsplit=1)[0]
    words = re.findall(r"[a-z]+", sentence)
    if not words or words[0] not in ("yes", "no") or {"yes", "no"} <= set(words):
        return None
    return words[0]


def strict(answered: Any, answers: Sequence[str], asked: str = "") -> Assessed:
    """1 if just the right one of yes and no is said; ``said`` is kept beside it ("" where it is neither)."""
    word = said(answered)
    return Assessed(float(word is not None and word == answers[0].lower()), {"said": word or ""})
