"""Training batches for the memory tasks: short documents full of facts, near-facts and every question about them.

Where an evaluation asks one question of one fact in a long text, training asks all questions of many facts in a short
one: more signal for each token read. Near-facts (strangers who go to places, people who do something else, places
elsewhere) teach the memory what not to keep; they are marked, so that a gate can be asked to stay shut on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from evals.tasks.documents import Document, Insert, Tokens, place
from evals.tasks.memory import MOVES, OPPOSITE, PEOPLE, PLACES, MemoryTasks, Question, location, rooms

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

SLICE = 1 << 20  # tokens looked through at a time


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


def concerned(fact: str) -> set[str]:
    """Keys of a fact: its person, or its direction and the opposite, for a fact about north is one about south."""
    words = set(fact.rstrip(".").split())
    return words & set(PEOPLE) | {side for way in words & set(OPPOSITE) for side in (way, OPPOSITE[way])}


@dataclass(frozen=True)
class Stage:
    """How hard a batch is.

    Args:
        segments, segment_size: shape of its documents, in tokens.
        people: at most so many people whose place is told.
        rooms: how often a document tells where rooms lie.
        near_facts: expected near-facts a document of 128 tokens.
        relations: facts about rooms: 2 as in the task, or 1 to begin with.
        spread: at most one fact a segment, as in a long text; else anywhere, cut by borders too.
        cut: with ``spread``, the share of facts that a border between segments cuts in two.
        lead: at most so many segments of background to be read without gradient before the document.
        opens: share of documents that a fact opens, where one stands in the first segment.
    """

    segments: int = 1
    segment_size: int = 128
    people: int = 4
    rooms: float = 0.5
    near_facts: float = 0.3
    relations: int = 2
    spread: bool = False
    cut: float = 0.0
    lead: int = 0
    opens: float = 0.0


def one_relation(rng: np.random.Generator) -> tuple[tuple[str, ...], tuple[tuple[str, int, str], ...]]:
    """One fact about two rooms, and what can be asked of either: half of :func:`evals.tasks.memory.rooms`."""
    here, there = (int(r) for r in rng.choice(len(PLACES), 2, replace=False))
    way = str(rng.choice(tuple(OPPOSITE)))
    asks = []
    for side, other, seen in ((here, there, way), (there, here, OPPOSITE[way])):
        asks.append((f"What is {seen} of the {PLACES[other]}?", side, seen))
        asks.append((f"What is the {PLACES[other]} {OPPOSITE[seen]} of?", side, seen))
    return (f"The {PLACES[here]} is {way} of the {PLACES[there]}.",), tuple(asks)


@dataclass(frozen=True)
class MemoryTraining:
    """Batches of short documents, by number; everything follows from (seed, index).

    Args:
        tokenizer: a Hugging Face tokenizer.
        backgrounds: texts to hide facts in, as token ids; drawn in proportion to their length.
        batch_size: documents a batch.
        keys: words that memory tokens are filed under, in their order; () for none.
        hard: share of documents whose background holds a word of the facts (a name, a place, a direction), the text
            in which a memory is most tempted to see a fact where none is.
        spoken: answers as tokens behind each question (for a language model), not as classes.
        predicted: with ``spoken``, the share of document tokens that are to be predicted as well.
        seed: with the index, all the randomness there is.
    """

    tokenizer: Any
    backgrounds: Sequence[Tokens]
    batch_size: int
    keys: Sequence[str] = ()
    spoken: bool = False
    predicted: float = 0.0
    hard: float = 0.5
    seed: int = 0

    def batch(self, index: int, stage: Stage) -> dict[str, np.ndarray]:
        """Batch number ``index``.

        Returns:
            input_ids, salient (batch, tokens); question_ids, question_mask (batch, questions, width), empty where a
            document has fewer questions. With classes: labels (batch, questions), -100 where there is no question.
            With spoken answers: question_targets like question_ids, -100 but on the answer, and where some are to be
            predicted labels (batch, tokens), -100 but on these. With keys: memory_targets
            (batch, keys), the answer that belongs under each key (a class, or a token), -100 where untold; and salient
            is (batch, tokens, keys), true where a token concerns the key. Where the stage has a lead: lead_ids
            (batch, tokens), whole segments.
        """
        documents = [self.document(index * self.batch_size + i, stage) for i in range(self.batch_size)]
        asked = [[(q, self.said(q)) for q in d.questions] for d in documents]
        shape = (len(asked), max(len(q) for q in asked), max(len(ids) for qs in asked for _, ids in qs))
        ids, mask = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        spoken = np.full(shape, -100, dtype=np.int64)
        labels = np.full(shape[:2], -100, dtype=np.int64)
        for row, questions in enumerate(asked):
            for column, (question, said) in enumerate(questions):
                ids[row, column, : len(said)] = said
                mask[row, column, : len(said)] = 1
                spoken[row, column, len(question.ids) : len(said)] = said[len(question.ids) :]
                labels[row, column] = question.answer
        filed = {} if not self.keys else {"memory_targets": np.stack([self.filed(d) for d in documents])}
        return filed | {
            "input_ids": np.stack([d.tokens() for d in documents]),
            "salient": np.stack([self.salient(d) for d in documents]),
            "question_ids": ids,
            "question_mask": mask,
            **({"question_targets": spoken} if self.spoken else {"labels": labels}),
            **self.language(documents, index),
            **self.lead(documents, index, stage),
        }

    def language(self, documents: Sequence[Document], index: int) -> dict[str, np.ndarray]:
        """Labels on a random share of the tokens: language modelling at a fraction of its cost."""
        if not (self.spoken and self.predicted):
            return {}
        ids = np.stack([d.tokens() for d in documents])
        chosen = np.random.default_rng((self.seed, index, 2)).random(ids.shape) < self.predicted
        return {"labels": np.where(chosen, ids, -100)}

    def lead(self, documents: Sequence[Document], index: int, stage: Stage) -> dict[str, np.ndarray]:
        """A run of background for each document, from anywhere in its text, of one random length; at times none."""
        rng = np.random.default_rng((self.seed, index, 1))
        tokens = int(rng.integers(stage.lead + 1)) * stage.segment_size
        if not tokens:
            return {}
        starts = [int(rng.integers(len(d.background) - tokens + 1)) for d in documents]
        runs = [d.background[start : start + tokens] for d, start in zip(documents, starts, strict=True)]
        return {"lead_ids": np.stack(runs).astype(np.int64)}

    @cached_property
    def tempting(self) -> list[np.ndarray]:
        """Where each background holds a word of the facts; read in slices, so that a long one is never held whole."""
        words = [*PEOPLE, *PLACES, *OPPOSITE]
        ids = [int(i) for w in words for i in self.tokenizer(" " + w, add_special_tokens=False)["input_ids"]]
        return [positions(background, ids) for background in self.backgrounds]

    def filed(self, document: Document) -> np.ndarray:
        """Under each key, the answer that belongs there; -100 where the document tells none."""
        told = {q.key: q.answer if not self.spoken else int(self.said(q)[-1]) for q in document.questions}
        return np.array([told.get(key, -100) for key in self.keys], dtype=np.int64)

    def salient(self, document: Document) -> np.ndarray:
        """True at the tokens of facts, (tokens,), or with keys (tokens, keys) for those that the fact concerns.

        What was filed under a key stays: a later fact from the other side of the same room does not concern that key.
        """
        if not self.keys:
            return document.salient()
        marks = np.zeros((document.length, len(self.keys)), dtype=bool)
        filed: set[str] = set()
        for insert in document.inserts:
            if insert.keep:
                keys = concerned(insert.text) - filed
                marks[insert.offset : insert.offset + len(insert.ids)] = [key in keys for key in self.keys]
                filed |= {q.key for q in document.questions if q.key in keys and PLACES[q.answer] in insert.text}
        return marks

    def said(self, question: Question) -> np.ndarray:
        """A question as the model is to see it: with its answer behind it where answers are spoken."""
        if not self.spoken:
            return question.ids
        answer = self.tokenizer(" " + PLACES[question.answer], add_special_tokens=False)["input_ids"]
        return np.concatenate([question.ids, np.asarray(answer, dtype=np.int64)])

    def document(self, index: int, stage: Stage) -> Document:
        """A short document with several facts and all the questions about them."""
        rng = np.random.default_rng((self.seed, index))
        length = stage.segments * stage.segment_size
        sizes = np.array([len(b) for b in self.backgrounds], dtype=float)
        which = int(rng.choice(len(sizes), p=sizes / sizes.sum()))
        background = self.backgrounds[which]
        maker = MemoryTasks(self.tokenizer, background, length)
        people = [str(p) for p in rng.permutation(PEOPLE)]
        with_rooms = rng.random() < stage.rooms and not (stage.spread and stage.segments < stage.relations)
        most = min(stage.people, stage.segments - stage.relations * with_rooms) if stage.spread else stage.people
        told = int(rng.integers(0 if with_rooms else 1, most + 1))
        texts: list[tuple[str, bool]] = []
        questions = []
        for person in people[:told]:
            answer = int(rng.integers(len(PLACES)))
            fact, ask = location(rng, person, answer)
            texts.append((fact, True))
            questions.append(Question("detect", ask, maker.ids(ask), answer, person))
        if with_rooms:
            facts, asks = rooms(rng) if stage.relations == 2 else one_relation(rng)
            texts += [(fact, True) for fact in facts]
            for n in (int(rng.integers(2)), 2 + int(rng.integers(2))):
                ask, answer, way = asks[n]
                questions.append(Question("reasoning", ask, maker.ids(ask), answer, way))
        for _ in range(rng.poisson(stage.near_facts * length / 128)):
            texts.append((near_fact(rng, people[told:]), False))
        placed = [(text, maker.ids(" " + text), keep, False) for text, keep in texts]
        room = length
        fitting = [p for p in placed if (room := room - len(p[1])) >= 0 or p[2]]
        start = int(rng.integers(len(background) - length + 1))
        if rng.random() < self.hard and len(hot := self.tempting[which]):
            start = int(np.clip(int(rng.choice(hot)) - rng.integers(length), 0, len(background) - length))
        opens = bool(stage.opens) and rng.random() < stage.opens
        if stage.spread:
            inserts = spread(rng, stage, fitting, opens)
        else:
            inserts = place(rng, length, [(*p[:3], opens and n == 0) for n, p in enumerate(fitting)])
        return Document(length, inserts, tuple(questions), background, start, index)


def positions(text: Tokens, ids: Sequence[int]) -> np.ndarray:
    """Where ``text`` holds one of ``ids``, rising, as uint32 where its length allows."""
    kind = np.uint32 if len(text) <= 1 << 32 else np.uint64
    found = [np.zeros(0, dtype=kind)]
    for start in range(0, len(text), SLICE):
        part = np.asarray(text[start : min(start + SLICE, len(text))])
        found.append((np.flatnonzero(np.isin(part, ids)) + start).astype(kind))
    return np.concatenate(found)


def spread(
    rng: np.random.Generator, stage: Stage, facts: Sequence[tuple[str, np.ndarray, bool, bool]], opens: bool = False
) -> tuple[Insert, ...]:
    """Put each fact (text, tokens, keep, unused) into a segment of its own; what finds none is left out.

    Where it ``opens``, what stands in the first segment stands at its first token.
    """
    size = stage.segment_size
    homes = rng.permutation(stage.segments)
    inserts: list[Insert] = []
    free = 0
    for home, (text, ids, keep, _) in sorted(zip(homes, facts, strict=False), key=lambda pair: int(pair[0])):
        if keep and len(ids) > size:
            raise ValueError(f"segment_size: expected room for a fact of {len(ids)} tokens, got {size}")
        first, border = max(free, int(home) * size), (int(home) + 1) * size
        if opens and home == 0 and len(ids) <= size:
            offset = 0
        elif 2 * len(ids) <= size and home + 1 < stage.segments and rng.random() < stage.cut:
            offset = border - int(rng.integers(1, len(ids)))
        elif first <= border - len(ids):
            offset = int(rng.integers(first, border - len(ids) + 1))
        elif keep:
            offset = first
        else:
            continue
        inserts.append(Insert(offset, text, ids, keep))
        free = offset + len(ids)
    return tuple(inserts)
