"""The memory tasks of the RMT paper (arXiv 2304.11062, section 4): facts hidden in real text, questions at the end.

- memorize: one fact at the very start;
- detect (detect and memorize): one fact at a random offset;
- reasoning: two facts about three rooms at random offsets; either may be asked for (bAbI task 4).

Facts are bAbI's, six places are the six classes. The background is never tiled; facts stand at any token offset, so
they can be cut by a segment border; facts about other people distract. A document can carry several tasks at once:
each task's facts then distract from the others'. Everything follows from (seed, index). Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evals.tasks.documents import Document, Tokens, place

PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
PEOPLE = ("Mary", "John", "Daniel", "Sandra", "Fred", "Jeff", "Bill", "Julie")
MOVES = ("moved to", "went to", "journeyed to", "travelled to", "went back to")
OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}
TASKS = ("memorize", "detect", "reasoning")


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
        if self.distractors < 0:
            raise ValueError(f"distractors: expected at least 0, got {self.distractors}; 0 hides the facts alone")
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
        inserts = place(rng, self.length, [(text, self.ids(" " + text), True, first) for text, first in facts])
        start = int(rng.integers(len(self.background) - self.length + 1))
        return Document(self.length, inserts, tuple(questions), self.background, start, index)
