"""People who go from room to room and carry things about: bAbI's tasks 2, 3, 5, 7 and 8, and 6 without the things.

A world as the originals have it: where people and things are at first is not told, sentences come in pairs, and after
a pair there may be a question: of what was told in the last five sentences, and of things put down rather than of
those still carried. How often which action is taken depends on how many things are held. These rules and rates are
those found in the original files. Knows nothing of files or solvers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from evals.tasks.babi.story import DROPS, GETS, GIVERS, GIVES, MOVES, NUMBERS, OBJECTS, PEOPLE, RECENT, ROOMS, Story

# By the number of things held before an action: how often somebody gets, drops and gives a thing; else somebody moves.
_Rates = tuple[tuple[float, float, float], ...]
_CARRY: _Rates = ((0.31, 0, 0), (0.20, 0.19, 0), (0.12, 0.305, 0), (0, 0.37, 0))
_GIVE: _Rates = ((0.30, 0, 0), (0.16, 0.145, 0.46), (0.09, 0.22, 0.44), (0, 0.27, 0.44))


_Thing = TypeVar("_Thing")


@dataclass
class World:
    """What is so, and what of it was told.

    Args:
        rng: all its randomness.
        people: their names.
        rates: of actions, by the number of things held.
        there: how often "there" stands behind a thing that was got.

    Attributes:
        facts: what was told so far.
        place: where people and things are; told or not.
        told: the fact that said where a person is.
        holder: who has a thing.
        got: the fact by which a thing was last got.
        tie: the fact by which a thing was last got or dropped.
        visits: known places of a thing since it was last got, with the fact that tells of each.
        known: how many facts about what a person has.
        gifts: fact, giver, thing, getter.
    """

    rng: np.random.Generator
    people: tuple[str, ...] = PEOPLE
    rates: _Rates = _CARRY
    there: float = 1.0
    facts: list[str] = field(default_factory=list)
    place: dict[str, str] = field(default_factory=dict)
    told: dict[str, int] = field(default_factory=dict)
    holder: dict[str, str] = field(default_factory=dict)
    got: dict[str, int] = field(default_factory=dict)
    tie: dict[str, int] = field(default_factory=dict)
    visits: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    known: dict[str, list[int]] = field(default_factory=dict)
    held: dict[str, dict[str, bool]] = field(default_factory=dict)
    gifts: list[tuple[int, str, str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.place = {name: self.pick(ROOMS) for name in (*self.people, *OBJECTS)}

    def pick(self, options: tuple[str, ...] | list[str]) -> str:
        """One of them, each as likely."""
        return options[int(self.rng.integers(len(options)))]

    def pair(self) -> None:
        """Two sentences."""
        self.act()
        self.act()

    def act(self) -> None:
        """One sentence."""
        get, drop, give = self.rates[len(self.holder)]
        chance = self.rng.random()
        if chance < get:
            done = self._get()
        elif chance < get + drop:
            done = self._drop()
        else:
            done = chance < get + drop + give and self._give()
        if not done:
            self._move()

    def _move(self) -> None:
        person = self.pick(self.people)
        room = self.pick([room for room in ROOMS if room != self.place[person]])
        self.place[person] = room
        self.told[person] = len(self.facts)
        for thing, holder in self.holder.items():
            if holder == person:
                self.place[thing] = room
                self.visits[thing].append((room, len(self.facts)))
        self.facts.append(f"{person} {self.pick(MOVES)} the {room}.")

    def _get(self) -> bool:
        can = [(p, o) for o in OBJECTS if o not in self.holder for p in self.people if self.place[p] == self.place[o]]
        if not can:
            return False
        person, thing = can[int(self.rng.integers(len(can)))]
        self.holder[thing] = person
        self.got[thing] = self.tie[thing] = len(self.facts)
        self.visits[thing] = [(self.place[person], self.told[person])] if person in self.told else []
        self._note(person, thing, True)
        where = " there" if self.rng.random() < self.there else ""
        self.facts.append(f"{person} {self.pick(GETS)} the {thing}{where}.")
        return True

    def _drop(self) -> bool:
        thing = self.pick(sorted(self.holder))
        person = self.holder.pop(thing)
        self.place[thing] = self.place[person]
        self.tie[thing] = len(self.facts)
        self._note(person, thing, False)
        where = " there" if self.rng.random() < 0.2 else ""
        self.facts.append(f"{person} {self.pick(DROPS)} the {thing}{where}.")
        return True

    def _give(self) -> bool:
        can = [
            (o, other)
            for o, person in sorted(self.holder.items())
            for other in self.people
            if other != person and self.place[other] == self.place[person]
        ]
        if not can:
            return False
        thing, other = can[int(self.rng.integers(len(can)))]
        person = self.holder[thing]
        self.holder[thing] = other
        self.gifts.append((len(self.facts), person, thing, other))
        self._note(person, thing, False)
        self._note(other, thing, True)
        self.facts.append(f"{person} {self.pick(GIVES)} the {thing} to {other}.")
        return True

    def _note(self, person: str, thing: str, has: bool) -> None:
        self.known.setdefault(person, []).append(len(self.facts))
        self.held.setdefault(person, {})[thing] = has

    def recent(self, *support: int) -> bool:
        """Whether the last of these facts is one that the originals would ask of."""
        return max(support) >= len(self.facts) - RECENT

    def story(self, question: str, answer: str, support: tuple[int, ...]) -> Story:
        """What was told, with this question."""
        return Story(tuple(self.facts), question, answer, tuple(sorted(set(support))))


def where_object(world: World) -> Story | None:
    """Task 2: a thing put down at a known place or, less often, carried to one."""
    dropped: list[str] = []
    carried: list[str] = []
    for name, visits in sorted(world.visits.items()):
        if not visits or not world.recent(visits[-1][1], world.tie[name]):
            continue
        if name not in world.holder:
            dropped.append(name)
        elif visits[-1][1] > world.tie[name]:
            carried.append(name)
    thing = _either(world, dropped, carried, 0.6)
    if thing is None:
        return None
    return world.story(f"Where is the {thing}?", world.place[thing], (world.visits[thing][-1][1], world.tie[thing]))


def where_before(world: World) -> Story | None:
    """Task 3: a thing that somebody carried to one place and on to another."""
    dropped: list[tuple[str, int]] = []
    carried: list[tuple[str, int]] = []
    for thing, visits in sorted(world.visits.items()):
        for there in range(1, len(visits)):
            again = any(place == visits[there][0] for place, _ in visits[there + 1 :])
            if again or visits[there - 1][1] < world.got[thing] or not world.recent(visits[there][1], world.tie[thing]):
                continue
            (carried if thing in world.holder else dropped).append((thing, there))
    chosen = _either(world, dropped, carried, 0.33)
    if chosen is None:
        return None
    thing, there = chosen
    (before, first), (place, second) = world.visits[thing][there - 1 : there + 1]
    return world.story(f"Where was the {thing} before the {place}?", before, (first, second, world.tie[thing]))


def _either(world: World, dropped: list[_Thing], carried: list[_Thing], rate: float) -> _Thing | None:
    """One of ``dropped`` if there are any, or one of ``carried`` at this rate, or none."""
    if dropped and (not carried or world.rng.random() < 0.83):
        return dropped[int(world.rng.integers(len(dropped)))]
    if carried and (dropped or world.rng.random() < rate):
        return carried[int(world.rng.integers(len(carried)))]
    return None


def giving(world: World) -> Story | None:
    """Task 5: the last gift, unless one of the last facts is another that would answer the question too."""
    if not world.gifts or not world.recent(world.gifts[-1][0]):
        return None
    at, giver, thing, getter = world.gifts[-1]
    what = (f"What did {giver} give to {getter}?", thing)
    who = [(f"Who gave the {thing}?", giver), (f"Who gave the {thing} to {getter}?", giver)]
    whom = [(f"Who received the {thing}?", getter), (f"Who did {giver} give the {thing} to?", getter)]
    question, answer = [what, who[int(world.rng.integers(2))], whom[int(world.rng.integers(2))]][world.rng.integers(3)]
    others = [gift for gift in world.gifts[:-1] if world.recent(gift[0])]
    if question == what[0] and any((g[1], g[3]) == (giver, getter) and g[2] != thing for g in others):
        return None
    return world.story(question, answer, (at,))


def is_there(world: World) -> Story | None:
    """Task 6: whether somebody is in a room."""
    can = [person for person in sorted(world.told) if world.recent(world.told[person])]
    if not can:
        return None
    person = world.pick(can)
    room = world.place[person]
    if world.rng.random() < 0.5:
        room = world.pick([other for other in ROOMS if other != room])
    answer = "yes" if room == world.place[person] else "no"
    return world.story(f"Is {person} in the {room}?", answer, (world.told[person],))


def count(world: World) -> Story | None:
    """Task 7: how many things somebody carries."""
    person = _known(world)
    if person is None:
        return None
    held = sum(world.held[person].values())
    return world.story(f"How many objects is {person} carrying?", NUMBERS[held], tuple(world.known[person]))


def listing(world: World) -> Story | None:
    """Task 8: what somebody carries, in the order in which they first had it."""
    person = _known(world)
    if person is None:
        return None
    held = ",".join(thing for thing, has in world.held[person].items() if has)
    return world.story(f"What is {person} carrying?", held or "nothing", tuple(world.known[person]))


def _known(world: World) -> str | None:
    """Somebody who lately got, dropped, gave or received something."""
    can = [person for person in sorted(world.known) if world.recent(*world.known[person])]
    return world.pick(can) if can else None


def carrying_world(number: int, rng: np.random.Generator) -> World:
    """An empty world of the task."""
    if number == 3:
        return World(rng, there=0.2)
    if number == 5:
        return World(rng, GIVERS, _GIVE)
    return World(rng, rates=_GIVE if number in (7, 8) else _CARRY)
