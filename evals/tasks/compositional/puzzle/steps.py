"""A puzzle solved step by step, from the smallest sets of clues that fill a cell: its scratchpad and its graph.

Following arXiv 2305.18654 (appendix on the puzzle; nouhadziri/faith-and-fate, logic_puzzle/graph): each step takes
the fewest clues that settle at least one more cell, and fills all cells that they settle. Theirs carries the clues of
earlier steps along; here a step uses its own clues and the cells filled before, and nothing else. So what a cell was
made of is known, and the same derivation can be run again on what a model said of these cells.

A cell is a node. It says of an item in which house it is ("the Animal in house 2 is cat" is cat = 2): what follows
from a wrong house is then often another house, rather than nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from evals.tasks.compositional.graph import Graph, Node
from evals.tasks.compositional.puzzle.clues import Item
from evals.tasks.compositional.puzzle.riddle import Riddle
from evals.tasks.compositional.puzzle.sat import Facts


@dataclass(frozen=True)
class Cell:
    """An item found in a step.

    Attributes:
        item, house: what was found.
        parents: cells of earlier steps that it takes, beside the step's clues.
        last: whether it is what is left of an attribute: ``parents`` are then all the others, some of them of the same
            step, and no clue is taken.
    """

    item: Item
    house: int
    parents: tuple[Item, ...]
    last: bool = False


@dataclass(frozen=True)
class Step:
    """Some clues (by place, from 0), and the cells that they settle where those of earlier steps are known."""

    clues: tuple[int, ...]
    cells: tuple[Cell, ...]


@lru_cache(maxsize=512)
def solve(riddle: Riddle) -> tuple[Step, ...]:
    """The steps of a puzzle with one solution. Raises ValueError for any other."""
    facts = Facts(riddle)
    every = range(len(riddle.clues))
    solution = facts.model(every)
    if solution is None or facts.possible(every, {}, [facts.differs(solution)]):
        raise ValueError("puzzle: expected exactly one solution, got none or more; give all clues")
    return tuple(_Steps(facts, solution))


class _Steps:
    """Finds steps. Models of few broken clues are kept: what settles a cell breaks all those that put it elsewhere."""

    def __init__(self, facts: Facts, solution: Mapping[Item, int]) -> None:
        self.facts, self.solution = facts, solution
        self.items = tuple(solution)
        self._models: list[tuple[Mapping[Item, int], int]] = []  # with the clues that each breaks, as bits

    def __iter__(self) -> Iterator[Step]:
        known: dict[Item, int] = {}
        while len(known) < len(self.items):
            self._models = [(m, broken) for m, broken in self._models if all(m[i] == at for i, at in known.items())]
            step = Step(*self._fill(self._fewest(known), known))
            known |= {cell.item: cell.house for cell in step.cells}
            yield step

    def _fill(self, clues: tuple[int, ...], known: Mapping[Item, int]) -> tuple[tuple[int, ...], tuple[Cell, ...]]:
        """The cells that some clues settle, those that are what is left of their attribute behind the others.

        Items of an attribute that no clue of the step speaks of can change places, so at most one of them is settled.
        """
        spoken = {item for place in clues for item in (self.facts.clues[place].item, self.facts.clues[place].other)}
        ordered = sorted(self.items, key=lambda item: self.solution[item])  # house by house, as the table has them
        new = [i for i in ordered if i not in known and self.facts.forces(clues, known, i, self.solution[i])]
        found = {*known, *new}
        left = [i for i in new if i not in spoken and found.issuperset(self._others(i))]
        said = [Cell(i, self.solution[i], self._parents(clues, known, i)) for i in new if i not in left]
        return clues, (*said, *(Cell(i, self.solution[i], self._others(i), last=True) for i in left))

    def _others(self, item: Item) -> tuple[Item, ...]:
        return tuple(other for other in self.items if other.attribute == item.attribute and other != item)

    def _fewest(self, known: Mapping[Item, int]) -> tuple[int, ...]:
        """The first of the smallest sets of clues that settle a cell."""
        opened = [item for item in self.items if item not in known]
        for size in range(1, len(self.facts.clues) + 1):
            found = [clues for item in opened if (clues := self._settling(item, known, size)) is not None]
            if found:
                return min(found)
        raise AssertionError("all clues settle all cells")

    def _settling(self, item: Item, known: Mapping[Item, int], size: int) -> tuple[int, ...] | None:
        """The first set of so many clues that settles an item: one that meets what each model elsewhere breaks."""
        house = self.solution[item]
        masks = list({broken for model, broken in self._models if model[item] != house})
        while (clues := _meet(masks, size, len(self.facts.clues))) is not None:
            other = self.facts.model(clues, known, [-self.facts.at(item, house)])
            if other is None:
                return clues
            masks.append(self._grow(clues, known, item, other))
        return None

    def _grow(self, clues: Sequence[int], known: Mapping[Item, int], item: Item, model: Mapping[Item, int]) -> int:
        """Change a model so that it breaks no clue that it need not; what it breaks."""
        elsewhere = [-self.facts.at(item, self.solution[item])]
        kept, broken = list(clues), 0
        for place, clue in enumerate(self.facts.clues):
            if clue.allows(model[clue.item], 0 if isinstance(clue.other, int) else model[clue.other]):
                kept.append(place)
            elif (better := self.facts.model([*kept, place], known, elsewhere)) is not None:
                kept.append(place)
                model = better
            else:
                broken |= 1 << place
        self._models.append((model, broken))
        return broken

    def _parents(self, clues: Sequence[int], known: Mapping[Item, int], item: Item) -> tuple[Item, ...]:
        """Cells without one of which the item is open again; those found last are spared first."""
        parents = dict(known)
        for other in reversed(list(known)):
            fewer = {each: house for each, house in parents.items() if each != other}
            if self.facts.forces(clues, fewer, item, self.solution[item]):
                parents = fewer
        return tuple(parents)


def _meet(masks: Sequence[int], size: int, clues: int, start: int = 0) -> tuple[int, ...] | None:
    """The first ``size`` numbers from ``start`` up to ``clues``, in lexicographic order, that meet all sets of bits."""
    if not masks:
        return tuple(range(start, start + size)) if start + size <= clues else None
    apart, met = 0, 0  # sets that share no number need one each
    for mask in sorted(masks, key=int.bit_count):
        if not mask & met:
            apart, met = apart + 1, met | mask
    if apart > size:
        return None
    for place in range(start, min(clues - size + 1, min(masks, key=int.bit_length).bit_length())):
        rest = _meet([mask for mask in masks if not mask >> place & 1], size - 1, clues, place + 1)
        if rest is not None:
            return place, *rest
    return None


def name(item: Item) -> str:
    """An item as a node is called: "Animal cat"."""
    return f"{item.attribute} {item.value}"


def build(riddle: Riddle) -> Graph:
    """The computation graph: a node for each cell, behind those that it was made of."""
    facts = Facts(riddle)
    nodes = []
    for step in solve(riddle):
        for cell in step.cells:
            parents = tuple(name(parent) for parent in cell.parents)
            clues = () if cell.last else step.clues
            kind = "unique values" if cell.last else "1 clue" if len(clues) == 1 else f"{len(clues)} clues"
            nodes.append(Node(name(cell.item), _Derive(facts, clues, cell), parents, kind))
    return Graph(tuple(nodes))


@dataclass(frozen=True)
class _Derive:
    """The house of a cell's item, by the step's clues, from any houses of the cells that it was made of."""

    facts: Facts
    clues: tuple[int, ...]
    cell: Cell

    def __call__(self, *houses: int) -> int:
        """Raises ValueError where nothing follows: houses that contradict the clues, or leave the cell open."""
        known = dict(zip(self.cell.parents, houses, strict=True))
        if any(house not in range(1, self.facts.houses + 1) for house in houses):
            raise ValueError("a house that there is not")
        model = self.facts.model(self.clues, known)
        if model is None or not self.facts.forces(self.clues, known, self.cell.item, model[self.cell.item]):
            raise ValueError("nothing follows")
        return model[self.cell.item]


def scratchpad(riddle: Riddle) -> str:
    """The reasoning in the paper's words, a line a step."""
    lines = []
    for number, step in enumerate(solve(riddle), start=1):
        first = "First" if number == 1 else "Then"
        quoted = " ".join(f"<{riddle.clues[place].text}>" for place in step.clues)
        if len(step.clues) > 1:
            how = f"{first} combining clues: {quoted} Unique Values Rules and the fixed table structure."
        else:
            how = f"{first} applying clue: {quoted}" + (" and Unique Values" if len(step.cells) > 1 else "")
        cells = " ".join(f"The {c.item.attribute} in house {c.house} is {c.item.value}." for c in step.cells)
        lines.append(f"Step {number}: {how} We know that {cells}")
    return "\n".join([*lines, "The puzzle is solved."])
