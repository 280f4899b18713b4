"""Stories of bAbI's tasks 1 to 10, each from (seed, index) alone, without a file.

A text of five questions is told as the originals tell it, and one of its questions is the story: so stories are as
long, and facts as old, as in the original files. Worlds are in ``carrying`` and ``moving``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from evals.tasks.babi.carrying import (
    World,
    carrying_world,
    count,
    giving,
    is_there,
    listing,
    where_before,
    where_object,
)
from evals.tasks.babi.moving import Places
from evals.tasks.babi.story import OPPOSITE, ROOMS, Story

MADE = tuple(range(1, 11))
QUESTIONS = 5  # of one text, in the original files
_ASK: dict[int, Callable[[World], Story | None]] = {
    2: where_object,
    3: where_before,
    5: giving,
    6: is_there,
    7: count,
    8: listing,
}


def make(number: int, seed: int, index: int) -> Story:
    """The story of this number of a task (1 to 10). Raises ValueError for another task."""
    if number not in MADE:
        raise ValueError(
            f"number: expected a task from 1 to {MADE[-1]}, got {number}; give a folder of bAbI's files for the others"
        )
    rng = np.random.default_rng((seed, index, number))
    if number == 4:
        return _rooms(rng)
    wanted = int(rng.integers(QUESTIONS))
    if number in _ASK:
        world = carrying_world(number, rng)
        ask = _ASK[number]
        return _tell(world.pair, lambda: ask(world), wanted)
    places = Places(rng, number)
    return _tell(places.pair, places.ask, wanted)


def _tell(pair: Callable[[], None], ask: Callable[[], Story | None], wanted: int) -> Story:
    """Pairs of sentences until there was a question ``wanted`` times before."""
    while True:
        pair()
        story = ask()
        if story is not None and wanted == 0:
            return story
        wanted -= story is not None


def _rooms(rng: np.random.Generator) -> Story:
    """Task 4: three rooms in a row, told from either side; what is asked for is what a fact is about."""
    first, middle, last = (str(room) for room in rng.permutation(ROOMS)[:3])
    way = str(rng.choice(["north", "east"]))
    told = []
    for room, side in ((first, way), (last, OPPOSITE[way])):
        told.append((middle, OPPOSITE[side], room) if rng.random() < 1 / 3 else (room, side, middle))
    if rng.random() < 0.5:
        told.reverse()
    asked = int(rng.integers(2))
    answer, side, other = told[asked]
    if rng.random() < 0.5:
        question = f"What is {side} of the {other}?"
    else:
        question = f"What is the {other} {OPPOSITE[side]} of?"
    return Story(tuple(f"The {a} is {s} of the {b}." for a, s, b in told), question, answer, (asked,))
