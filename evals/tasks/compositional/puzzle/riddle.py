"""A logic grid puzzle: houses, attributes and clues; its text, its table, and both read back. Knows no solver."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from evals.tasks.compositional.puzzle.attributes import ATTRIBUTES
from evals.tasks.compositional.puzzle.clues import SIZES, Clue, Item, parse_clue

Solution = Mapping[Item, int]  # each item's house, 1 on the left

_INTRO = (
    "This is a logic puzzle. There are {n} houses (numbered 1 on the left, {n} on the right), from the perspective of "
    "someone standing across the street from them. Each has a different person in them. They have different "
    "characteristics:\n"
)


@dataclass(frozen=True)
class Riddle:
    """A puzzle.

    Attributes:
        attributes: names with their values, as many as there are houses, in the order in which the text has them.
        clues: what is known, in the order of their numbers (from 1).
    """

    attributes: tuple[tuple[str, tuple[str, ...]], ...]
    clues: tuple[Clue, ...]

    @property
    def houses(self) -> int:
        """How many there are."""
        return len(self.attributes[0][1])

    @property
    def size(self) -> str:
        """Houses by attributes, such as "3x4"."""
        return f"{self.houses}x{len(self.attributes)}"

    @cached_property
    def items(self) -> tuple[Item, ...]:
        """All values, attribute by attribute."""
        return tuple(Item(name, value) for name, values in self.attributes for value in values)

    @property
    def setting(self) -> str:
        """What there is, without the clues."""
        lines = (f" - {ATTRIBUTES[name][0]}: {', '.join(values)}\n" for name, values in self.attributes)
        return _INTRO.format(n=self.houses) + "".join(lines)

    @property
    def text(self) -> str:
        """The puzzle in the paper's words: setting and numbered clues."""
        return self.setting + "\n" + "\n".join(f"{n}. {clue.text}" for n, clue in enumerate(self.clues, start=1))

    @property
    def blank(self) -> str:
        """The table to be filled in."""
        line = "$ House: ___ " + " ".join(f"$ {name}: ___" for name, _ in self.attributes)
        return "\n".join([line] * self.houses)

    def table(self, solution: Solution) -> str:
        """The table filled in, a line a house."""
        lines = []
        for house in range(1, self.houses + 1):
            cells = {item.attribute: item.value for item in self.items if solution[item] == house}
            lines.append(f"$ House: {house} " + " ".join(f"$ {name}: {cells[name]}" for name, _ in self.attributes))
        return "\n".join(lines)


def grid(riddle: Riddle, solution: Solution) -> str:
    """The hidden grid of a puzzle, whatever the order of its attributes and whatever its clues."""
    rows = sorted(
        f"{name}: " + ", ".join(sorted(values, key=lambda value: solution[Item(name, value)]))
        for name, values in riddle.attributes
    )
    return "; ".join(rows)


def parse_riddle(text: str) -> Riddle:
    """The puzzle that ``Riddle.text`` says. Raises ValueError where it says none."""
    by_text = {about: name for name, (about, _) in ATTRIBUTES.items()}
    found = re.findall(r"^ ?- ([^:\n]+): (.+)$", text, flags=re.MULTILINE)
    attributes = tuple((by_text[about], tuple(values.split(", "))) for about, values in found if about in by_text)
    houses = {len(values) for _, values in attributes}
    if len(attributes) not in SIZES or len(houses) != 1 or not houses <= set(SIZES):
        raise ValueError(
            f"puzzle: expected {SIZES[0]} to {SIZES[-1]} houses and attributes, as the task words them, got "
            f"{text[:80]!r}; give the text of a puzzle"
        )
    riddle = Riddle(attributes, ())
    clues = re.findall(r"^\d+\. (.+)$", text, flags=re.MULTILINE)
    return Riddle(attributes, tuple(parse_clue(clue, riddle.items) for clue in clues))
