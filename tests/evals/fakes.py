"""A model and documents small enough to follow by hand, for the tests of the evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from evals import channel_order

PLACES = 6
FACT = 1000  # token FACT + 10 * slot + place says: the fact in this slot is in this place


@dataclass(frozen=True)
class Asked:
    task: str
    ids: np.ndarray
    answer: int


@dataclass(frozen=True)
class Text:
    length: int
    seed: int
    questions: tuple[Asked, ...]

    def tokens(self, start: int, stop: int) -> np.ndarray:
        ids = np.random.default_rng(self.seed).integers(0, FACT, self.length)
        for question in self.questions:
            ids[int(question.ids[0])] = FACT + 10 * int(question.ids[0]) + question.answer
        return ids[start:stop]


def document(length: int, seed: int, answers: dict[str, int]) -> Text:
    """A text with one fact per task; the question names the slot, which is where the fact stands."""
    questions = tuple(Asked(task, np.array([slot]), place) for slot, (task, place) in enumerate(answers.items()))
    return Text(length, seed, questions)


def documents(lengths: Sequence[int] = (40, 80), per_length: int = 5) -> list[Text]:
    return [
        document(length, 100 * length + i, {"memorize": i % PLACES, "reasoning": (2 * i + 1) % PLACES})
        for length in lengths
        for i in range(per_length)
    ]


class Killed(Exception):
    """Stands for a process that ends in the middle of its work."""


@dataclass
class Scanner:
    """Remembers every fact it reads, exactly: one-hot places in one vector, PLACES channels per slot.

    ``reads`` counts how often each document was read; ``die_after`` answers end in Killed.
    """

    name: str = "scanner"
    die_after: int | None = None
    reads: dict[int, int] = field(default_factory=dict)
    batches: list[int] = field(default_factory=list)
    given: int = 0

    def fingerprint(self) -> str:
        return self.name

    def read(self, documents: Sequence[Text]) -> list[np.ndarray]:
        self.batches.append(len(documents))
        assert len({document.length for document in documents}) == 1
        states = []
        for text in documents:
            self.reads[text.seed] = self.reads.get(text.seed, 0) + 1
            state = self.initial()
            for token in text.tokens(0, text.length):
                if token >= FACT:
                    slot, place = divmod(int(token) - FACT, 10)
                    state[slot * PLACES + place] = 1.0
            states.append(state)
        return states

    def answer(self, state: np.ndarray, questions: Sequence[Asked]) -> list[int]:
        answers = []
        for question in questions:
            if self.given == self.die_after:
                raise Killed
            slot = int(question.ids[0])
            answers.append(int(np.argmax(state[slot * PLACES : (slot + 1) * PLACES])))
            self.given += 1
        return answers

    def initial(self) -> np.ndarray:
        return np.zeros(4 * PLACES)

    def shuffled(self, state: np.ndarray, seed: int) -> np.ndarray:
        return state[channel_order(state.size, seed)]
