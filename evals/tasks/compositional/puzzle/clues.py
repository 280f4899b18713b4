"""Clues of a logic grid puzzle: their words, what they mean, and their words read back. Knows no solver.

Kinds and wording are those of the authors of arXiv 2305.18654 (nouhadziri/faith-and-fate, logic_puzzle/clues.py),
whose "direct left" is here also said from the right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evals.tasks.compositional.puzzle.attributes import PHRASES

HOUSES = ("first", "second", "third", "fourth", "fifth")
SIZES = range(2, len(HOUSES) + 1)  # houses, and attributes, that a puzzle may have


@dataclass(frozen=True, order=True)
class Item:
    """A value of an attribute; in a solution it has one house."""

    attribute: str
    value: str

    @property
    def phrase(self) -> str:
        """How clues call whoever has it."""
        return PHRASES[self.attribute][self.value]


# Kind of clue to its words; {b} is another item, or a house.
WORDS: dict[str, str] = {
    "found at": "{a} is in the {b} house.",
    "not at": "{a} is not in the {b} house.",
    "same house": "{a} is {b}.",
    "directly left": "{a} is directly left of {b}.",
    "directly right": "{a} is directly right of {b}.",
    "beside": "{a} and {b} are next to each other.",
    "left of": "{a} is somewhere to the left of {b}.",
    "right of": "{a} is somewhere to the right of {b}.",
    "one between": "There is one house between {a} and {b}.",
    "two between": "There are two houses between {a} and {b}.",
}
# Kind of clue to whether the houses of its item and of the other (or the one that it names) agree with it.
MEANS: dict[str, Callable[[int, int], bool]] = {
    "found at": lambda a, b: a == b,
    "not at": lambda a, b: a != b,
    "same house": lambda a, b: a == b,
    "directly left": lambda a, b: a + 1 == b,
    "directly right": lambda a, b: a == b + 1,
    "beside": lambda a, b: abs(a - b) == 1,
    "left of": lambda a, b: a < b,
    "right of": lambda a, b: a > b,
    "one between": lambda a, b: abs(a - b) == 2,
    "two between": lambda a, b: abs(a - b) == 3,
}


@dataclass(frozen=True)
class Clue:
    """One thing that is known.

    Attributes:
        kind: key of ``WORDS``.
        item: whose house it speaks of.
        other: the item, or the number of the house (1 is on the left), that it is compared with.
    """

    kind: str
    item: Item
    other: Item | int

    @property
    def text(self) -> str:
        """The clue in the paper's words."""
        other = HOUSES[self.other - 1] if isinstance(self.other, int) else self.other.phrase
        said = WORDS[self.kind].format(a=self.item.phrase, b=other)
        return said[0].upper() + said[1:]

    def allows(self, house: int, other: int = 0) -> bool:
        """Whether it holds where its item is in ``house`` and the other item in ``other``."""
        return MEANS[self.kind](house, self.other if isinstance(self.other, int) else other)


def parse_clue(text: str, items: Sequence[Item]) -> Clue:
    """The clue that a text says of some items, whatever its case. Raises ValueError where it says none."""
    phrases = {item.phrase.lower(): item for item in items}
    ordinals = {word: number for number, word in enumerate(HOUSES, start=1)}
    someone = "|".join(re.escape(phrase) for phrase in phrases)
    for kind, words in WORDS.items():
        second = "|".join(HOUSES) if kind in ("found at", "not at") else someone
        pattern = re.escape(words.lower().rstrip("."))
        pattern = pattern.replace(re.escape("{a}"), f"(?P<a>{someone})").replace(re.escape("{b}"), f"(?P<b>{second})")
        if found := re.fullmatch(pattern + r"\.?", " ".join(text.lower().split())):
            other = found["b"]
            return Clue(kind, phrases[found["a"]], ordinals[other] if other in ordinals else phrases[other])
    raise ValueError(f"clue: expected a clue about the items of this puzzle, got {text!r}; use the wording of the task")
