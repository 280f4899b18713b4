"""One question with the sentences before it, and the words bAbI's worlds are told in. Knows nothing of tokens."""

from __future__ import annotations

from dataclasses import dataclass

ROOMS = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
TOWN = ("bedroom", "cinema", "kitchen", "office", "park", "school")  # of task 10
OBJECTS = ("apple", "football", "milk")
PEOPLE = ("Daniel", "John", "Mary", "Sandra")
GIVERS = ("Bill", "Fred", "Jeff", "Mary")  # of task 5
TOWNSPEOPLE = ("Bill", "Fred", "Julie", "Mary")  # of task 10
MOVES = ("journeyed to", "moved to", "travelled to", "went back to", "went to")
GETS = ("got", "grabbed", "picked up", "took")
DROPS = ("discarded", "dropped", "left", "put down")
GIVES = ("gave", "handed", "passed")
NUMBERS = ("none", "one", "two", "three")
RECENT = 5  # sentences: the originals ask only where the last of the supporting facts is one of so many
OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}


@dataclass(frozen=True)
class Story:
    """All that was told before one question, in order, the question and its answer.

    Attributes:
        facts: sentences; other questions of the same text are left out.
        question: without space around it.
        answer: as in the original files; several things are joined by commas without a space.
        support: which facts (from 0) are needed to answer, rising.
    """

    facts: tuple[str, ...]
    question: str
    answer: str
    support: tuple[int, ...]
