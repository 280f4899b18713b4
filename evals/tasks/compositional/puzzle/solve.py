"""Puzzles solved without a SAT solver: the independent check of what the generator promises. Slow and plain.

``brute`` tries all ways to put values into houses; ``search`` rules houses out, clue by clue, and guesses where that
ends. Both know clues by what ``MEANS`` says alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, permutations, product

from evals.tasks.compositional.puzzle.clues import MEANS, Item
from evals.tasks.compositional.puzzle.riddle import Riddle

Rest = dict[Item, set[int]]  # houses that are left for each item


def brute(riddle: Riddle) -> Iterator[dict[Item, int]]:
    """All solutions, out of (houses!) ** attributes candidates: up to 4x4 or 5x3."""
    orders = list(permutations(range(1, riddle.houses + 1)))
    for chosen in product(orders, repeat=len(riddle.attributes)):
        houses = dict(zip(riddle.items, (house for order in chosen for house in order), strict=True))
        if holds(riddle, houses):
            yield houses


def holds(riddle: Riddle, houses: dict[Item, int]) -> bool:
    """Whether all clues hold."""
    return all(
        clue.allows(houses[clue.item], 0 if isinstance(clue.other, int) else houses[clue.other])
        for clue in riddle.clues
    )


def solutions(riddle: Riddle, most: int = 2) -> list[dict[Item, int]]:
    """At most so many solutions, by elimination and search; one where a puzzle is sound."""
    every = {item: set(range(1, riddle.houses + 1)) for item in riddle.items}
    columns = [
        [item for item in riddle.items if item.attribute == name] for name, _ in riddle.attributes
    ]  # what must stand in different houses
    return list(islice(_search(riddle, columns, every), most))


def _search(riddle: Riddle, columns: list[list[Item]], rest: Rest) -> Iterator[dict[Item, int]]:
    while _eliminate(riddle, columns, rest):
        pass
    if any(not houses for houses in rest.values()):
        return
    opened = [item for item in riddle.items if len(rest[item]) > 1]
    if not opened:
        houses = {item: next(iter(left)) for item, left in rest.items()}
        if holds(riddle, houses) and all(len({houses[i] for i in items}) == len(items) for items in columns):
            yield houses
        return
    item = min(opened, key=lambda item: len(rest[item]))
    for house in sorted(rest[item]):
        copied = {**{other: set(left) for other, left in rest.items()}, item: {house}}
        yield from _search(riddle, columns, copied)


def _eliminate(riddle: Riddle, columns: list[list[Item]], rest: Rest) -> bool:
    """Rule out houses by each clue, and by "a house has one value of an attribute"; whether any went."""
    before = sum(map(len, rest.values()))
    for clue in riddle.clues:
        means = MEANS[clue.kind]
        if isinstance(clue.other, int):
            rest[clue.item] = {house for house in rest[clue.item] if means(house, clue.other)}
            continue
        one, other = rest[clue.item], rest[clue.other]
        rest[clue.item] = {a for a in one if any(means(a, b) for b in other)}
        rest[clue.other] = {b for b in other if any(means(a, b) for a in one)}
    for items in columns:
        for item in items:
            others = [rest[other] for other in items if other is not item]
            rest[item] -= {house for left in others if len(left) == 1 for house in left}
            only = rest[item] - set().union(*others)
            if len(rest[item]) > 1 and only:
                rest[item] = only
    return sum(map(len, rest.values())) < before
