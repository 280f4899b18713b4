"""The memory tasks of the RMT paper (arXiv 2304.11062, section 4): facts hidden in real text, questions at the end.

- memorize: one fact at the very start;
- detect (detect and memorize): one fact at a random offset;
- reasoning: two facts about three rooms at random offsets; either may be asked for (bAbI task 4).

Facts are bAbI's, six places are the six classes. The background is never tiled; facts stand at any token offset, so
they can be cut by a segment border; facts about other people distract. A document can carry several tasks at once:
each task's facts then distract from the others'. Everything follows from (seed, index). Knows nothing of models.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
PEOPLE = ("Mary", "John", "Daniel", "Sandra", "Fred", "Jeff", "Bill", "Julie")
MOVES = ("moved to", "went to", "journeyed to", "travelled to", "went back to")
OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}
TASKS = ("memorize", "detect", "reasoning")


@runtime_checkable
class Tokens(Protocol):
    """Background text as token ids: a numpy array, or a file that is read in slices."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> Any: ...


@dataclass(frozen=True)
class Question:
    """A question about a document.

    Attributes:
        task: which task it belongs to.
        text, ids: the question, in words and tokens.
        answer: index into :data:`PLACES`.
        key: what the answer is filed under: a person, or the direction in which a room lies.
    """

    task: str
    text: str
    ids: np.ndarray
    answer: int
    key: str = ""


@dataclass(frozen=True)
class Insert:
    """Tokens put into the background at ``offset`` of the finished document; ``keep`` where worth remembering."""

    offset: int
    text: str
    ids: np.ndarray
    keep: bool


@dataclass(frozen=True)
class Document:
    """A document of exactly ``length`` tokens, made as it is read.

    Attributes:
        length: tokens in all, facts included.
        inserts: facts and distractors, by offset, not overlapping.
        questions: what to ask at the end.
        background, start: where the text around them comes from.
        index: its number under its seed.
    """

    length: int
    inserts: tuple[Insert, ...]
    questions: tuple[Question, ...]
    background: Tokens
    start: int
    index: int

    def tokens(self, begin: int = 0, end: int | None = None) -> np.ndarray:
        """Token ids from ``begin`` to ``end``, int64."""
        return self._cut(begin, end)[0]

    def salient(self, begin: int = 0, end: int | None = None) -> np.ndarray:
        """True at the tokens of facts worth remembering."""
        return self._cut(begin, end)[1]

    def _cut(self, begin: int, end: int | None) -> tuple[np.ndarray, np.ndarray]:
        end = self.length if end is None else min(end, self.length)
        parts: list[np.ndarray] = []
        keeps: list[np.ndarray] = []
        at, used = begin, sum(min(len(i.ids), max(0, begin - i.offset)) for i in self.inserts)

        def text(upto: int) -> None:
            nonlocal at
            if upto > at:
                source = self.start + at - used
                parts.append(np.asarray(self.background[source : source + upto - at], dtype=np.int64))
                keeps.append(np.zeros(upto - at, dtype=bool))
                at = upto

        for insert in self.inserts:
            stop = insert.offset + len(insert.ids)
            if stop <= begin or insert.offset >= end:
                continue
            text(insert.offset)
            piece = insert.ids[at - insert.offset : min(stop, end) - insert.offset]
            parts.append(piece)
            keeps.append(np.full(len(piece), insert.keep))
            at, used = at + len(piece), used + len(piece)
        text(end)
        if not parts:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool)
        return np.concatenate(parts), np.concatenate(keeps)

    def digest(self) -> str:
        """A short name of what the document says and asks."""
        said = repr([(i.offset, i.text) for i in self.inserts] + [q.text for q in self.questions])
        return f"{zlib.crc32(said.encode()) ^ zlib.crc32(repr((self.start, self.length)).encode()):08x}"


def location(rng: np.random.Generator, person: str, place: int) -> tuple[str, str]:
    """A fact and its question: where a person is."""
    return f"{person} {rng.choice(MOVES)} the {PLACES[place]}.", f"Where is {person}?"


def rooms(rng: np.random.Generator) -> tuple[tuple[str, str], tuple[tuple[str, int, str], ...]]:
    """Two facts about a room between two others, and what can be asked: question, answer, direction (bAbI task 4)."""
    middle, *sides = (int(r) for r in rng.choice(len(PLACES), 3, replace=False))
    ways = [str(w) for w in rng.choice(tuple(OPPOSITE), 2, replace=False)]
    facts, asks = [], []
    for side, way in zip(sides, ways, strict=True):
        forward = f"The {PLACES[side]} is {way} of the {PLACES[middle]}."
        backward = f"The {PLACES[middle]} is {OPPOSITE[way]} of the {PLACES[side]}."
        facts.append(forward if rng.random() < 0.5 else backward)
        asks.append((f"What is {way} of the {PLACES[middle]}?", side, way))
        asks.append((f"What is the {PLACES[middle]} {OPPOSITE[way]} of?", side, way))
    return (facts[0], facts[1]), tuple(asks)


@dataclass(frozen=True)
class MemoryTasks:
    """Documents with hidden facts, by number.

    Args:
        tokenizer: a Hugging Face tokenizer.
        background: token ids of the text to hide facts in.
        length: tokens of each document.
        tasks: which of :data:`TASKS` each document carries.
        distractors: facts about other people, each at a random offset.
        seed: with the index, all the randomness there is.
    """

    tokenizer: Any
    background: Tokens
    length: int
    tasks: Sequence[str] = TASKS
    distractors: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = set(self.tasks) - set(TASKS)
        if unknown or not self.tasks:
            raise ValueError(f"tasks: expected some of {', '.join(TASKS)}, got {sorted(unknown)}")
        if len(self.background) < self.length:
            raise ValueError(
                f"background: expected at least {self.length:,} tokens for a document of that length (text is never "
                f"tiled), got {len(self.background):,}; give more text or ask for a shorter document"
            )
        people = self.distractors + sum(t != "reasoning" for t in self.tasks)
        if people > len(PEOPLE):
            raise ValueError(f"distractors: expected at most {len(PEOPLE)} people in all, got {people}")

    def ids(self, text: str) -> np.ndarray:
        """Tokens of a fact or a question."""
        return np.asarray(self.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)

    def documents(self, count: int, first: int = 0) -> Iterator[Document]:
        """``count`` documents from number ``first`` on."""
        return (self.document(i) for i in range(first, first + count))

    def document(self, index: int) -> Document:
        """The document of this number."""
        rng = np.random.default_rng((self.seed, index, self.length))
        people = [str(p) for p in rng.permutation(PEOPLE)]
        facts: list[tuple[str, bool]] = []  # text, whether it opens the document
        questions: list[Question] = []
        for task in self.tasks:
            if task == "reasoning":
                said, asks = rooms(rng)
                facts += [(s, False) for s in said]
                ask, answer, key = asks[rng.integers(len(asks))]
            else:
                answer = int(rng.integers(len(PLACES)))
                key = people.pop()
                fact, ask = location(rng, key, answer)
                facts.append((fact, task == "memorize"))
            questions.append(Question(task, ask, self.ids(ask), answer, key))
        for _ in range(self.distractors):
            facts.append((location(rng, people.pop(), int(rng.integers(len(PLACES))))[0], False))
        inserts = self.place(rng, [(text, self.ids(" " + text), True, first) for text, first in facts])
        start = int(rng.integers(len(self.background) - self.length + 1))
        return Document(self.length, inserts, tuple(questions), self.background, start, index)

    def place(
        self, rng: np.random.Generator, facts: Sequence[tuple[str, np.ndarray, bool, bool]]
    ) -> tuple[Insert, ...]:
        """Put facts (text, tokens, keep, opens the document) at offsets: any, in any order, none inside another."""
        room = self.length - sum(len(ids) for _, ids, _, _ in facts)
        if room < 0:
            raise ValueError(f"length: expected room for all facts ({self.length - room} tokens), got {self.length}")
        gaps = [(0 if opens else int(rng.integers(room + 1)), rng.random(), n) for n, (*_, opens) in enumerate(facts)]
        inserts, shift = [], 0
        for gap, _, n in sorted(gaps, key=lambda g: (g[0], not facts[g[2]][3], g[1])):
            text, ids, keep, _ = facts[n]
            inserts.append(Insert(gap + shift, text, ids, keep))
            shift += len(ids)
        return tuple(inserts)
