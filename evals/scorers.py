"""Scorers: from an answer and what was asked to a number, by the name that rows keep.

A scorer is a function of the answered text, the right answers, and the question in words; 1 is fully right, 0 wrong.
One that has more to say (a verdict, further metrics) returns ``Assessed``.
Each task names its own. ``score`` finds it by name, so that rows can be scored again from a log. What stands behind a
colon ("babilong:qa10") is handed to the scorer as its ``option``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Assessed:
    """A score and what else there is to say of an answer.

    Attributes:
        score: in [0, 1].
        detail: further metrics and verdicts by name, as JSON can hold them; kept in the row.
    """

    score: float
    detail: Mapping[str, Any] = field(default_factory=dict)


Scorer = Callable[[Any, Sequence[str], str], float | Assessed]

# Name of a scorer to "module:function"; modules are imported when a scorer is first used.
SCORERS: dict[str, str] = {
    "exact": "evals.scorers:exact",
    "first_word": "evals.scorers:first_word",
    "value": "evals.scorers:value",
    "sequence": "evals.scorers:sequence",
    "sequence_exact": "evals.scorers:sequence_exact",
    "needle": "evals.tasks.needle_scoring:number",
    "needle_place": "evals.tasks.needle_scoring:place",
    "needle_phrases": "evals.tasks.needle_scoring:phrases",
    "babilong": "evals.tasks.babilong_scoring:strict",
    "babilong_words": "evals.tasks.babilong_scoring:words",
    "babilong_loose": "evals.tasks.babilong_scoring:loose",
    "ruler_all": "evals.tasks.ruler_scoring:string_match_all",
    "ruler_part": "evals.tasks.ruler_scoring:string_match_part",
    "humaneval": "evals.tasks.humaneval.scoring:passes",
    "corr2cause": "evals.tasks.corr2cause.scoring:strict",
    "multiplication": "evals.tasks.compositional.scoring:multiplication",
    "dp": "evals.tasks.compositional.scoring:dp",
    "puzzle": "evals.tasks.compositional.puzzle.scoring:puzzle",
    "emergence": "evals.tasks.emergence.scoring:emergence",
    "image": "evals.tasks.images.scoring:answer",
    "image_count": "evals.tasks.images.scoring:count",
    "image_free": "evals.tasks.images.scoring:free",
}

MEASURED = ("emergence",)  # scorers of what is measured (a dictionary); all others take text or a number


def find(name: str) -> Scorer:
    """The scorer of this name, with its option if there is one. Raises ValueError on an unknown one."""
    name, _, option = name.partition(":")
    if name not in SCORERS:
        raise ValueError(f"scorer: expected one of {', '.join(SCORERS)}, got {name!r}; name one of these")
    module, _, function = SCORERS[name].partition(":")
    found = getattr(import_module(module), function)
    scorer: Scorer = partial(found, option=option) if option else found
    return scorer


def unconsented(name: str) -> str:
    """A scorer's name in a log, less the consent in it to run what a log says without isolation.

    That was given for another machine, or by whoever wrote the log.
    """
    name, _, option = name.partition(":")
    kept = "+".join(part for part in option.split("+") if part != "unsandboxed")
    return f"{name}:{kept}" if kept else name


def of_task(name: str, task: str) -> str:
    """The scorer ``name`` for rows of ``task``: BABILong's need to know whose labels count, if it is not said."""
    if name not in ("babilong", "babilong_words"):
        return name
    from evals.tasks.babilong_scoring import LABELS

    return f"{name}:{task}" if task in LABELS else name


def assess(name: str, answered: Any, answers: Sequence[str], asked: str) -> Assessed:
    """What the scorer ``name`` makes of ``answered``."""
    found = find(name)(answered, answers, asked)
    return found if isinstance(found, Assessed) else Assessed(float(found))


def again(name: str, answered: Any, answers: Sequence[str], asked: str) -> Assessed:
    """What another scorer makes of an answer in a log: of what was measured, one of texts takes the text.

    Raises ValueError where the answer is none that the scorer takes.
    """
    if isinstance(answered, Mapping) and name.partition(":")[0] not in MEASURED:
        if "text" not in answered:
            raise ValueError(f"{name}: expected an answer with a text to score, got {answered!r}; name another scorer")
        answered = answered["text"]
    return assess(name, answered, answers, asked)


def score(name: str, answered: Any, answers: Sequence[str], asked: str) -> float:
    """The score alone."""
    return assess(name, answered, answers, asked).score


def exact(answered: Any, answers: Sequence[str], asked: str = "") -> float:
    """1 if the text is one of the answers, but for case and space around it and a full stop behind."""
    said = _plain(str(answered))
    return float(any(said == _plain(answer) for answer in answers))


def first_word(answered: Any, answers: Sequence[str], asked: str = "") -> float:
    """1 if the first word said is one of the answers: for models that answer with one word and go on."""
    words = re.findall(r"[\w'-]+", str(answered).lower())
    return float(bool(words) and any(words[0] == answer.lower() for answer in answers))


def value(answered: Any, answers: Sequence[str] = (), asked: str = "") -> float:
    """The answer itself, where it is a number (such as nats a token)."""
    return float(answered)


def sequence(answered: Any, answers: Sequence[str], asked: str = "") -> float:
    """Share of the answer's words that are said at their place, best of the answers; what is too much counts as wrong.

    Accuracy per token as in the RMT paper (arXiv 2207.06881, figure 3), in words, whatever stands between them::

        |{i : said_i = answer_i}| / max(words said, words of the answer)
    """
    said = _words(answered)
    shares = []
    for answer in answers:
        right = _words(answer)
        hits = sum(a == b for a, b in zip(said, right, strict=False))
        shares.append(hits / max(1, len(said), len(right)))
    return max(shares, default=0.0)


def sequence_exact(answered: Any, answers: Sequence[str], asked: str = "") -> float:
    """1 if all words of the answer are said in their order, and nothing else is."""
    return float(sequence(answered, answers) == 1)


def _words(text: Any) -> list[str]:
    return re.findall(r"\w+", str(text).lower())


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".").strip()
