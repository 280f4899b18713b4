"""Scorers of BABILong: the benchmark's own, that of lm-eval, and the benchmark's own with whole words.

``strict`` does what ``babilong/metrics.py`` of github.com/booydar/babilong (at 7a6efee) does: of the first sentence of
an answer, the labels of the task that the question does not name must be the right one and no other. Two of its faults
are kept, so that numbers compare: labels are found inside other words, so "none" names "one" too and is never right
in task 7 (and "know" says "no"); and what follows "Question" is not cut off, since it looks for a capital in lower
case. ``words`` is the same with labels as whole words.

``loose`` does what lm-eval's task (lm_eval/tasks/babilong/common_utils.py) does: the right answer is somewhere in what
was said. Naming all rooms is right there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

_ROOMS = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
LABELS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("qa1", "qa2", "qa3", "qa4", "qa11", "qa12", "qa13"), _ROOMS),
    "qa5": ("Bill", "Fred", "Jeff", "Mary", "apple", "football", "milk"),
    "qa7": ("none", "one", "three", "two"),
    "qa8": ("apple", "football", "milk", "nothing"),
    **dict.fromkeys(("qa6", "qa9", "qa17", "qa18"), ("no", "yes")),
    "qa10": ("maybe", "no", "yes"),
    "qa14": ("bedroom", "cinema", "kitchen", "office", "park", "school"),
    "qa15": ("cat", "mouse", "sheep", "wolf"),
    "qa16": ("gray", "green", "white", "yellow"),
    "qa19": ("e,e", "e,n", "e,s", "n,e", "n,n", "n,w", "s,e", "s,s", "s,w", "w,n", "w,s", "w,w"),
    "qa20": ("bedroom", "bored", "garden", "hungry", "kitchen", "thirsty", "tired"),
}


def strict(answered: Any, answers: Sequence[str], asked: str = "", option: str = "") -> float:
    """1 if the first sentence names the right label of the task and no other, but for those of the question.

    Args:
        answered: what was said.
        answers: the right answer; several things of task 8 in one, joined by commas.
        asked: the question in words.
        option: the task, qa1 to qa20; without it, the first whose labels hold the answer.
    """
    return _exactly(answered, answers, asked, option, lambda label, text: label in text)


def words(answered: Any, answers: Sequence[str], asked: str = "", option: str = "") -> float:
    """As :func:`strict`, with labels as whole words: "none" is not "one"."""
    return _exactly(
        answered, answers, asked, option, lambda label, text: re.search(rf"\b{re.escape(label)}\b", text) is not None
    )


def loose(answered: Any, answers: Sequence[str], asked: str = "", option: str = "") -> float:
    """1 if the right answer is anywhere in what was said (lm-eval's ``process_results``)."""
    said = re.sub(r"[\x00-\x1f]", "\n", str(answered).strip()).strip()
    return float(answers[0].strip().lower() in said.lower())


def _exactly(
    answered: Any, answers: Sequence[str], asked: str, option: str, named: Callable[[str, str], bool]
) -> float:
    target = answers[0].lower()
    # Several things of task 8, not a path of task 19.
    targets = set(target.split(",")) if "," in target and len(target) > 3 else {target}
    labels = {label.lower() for label in _labels(option, targets)}
    said, question = _first_sentence(str(answered)), asked.lower()
    found = {label for label in labels if named(label, said) and not named(label, question)}
    return float(found == targets)


def _labels(option: str, targets: set[str]) -> tuple[str, ...]:
    if option:
        if option not in LABELS:
            raise ValueError(f"scorer: expected a task from qa1 to qa20 behind the colon, got {option!r}; name one")
        return LABELS[option]
    for labels in LABELS.values():
        if targets <= {label.lower() for label in labels}:
            return labels
    raise ValueError(f"scorer: expected an answer of BABILong's, got {', '.join(sorted(targets))}; use another scorer")


def _first_sentence(text: str) -> str:
    """Up to the first full stop, or where the model goes on with an example of its own."""
    text = text.lower().split(".")[0]
    return text.split("<context>")[0].split("<example>")[0]
