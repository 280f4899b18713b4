"""Answers questions of bAbI's tasks 1 to 10 from the sentences alone; shares no state with what makes stories.

Each task has a solver of its own that reads facts in order and gives the answer with the facts it rests on, as the
original files name them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from evals.tasks.babi.story import NUMBERS, OPPOSITE, RECENT

Solved = tuple[str, tuple[int, ...]]

_MOVE = re.compile(r"(\w+) (?:journeyed|moved|travelled|went|went back) to the (\w+)\.")
_GET = re.compile(r"(\w+) (?:got|grabbed|picked up|took) the (\w+)(?: there)?\.")
_DROP = re.compile(r"(\w+) (?:discarded|dropped|left|put down) the (\w+)(?: there)?\.")
_GIVE = re.compile(r"(\w+) (?:gave|handed|passed) the (\w+) to (\w+)\.")
_IS = re.compile(r"(\w+) is in the (\w+)\.")
_NOT = re.compile(r"(\w+) is (?:not|no longer) in the (\w+)\.")
_EITHER = re.compile(r"(\w+) is either in the (\w+) or the (\w+)\.")
_SIDE = re.compile(r"The (\w+) is (north|south|east|west) of the (\w+)\.")


def solve(number: int, facts: Sequence[str], question: str) -> Solved:
    """The answer to a question of task ``number`` (1 to 10), and the facts (from 0, rising) that it follows from.

    Raises ValueError for another task, a sentence the task does not have, or a question the facts do not answer.
    """
    if number not in _SOLVERS:
        raise ValueError(f"number: expected a task from 1 to {max(_SOLVERS)}, got {number}; only these are solved")
    try:
        answer, support = _SOLVERS[number](facts, question)
    except (KeyError, IndexError, StopIteration):
        raise ValueError(f"qa{number}: expected facts that answer {question!r}, got {len(facts)} that do not") from None
    return answer, tuple(sorted(set(support)))


def solutions(number: int, facts: Sequence[str], question: str) -> tuple[str, ...]:
    """All answers the facts allow, that of :func:`solve` first; more than one only in task 5.

    The original files ask of a gift among the last five facts. Where two of these fit ("What did Bill give to Jeff?",
    and he gave him two things), the label is nearly always the last; in 20 of 10,000 it is the one before, and nothing
    in the sentences says so.
    """
    answer, _ = solve(number, facts, question)
    if number != 5:
        return (answer,)
    recent = [gift for gift, at in _gifts(facts, question) if at >= len(facts) - RECENT]
    return tuple(dict.fromkeys([answer, *recent]))


def _asked(pattern: str, question: str) -> tuple[str, ...]:
    found = re.fullmatch(pattern, question.strip())
    if found is None:
        raise ValueError(f"question: expected {pattern!r}, got {question!r}; ask as the task does")
    return found.groups()


def _events(facts: Sequence[str], **forms: re.Pattern[str]) -> list[tuple[int, str, tuple[str, ...]]]:
    """(place, kind, names) of each fact. ValueError on one of another form."""
    events = []
    for at, fact in enumerate(facts):
        kinds = [(kind, found.groups()) for kind, form in forms.items() if (found := form.fullmatch(fact))]
        if not kinds:
            raise ValueError(f"fact {at}: expected one of the forms {', '.join(forms)}, got {fact!r}")
        events.append((at, *kinds[0]))
    return events


def _where(facts: Sequence[str], question: str) -> Solved:
    """Task 1: the last move."""
    (person,) = _asked(r"Where is (\w+)\?", question)
    last = {who: (place, at) for at, _, (who, place) in _events(facts, move=_MOVE)}
    return last[person][0], (last[person][1],)


def _visits(facts: Sequence[str], thing: str) -> list[tuple[str, int, int]]:
    """Known places of a thing in order: place, its carrier's move that led there, and the fact that ties the two.

    The tie is that it was put down again or, while it is still carried, that it was got.
    """
    carrier, tie, first = "", -1, 0  # who carries it, since which fact and since which visit
    where: dict[str, tuple[str, int]] = {}
    visits: list[tuple[str, int, int]] = []
    for at, kind, names in _events(facts, move=_MOVE, get=_GET, drop=_DROP):
        who = names[0]
        if kind == "move":
            where[who] = (names[1], at)
        elif names[1] != thing:
            continue
        elif kind == "get":
            carrier, tie, first = who, at, len(visits)
        else:
            visits[first:] = [(place, move, at) for place, move, _ in visits[first:]]
            carrier = ""
        if who == carrier and who in where and kind in ("move", "get"):
            place, move = where[who]
            if kind == "get" and visits and visits[-1][0] == place:  # where it was left; now told by another's move
                visits.pop()
                first -= 1
            visits.append((place, move, tie))
    return visits


def _where_object(facts: Sequence[str], question: str) -> Solved:
    """Task 2: where who has it is, or where it was put down."""
    (thing,) = _asked(r"Where is the (\w+)\?", question)
    place, move, tie = _visits(facts, thing)[-1]
    return place, (move, tie)


def _where_before(facts: Sequence[str], question: str) -> Solved:
    """Task 3: the place it was in before it last came to the one asked for."""
    thing, place = _asked(r"Where was the (\w+) before the (\w+)\?", question)
    visits = _visits(facts, thing)
    last = next(n for n in range(len(visits) - 1, 0, -1) if visits[n][0] == place)
    return visits[last - 1][0], (visits[last - 1][1], visits[last][1], visits[last][2])


def _rooms(facts: Sequence[str], question: str) -> Solved:
    """Task 4: two-argument relations between rooms."""
    sides = [(at, names[0], names[1], names[2]) for at, _, names in _events(facts, side=_SIDE)]
    known = {(way, other): (one, at) for at, one, way, other in sides}
    known |= {(OPPOSITE[way], one): (other, at) for at, one, way, other in sides}
    if question.startswith("What is the "):
        room, way = _asked(r"What is the (\w+) (\w+) of\?", question)
        way = OPPOSITE[way]
    else:
        way, room = _asked(r"What is (\w+) of the (\w+)\?", question)
    answer, at = known[way, room]
    return answer, (at,)


_GIVING = (
    (r"What did (?P<giver>\w+) give to (?P<getter>\w+)\?", "thing"),
    (r"Who gave the (?P<thing>\w+)\?", "giver"),
    (r"Who gave the (?P<thing>\w+) to (?P<getter>\w+)\?", "giver"),
    (r"Who received the (?P<thing>\w+)\?", "getter"),
    (r"Who did (?P<giver>\w+) give the (?P<thing>\w+) to\?", "getter"),
)


def _gifts(facts: Sequence[str], question: str) -> list[tuple[str, int]]:
    """What each gift that fits the question would have it answer, and its fact; the last gift first."""
    gifts = [
        (dict(zip(("giver", "thing", "getter"), names, strict=True)), at)
        for at, kind, names in _events(facts, move=_MOVE, get=_GET, drop=_DROP, give=_GIVE)
        if kind == "give"
    ]
    for form, wanted in _GIVING:
        if found := re.fullmatch(form, question):
            given = found.groupdict()
            return [(gift[wanted], at) for gift, at in reversed(gifts) if given.items() <= gift.items()]
    raise ValueError(f"question: expected one about giving, got {question!r}; ask as the task does")


def _giving(facts: Sequence[str], question: str) -> Solved:
    """Task 5: the last gift that fits."""
    answer, at = _gifts(facts, question)[0]
    return answer, (at,)


def _is_there(facts: Sequence[str], question: str) -> Solved:
    """Task 6: yes or no, by the last move."""
    person, place = _asked(r"Is (\w+) in the (\w+)\?", question)
    moves = [(names, at) for at, kind, names in _events(facts, move=_MOVE, get=_GET, drop=_DROP) if kind == "move"]
    last = {who: (where, at) for (who, where), at in moves}
    return "yes" if last[person][0] == place else "no", (last[person][1],)


def _holding(facts: Sequence[str], person: str) -> tuple[list[str], tuple[int, ...]]:
    """What a person has, in the order it was first got, and all facts about what they had."""
    held: dict[str, bool] = {}
    support = []
    for at, kind, names in _events(facts, move=_MOVE, get=_GET, drop=_DROP, give=_GIVE):
        if kind == "move" or person not in (names[0], *names[2:]):
            continue
        support.append(at)
        held[names[1]] = kind == "get" or (kind == "give" and names[2] == person)
    return [thing for thing, has in held.items() if has], tuple(support)


def _count(facts: Sequence[str], question: str) -> Solved:
    """Task 7: how many things somebody has."""
    held, support = _holding(facts, *_asked(r"How many objects is (\w+) carrying\?", question))
    return NUMBERS[len(held)], support


def _list(facts: Sequence[str], question: str) -> Solved:
    """Task 8: which things somebody has."""
    held, support = _holding(facts, *_asked(r"What is (\w+) carrying\?", question))
    return ",".join(held) or "nothing", support


def _negated(facts: Sequence[str], question: str) -> Solved:
    """Task 9: yes or no, where sentences may deny."""
    person, place = _asked(r"Is (\w+) in the (\w+)\?", question)
    there: tuple[str, int] | None = None
    denied: dict[str, int] = {}
    for at, kind, (who, where) in _events(facts, move=_MOVE, be=_IS, deny=_NOT):
        if who != person:
            continue
        if kind == "deny":
            denied[where] = at
            there = None if there and there[0] == where else there
        else:
            there, denied = (where, at), {}
    if place in denied:
        return "no", (denied[place],)
    if there is None:
        raise KeyError(place)
    return "yes" if there[0] == place else "no", (there[1],)


def _indefinite(facts: Sequence[str], question: str) -> Solved:
    """Task 10: yes, no or maybe, where somebody may be in one of two places."""
    person, place = _asked(r"Is (\w+) in the (\w+)\?", question)
    last = {who: (set(places), at) for at, _, (who, *places) in _events(facts, move=_MOVE, be=_IS, either=_EITHER)}
    places, at = last[person]
    if place not in places:
        return "no", (at,)
    return "yes" if len(places) == 1 else "maybe", (at,)


_SOLVERS: dict[int, Callable[[Sequence[str], str], Solved]] = {
    1: _where,
    2: _where_object,
    3: _where_before,
    4: _rooms,
    5: _giving,
    6: _is_there,
    7: _count,
    8: _list,
    9: _negated,
    10: _indefinite,
}
