"""Puzzles with exactly one solution and no clue too many, each following from a seed and a number.

A solution is drawn, all clues that hold in it are made, and one after another is dropped where the rest still leave
one solution (the method of arXiv 2305.18654, appendix; its code does so in batches). In what order they are tried is
random, weighted so that no kind crowds out the others: there are many more ways to say "not at" than "same house".
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from itertools import product

import numpy as np

from evals.tasks.compositional.puzzle.attributes import ATTRIBUTES, NAME
from evals.tasks.compositional.puzzle.clues import MEANS, SIZES, Clue, Item
from evals.tasks.compositional.puzzle.riddle import Riddle, grid
from evals.tasks.compositional.puzzle.sat import Facts
from evals.tasks.compositional.splits import belongs

# How readily a kind is kept, beside the others: as in the authors' puzzles most are of the first five here; theirs have
# no "not at", and each pair of neighbours is said in one way.
_KEPT = {"found at": 3.0, "same house": 6.0, "directly left": 2.0, "directly right": 2.0, "beside": 2.0}
_ELSE = 0.5
_FEW = 1_000_000  # grids of a size, up to which puzzles are told apart by comparing them
_TRIES = 200  # draws in a row that are none but known ones, before a size is taken to have no more


def parse_sizes(text: str) -> tuple[tuple[int, int], ...]:
    """Houses and attributes of "2x2,3x4" (or "2x2+3x4", where a comma ends a setting), 2 to 5 each.

    Raises ValueError otherwise.
    """
    sizes = []
    for part in text.replace("+", ",").split(","):
        houses, _, attributes = part.strip().partition("x")
        numbers = [int(number) if number.isdecimal() else 0 for number in (houses, attributes)]
        if not set(numbers) <= set(SIZES):
            raise ValueError(
                f"sizes: expected houses x attributes, {SIZES[0]} to {SIZES[-1]} each, got {part.strip()!r}; "
                "write them so: 2x2,3x4"
            )
        if (numbers[0], numbers[1]) in sizes:  # each would bring the same puzzles
            raise ValueError(f"sizes: expected each once, got {part.strip()!r} twice in {text!r}; leave one out")
        sizes.append((numbers[0], numbers[1]))
    return tuple(sizes)


def make(houses: int, attributes: int, seed: int, number: int, split: str = "all") -> tuple[Riddle, dict[Item, int]]:
    """A puzzle and its solution.

    Puzzles of one size, seed and split with different numbers differ in their grid or their clues: small sizes are
    compared with all earlier ones; of larger ones there are so many that two alike are not to be expected.
    Which split a puzzle is of follows from its hidden grid alone, so no grid of a test is ever trained on.

    Raises:
        ValueError: a small size of which there are not as many puzzles.
    """
    if _grids(houses, attributes) <= _FEW:
        return _Listed.of(houses, attributes, seed, split)[number]
    rng = np.random.default_rng((seed, houses, attributes, number))
    return next(_draws(rng, houses, attributes, split))


class _Listed:
    """Puzzles of a small size in order, none twice, made when asked for."""

    def __init__(self, houses: int, attributes: int, seed: int, split: str) -> None:
        self.size = f"{houses}x{attributes}"
        self._draws = _draws(np.random.default_rng((seed, houses, attributes)), houses, attributes, split)
        self._made: list[tuple[Riddle, dict[Item, int]]] = []
        self._seen: set[tuple[str, frozenset[Clue]]] = set()

    @staticmethod
    @lru_cache(maxsize=64)
    def of(houses: int, attributes: int, seed: int, split: str) -> _Listed:
        """The list of a size."""
        return _Listed(houses, attributes, seed, split)

    def __getitem__(self, number: int) -> tuple[Riddle, dict[Item, int]]:
        missed = 0
        while number >= len(self._made):
            riddle, solution = next(self._draws)
            key = grid(riddle, solution), frozenset(riddle.clues)
            missed = missed + 1 if key in self._seen else 0
            if not missed:
                self._seen.add(key)
                self._made.append((riddle, solution))
            elif missed > _TRIES:
                raise ValueError(
                    f"puzzle: expected at most about {len(self._made)} puzzles of size {self.size} that differ, got "
                    f"number {number}; ask for fewer documents, or for more sizes"
                )
        return self._made[number]


def _grids(houses: int, attributes: int) -> int:
    """How many grids there are of a size: choices of attributes in any order, and values in any houses."""
    return math.comb(len(ATTRIBUTES) - 1, attributes - 1) * math.factorial(houses) ** attributes


def _draws(
    rng: np.random.Generator, houses: int, attributes: int, split: str
) -> Iterator[tuple[Riddle, dict[Item, int]]]:
    """Puzzles of a split without end."""
    others = [name for name in ATTRIBUTES if name != NAME]
    while True:
        names = [NAME, *(others[place] for place in rng.permutation(len(others))[: attributes - 1])]
        values = {name: [value for value, _ in ATTRIBUTES[name][1][:houses]] for name in names}
        named = tuple((name, tuple(values[name][place] for place in rng.permutation(houses))) for name in names)
        riddle = Riddle(named, ())
        solution = {
            Item(name, value): int(house) + 1
            for name in names
            for value, house in zip(values[name], rng.permutation(houses), strict=True)
        }
        if belongs(grid(riddle, solution), split):
            yield Riddle(named, _fewest(rng, riddle, solution)), solution


def _fewest(rng: np.random.Generator, riddle: Riddle, solution: dict[Item, int]) -> tuple[Clue, ...]:
    """Clues that leave one solution and of which none can be dropped, in random order."""
    clues = candidates(riddle, solution)
    counts = Counter(clue.kind for clue in clues)
    # Sampling without replacement by weight (Efraimidis and Spirakis 2006): the largest keys are kept longest.
    weights = np.array([_KEPT.get(clue.kind, _ELSE) / counts[clue.kind] for clue in clues])
    order = np.argsort(np.log(rng.random(len(clues))) / weights)  # those to drop first come first
    facts = Facts(riddle, clues)
    differs = facts.differs(solution)
    needed: list[int] = []
    rest = [int(place) for place in order]
    while rest:
        # Dropping them one by one would end at the first without which there is another solution: found by halving.
        low, high = 0, len(rest)  # low can be dropped
        while low < high:
            middle = (low + high + 1) // 2
            if facts.possible([*needed, *rest[middle:]], {}, [differs]):
                high = middle - 1
            else:
                low = middle
        needed += rest[low : low + 1]
        rest = rest[low + 1 :]
    chosen = sorted(needed)
    return tuple(clues[chosen[place]] for place in rng.permutation(len(chosen)))


def candidates(riddle: Riddle, solution: dict[Item, int]) -> list[Clue]:
    """All clues that hold in a solution, but for those that only say another one the other way round."""
    houses = range(1, riddle.houses + 1)
    clues = [
        Clue(kind, item, house)
        for item, house in product(riddle.items, houses)
        for kind in ("found at", "not at")
        if MEANS[kind](solution[item], house)
    ]
    symmetric = {"same house", "beside", "one between", "two between"}
    for one, other in product(range(len(riddle.items)), repeat=2):
        a, b = riddle.items[one], riddle.items[other]
        for kind, means in MEANS.items():
            if kind in ("found at", "not at") or one == other or not means(solution[a], solution[b]):
                continue
            if kind == "same house" and a.attribute == b.attribute:
                continue
            if kind not in symmetric or one < other:
                clues.append(Clue(kind, a, b))
    return clues
