"""Training batches for the memory tasks: short documents full of facts, near-facts and every question about them.

Where an evaluation asks one question of one fact in a long text, training asks all questions of many facts in a short
one: more signal for each token read. Near-facts (strangers who go to places, people who do something else, places
elsewhere) teach the memory what not to keep; they are marked, so that a gate can be asked to stay shut on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evals.tasks.memory import MOVES, OPPOSITE, PEOPLE, PLACES, Document, MemoryTasks, Question, Tokens, location, rooms

STRANGERS = (
    "He", "She", "The captain", "The servant", "The old man", "His brother", "Anna", "Captain Brown", "They",
    "My mother", "The prince", "Nobody", "The others", "Mr. Hale", "The king", "Peter", "Lucy", "Aunt Rose", "I", "We",
)  # fmt: skip
ELSEWHERE = (
    "station", "church", "harbour", "village", "market", "river", "castle", "town", "library", "stable", "field",
    "theatre", "camp", "forest", "school", "window", "door", "other side", "capital", "server", "top of the page",
)  # fmt: skip
DOINGS = (
    "thought of", "painted", "spoke about", "swept", "sold", "remembered", "locked", "described", "dreamt of", "liked",
    "looked into", "hated", "measured", "cleaned", "admired",
)  # fmt: skip


def near_fact(rng: np.random.Generator, free: Sequence[str]) -> str:
    """A sentence that looks like a fact and is none; ``free`` people are those nobody will ask about."""
    place, elsewhere = rng.choice(PLACES), rng.choice(ELSEWHERE)
    kind = rng.integers(5)
    if kind == 0:
        return f"{rng.choice(STRANGERS)} {rng.choice(MOVES)} the {elsewhere}."
    if kind == 1:
        return f"{rng.choice(STRANGERS)} {rng.choice(MOVES)} the {place}."
    if kind == 2:
        return f"{rng.choice(PEOPLE)} {rng.choice(DOINGS)} the {place}."
    if kind == 3 and len(free):
        return f"{rng.choice(free)} {rng.choice(MOVES)} the {elsewhere}."
    return f"The {elsewhere} is {rng.choice(tuple(OPPOSITE))} of the {rng.choice(ELSEWHERE)}."


@dataclass(frozen=True)
class MemoryTraining:
    """Batches of short documents, by number; everything follows from (seed, index).

    Args:
        tokenizer: a Hugging Face tokenizer.
        backgrounds: texts to hide facts in, as token ids; drawn in proportion to their length.
        segment_size: tokens a segment.
        batch_size: documents a batch.
        people: at most so many people whose place is told.
        rooms: how often a document tells where rooms lie.
        near_facts: expected near-facts a segment.
        seed: with the index, all the randomness there is.
    """

    tokenizer: Any
    backgrounds: Sequence[Tokens]
    segment_size: int
    batch_size: int
    people: int = 4
    rooms: float = 0.5
    near_facts: float = 0.3
    seed: int = 0

    def batch(self, index: int, segments: int) -> dict[str, np.ndarray]:
        """Batch number ``index``, of documents ``segments`` long.

        Returns:
            input_ids, salient (batch, segments * segment_size); question_ids, question_mask (batch, questions, width);
            labels (batch, questions), -100 where a document has fewer questions.
        """
        documents = [self.document(index * self.batch_size + i, segments) for i in range(self.batch_size)]
        asked = [d.questions for d in documents]
        count = max(len(q) for q in asked)
        width = max(len(q.ids) for qs in asked for q in qs)
        ids = np.zeros((self.batch_size, count, width), dtype=np.int64)
        mask = np.zeros_like(ids)
        labels = np.full((self.batch_size, count), -100, dtype=np.int64)
        for row, questions in enumerate(asked):
            for column, question in enumerate(questions):
                ids[row, column, : len(question.ids)] = question.ids
                mask[row, column, : len(question.ids)] = 1
                labels[row, column] = question.answer
        return {
            "input_ids": np.stack([d.tokens() for d in documents]),
            "salient": np.stack([d.salient() for d in documents]),
            "question_ids": ids,
            "question_mask": mask,
            "labels": labels,
        }

    def document(self, index: int, segments: int) -> Document:
        """A short document with several facts and all the questions about them."""
        rng = np.random.default_rng((self.seed, index))
        length = segments * self.segment_size
        sizes = np.array([len(b) for b in self.backgrounds], dtype=float)
        background = self.backgrounds[rng.choice(len(sizes), p=sizes / sizes.sum())]
        maker = MemoryTasks(self.tokenizer, background, length)
        people = [str(p) for p in rng.permutation(PEOPLE)]
        with_rooms = rng.random() < self.rooms
        told = int(rng.integers(0 if with_rooms else 1, self.people + 1))
        texts: list[tuple[str, bool]] = []
        questions = []
        for person in people[:told]:
            answer = int(rng.integers(len(PLACES)))
            fact, ask = location(rng, person, answer)
            texts.append((fact, True))
            questions.append(Question("detect", ask, maker.ids(ask), answer))
        if with_rooms:
            facts, asks = rooms(rng)
            texts += [(fact, True) for fact in facts]
            for n in rng.choice(len(asks), 2, replace=False):
                questions.append(Question("reasoning", asks[n][0], maker.ids(asks[n][0]), asks[n][1]))
        for _ in range(rng.poisson(self.near_facts * segments)):
            texts.append((near_fact(rng, people[told:]), False))
        placed = [(text, maker.ids(" " + text), keep, False) for text, keep in texts]
        room = length
        fitting = [p for p in placed if (room := room - len(p[1])) >= 0 or p[2]]
        start = int(rng.integers(len(background) - length + 1))
        return Document(length, maker.place(rng, fitting), tuple(questions), background, start, index)
