"""What follows from some clues of a puzzle, and from houses that are known already: by a SAT solver.

One variable for each item and house. "Each item has one house, each house one value of an attribute" always holds;
each clue holds where it is asked to, by an assumption. So one solver answers all questions of a puzzle.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from typing import Any

from evals.tasks.compositional.puzzle.clues import MEANS, Clue, Item
from evals.tasks.compositional.puzzle.riddle import Riddle


class Facts:
    """A puzzle's clues (or more of them than it will have) in a solver.

    Args:
        riddle: houses and attributes.
        clues: what may be assumed, by place; the riddle's own, if they are not given.
    """

    def __init__(self, riddle: Riddle, clues: Sequence[Clue] | None = None) -> None:
        from pysat.solvers import Minisat22

        self.riddle, self.houses = riddle, riddle.houses
        self.clues = tuple(riddle.clues if clues is None else clues)
        self._before = {item: place * self.houses for place, item in enumerate(riddle.items)}
        self._first = len(riddle.items) * self.houses + 1  # variable of the first clue
        self._solver: Any = Minisat22()
        self._rules()
        for place, clue in enumerate(self.clues):
            self._clue(place, clue)

    def at(self, item: Item, house: int) -> int:
        """The literal that says that an item is in a house."""
        return self._before[item] + house

    def model(
        self, clues: Collection[int], known: Mapping[Item, int] | None = None, beside: Sequence[int] = ()
    ) -> dict[Item, int] | None:
        """A house for each item under some clues (by place), known houses and further literals; None if none fit."""
        if not self.possible(clues, known or {}, beside):
            return None
        said = self._solver.get_model()
        rows = ((item, said[before : before + self.houses]) for item, before in self._before.items())
        return {item: 1 + max(range(self.houses), key=row.__getitem__) for item, row in rows}  # one literal is positive

    def possible(self, clues: Collection[int], known: Mapping[Item, int], beside: Sequence[int] = ()) -> bool:
        """Whether there is such a model."""
        assumed = [self._first + place for place in clues]
        assumed += [self._before[item] + house for item, house in known.items()]
        return bool(self._solver.solve(assumptions=[*assumed, *beside]))

    def forces(self, clues: Collection[int], known: Mapping[Item, int], item: Item, house: int) -> bool:
        """Whether an item can be in no other house."""
        return not self.possible(clues, known, [-self.at(item, house)])

    def differs(self, solution: Mapping[Item, int]) -> int:
        """A new literal that says that some item is elsewhere than in ``solution``."""
        literal = int(max(self._solver.nof_vars(), self._first + len(self.clues) - 1)) + 1
        self._solver.add_clause([-literal, *(-self.at(item, house) for item, house in solution.items())])
        return literal

    def _rules(self) -> None:
        houses = range(1, self.houses + 1)
        for item in self._before:
            self._one([self.at(item, house) for house in houses])
        for name, values in self.riddle.attributes:
            for house in houses:
                self._one([self.at(Item(name, value), house) for value in values])

    def _one(self, literals: Sequence[int]) -> None:
        self._solver.add_clause(list(literals))
        for one, other in combinations(literals, 2):
            self._solver.add_clause([-one, -other])

    def _clue(self, place: int, clue: Clue) -> None:
        """Where the clue holds: for each house of one item those that the other may have."""
        houses, said, means = range(1, self.houses + 1), -(self._first + place), MEANS[clue.kind]
        one = self._before[clue.item]
        for house in houses:
            if isinstance(clue.other, int):
                if not means(house, clue.other):
                    self._solver.add_clause([said, -(one + house)])
                continue
            two = self._before[clue.other]
            self._solver.add_clause([said, -(one + house), *(two + other for other in houses if means(house, other))])
            self._solver.add_clause([said, -(two + house), *(one + other for other in houses if means(other, house))])
