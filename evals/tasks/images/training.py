"""Training batches of the offline world: short albums full of pictures, near-facts and questions about all of them.

Where an evaluation asks a question or two of a long document, training asks many of a short one. Pictures without a
frame and sentences about frames teach the memory what not to keep; what is worth it is marked, for each memory token
that it concerns. Everything follows from (seed, index). Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from evals.tasks.documents import Tokens
from evals.tasks.images.pool import Pool
from evals.tasks.images.world import ATTRIBUTES, DIGITS, NAMES, SENTENCES, UNFRAMED, UNKNOWN, asked, sentence, worded

SLOTS = len(NAMES) * len(ATTRIBUTES)  # memory tokens that have a meaning: 2 * frame + attribute


@dataclass(frozen=True)
class Stage:
    """How hard a batch is.

    Args:
        segments, segment_size: shape of its documents, in tokens.
        tags: at most so many framed digits a document, of different frames, each in a segment of its own.
        distractors: share of the other segments that hold a picture without a frame.
        sentences: share of all segments that hold a near-fact in words, where there is room.
        unknown: share of documents of which one question has no answer.
        questions: at most so many a document.
        worded: share of pictures that a sentence stands in for ("in the red frame is a blue three."), for a language
            model to learn the world in words before it sees it.
        lead: at most so many segments of background to be read without gradient before the document.
    """

    segments: int = 4
    segment_size: int = 32
    tags: int = 2
    distractors: float = 0.35
    sentences: float = 0.2
    unknown: float = 0.5
    questions: int = 6
    worded: float = 0.0
    lead: int = 0

    def __post_init__(self) -> None:
        if self.segments < 1 or self.questions < 1:
            raise ValueError(f"stage: expected at least 1 segment and question, got {self}; raise these")
        if not 0 <= self.tags <= len(NAMES):
            raise ValueError(
                f"tags: expected 0 to {len(NAMES)}, one for each colour of frame, got {self.tags}; take less"
            )


@dataclass(frozen=True)
class AlbumTraining:
    """Batches of short albums, by number.

    Args:
        encode: text to token ids, without special tokens.
        backgrounds: texts to put pictures into, as token ids; drawn in proportion to their length, never tiled.
        image_token: the id that stands for a part of an image.
        tokens_per_image: how many of them an image is.
        pool: the pictures (see ``evals.tasks.images.pool.draw_pool``).
        batch_size: documents a batch.
        pixels: give the images themselves; False gives their numbers in the pool, for features that are kept.
        seed: with the index, all the randomness there is.
    """

    encode: Callable[[str], Sequence[int] | np.ndarray]
    backgrounds: Sequence[Tokens]
    image_token: int
    tokens_per_image: int
    pool: Pool
    batch_size: int = 32
    pixels: bool = True
    seed: int = 0

    def batch(self, index: int, stage: Stage) -> dict[str, np.ndarray]:
        """Batch number ``index``.

        Returns:
            input_ids (batch, tokens), int64: text, with each image a run of ``tokens_per_image`` image tokens, no run
            cut by a border between segments. images (images, height, width, 3), uint8, in the order of their runs, row
            by row; or with ``pixels=False`` image_numbers (images,). salient (batch, tokens, slots), true at what is
            worth remembering in slot 2 * frame + attribute; memory_targets (batch, slots), the token of the digit or
            the colour that belongs there, -100 where untold. question_ids, question_mask, question_targets (batch,
            questions, width): each question with its answer behind it, targets -100 but on the answer; empty where a
            document has fewer. Where the stage has a lead: lead_ids (batch, tokens), whole segments.

        Raises:
            ValueError: segments too small for an image, a background too short, or a pool without a colour of frame.
        """
        self._check(stage)
        rng = np.random.default_rng((self.seed, index))
        shape = (self.batch_size, stage.segments * stage.segment_size)
        ids = np.zeros(shape, dtype=np.int64)
        salient = np.zeros((*shape, SLOTS), dtype=bool)
        targets = np.full((self.batch_size, SLOTS), -100, dtype=np.int64)
        numbers: list[int] = []
        asks: list[list[tuple[int, int, str]]] = []
        texts = [self._text(rng, shape[1]) for _ in range(self.batch_size)]
        for row, (text, start) in enumerate(texts):
            ids[row] = text[start : start + shape[1]]
            shown = self._fill(rng, stage, ids[row], salient[row])
            numbers += [number for number, spoken in shown if not spoken]
            told = {int(self.pool.frame[n]): n for n, _ in shown if self.pool.frame[n] != UNFRAMED}
            for frame, number in told.items():
                for attribute, words in enumerate(self._said(number)):
                    targets[row, 2 * frame + attribute] = self._answers[words]
            asks.append(self._asks(rng, stage, told))
        chosen = np.array(numbers, dtype=np.int64)
        return {
            "input_ids": ids,
            **({"images": self.pool.images[chosen]} if self.pixels else {"image_numbers": chosen}),
            "salient": salient,
            "memory_targets": targets,
            **self._questions(asks, stage.questions),
            **self._lead(rng, texts, stage),
        }

    def captions(self, index: int) -> dict[str, np.ndarray]:
        """Batch number ``index`` of images with their captions behind them, to train a projector on (LLaVA's stage 1).

        Returns:
            input_ids, attention_mask, labels (batch, tokens), int64, padded on the right; labels -100 but on the
            captions. images (batch, height, width, 3) or image_numbers (batch,), as in :meth:`batch`.
        """
        rng = np.random.default_rng((self.seed, index, 1))
        chosen = rng.integers(len(self.pool), size=self.batch_size)
        said = [self._ids(" " + self.pool.captions[number]) for number in chosen]
        first = self.tokens_per_image
        shape = (self.batch_size, first + max(len(ids) for ids in said))
        ids, mask = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        labels = np.full(shape, -100, dtype=np.int64)
        ids[:, :first] = self.image_token
        for row, caption in enumerate(said):
            end = first + len(caption)
            ids[row, first:end] = labels[row, first:end] = caption
            mask[row, :end] = 1
        images = {"images": self.pool.images[chosen]} if self.pixels else {"image_numbers": chosen}
        return {"input_ids": ids, "attention_mask": mask, "labels": labels, **images}

    def _check(self, stage: Stage) -> None:
        tokens, size = stage.segments * stage.segment_size, stage.segment_size
        if self.tokens_per_image < 1:
            raise ValueError(
                f"tokens_per_image: expected at least 1, got {self.tokens_per_image}; 16 is usual for 32 pixels"
            )
        if size < self.tokens_per_image and (stage.tags or stage.distractors) and stage.worded < 1:
            raise ValueError(
                f"segment_size: expected room for an image of {self.tokens_per_image} tokens, got {size}; pool images "
                "to fewer tokens, or take larger segments"
            )
        if not self.backgrounds or min(len(text) for text in self.backgrounds) < max(tokens, stage.lead * size):
            found = f"{min(len(text) for text in self.backgrounds):,}" if self.backgrounds else "none"
            raise ValueError(
                f"backgrounds: expected texts of at least {max(tokens, stage.lead * size):,} tokens (text is never "
                f"tiled), got {found}; give longer ones"
            )
        if stage.tags and not all(len(found) for found in self.pool.framed):
            raise ValueError("pool: expected frames of every colour, got some without a picture; draw a larger pool")
        if stage.distractors and not len(self.pool.unframed):
            raise ValueError("pool: expected pictures without a frame, got none; draw some, or set distractors to 0")

    @cached_property
    def _sizes(self) -> np.ndarray:
        sizes = np.array([len(text) for text in self.backgrounds], dtype=float)
        return np.cumsum(sizes / sizes.sum())

    def _text(self, rng: np.random.Generator, tokens: int) -> tuple[Tokens, int]:
        """A background and where in it a document begins."""
        which = min(int(np.searchsorted(self._sizes, rng.random(), side="right")), len(self.backgrounds) - 1)
        return self.backgrounds[which], int(rng.integers(len(self.backgrounds[which]) - tokens + 1))

    def _ids(self, text: str) -> np.ndarray:
        return np.asarray(self.encode(text), dtype=np.int64)

    @cached_property
    def _answers(self) -> dict[str, int]:
        """First token of each answer (its only one in a vocabulary that knows the word)."""
        return {word: int(self._ids(" " + word)[0]) for word in (*DIGITS, *NAMES, UNKNOWN)}

    @cached_property
    def _spoken(self) -> dict[str, np.ndarray]:
        """Questions, sentences and words for pictures, each encoded once."""
        return {}

    def _encoded(self, text: str) -> np.ndarray:
        known = self._spoken.get(text)
        if known is None:
            known = self._spoken[text] = self._ids(" " + text)
        return known

    def _said(self, number: int) -> tuple[str, str]:
        """Digit and colour of a picture, as answers."""
        return DIGITS[self.pool.digit[number]], NAMES[self.pool.ink[number]]

    def _fill(
        self, rng: np.random.Generator, stage: Stage, ids: np.ndarray, salient: np.ndarray
    ) -> list[tuple[int, bool]]:
        """Put pictures and sentences over the text of a document: their numbers, and whether words stand in for them.

        They replace text rather than move it on, so that a document is one slice of its background.
        """
        size, shown = stage.segment_size, []
        tags = int(rng.integers(1, min(stage.tags, stage.segments) + 1)) if stage.tags else 0
        frames = dict(zip(rng.permutation(stage.segments)[:tags].tolist(), rng.permutation(len(NAMES)), strict=False))
        for segment, (distracts, speaks) in enumerate(rng.random((stage.segments, 2))):
            pieces: list[tuple[np.ndarray, int]] = []  # tokens, and the frame that they tell of
            frame = int(frames.get(segment, UNFRAMED))
            if segment in frames or distracts < stage.distractors:
                among = self.pool.framed[frame] if segment in frames else self.pool.unframed
                number = int(among[rng.integers(len(among))])
                spoken = bool(stage.worded) and rng.random() < stage.worded
                piece = self._worded(number) if spoken else np.full(self.tokens_per_image, self.image_token)
                if len(piece) > size:
                    raise ValueError(f"segment_size: expected room for {len(piece)} tokens, got {size}; take more")
                pieces.append((piece, frame))
                shown.append((number, spoken))
            if speaks < stage.sentences:
                words = self._encoded(sentence(int(rng.integers(SENTENCES))))
                if sum(len(piece) for piece, _ in pieces) + len(words) <= size:
                    pieces.insert(int(rng.integers(len(pieces) + 1)), (words, UNFRAMED))
            room = size - sum(len(piece) for piece, _ in pieces)
            at, gone = segment * size, 0
            for gap, (piece, tells) in zip(np.sort(rng.integers(room + 1, size=len(pieces))), pieces, strict=True):
                begin = at + int(gap) + gone
                ids[begin : begin + len(piece)] = piece
                if tells != UNFRAMED:
                    salient[begin : begin + len(piece), 2 * tells : 2 * tells + 2] = True
                gone += len(piece)
        return shown

    def _worded(self, number: int) -> np.ndarray:
        """The sentence in place of a picture; a scene's caption."""
        digit, ink, frame = (int(part[number]) for part in (self.pool.digit, self.pool.ink, self.pool.frame))
        return self._encoded(worded(digit, ink, frame) if digit >= 0 else self.pool.captions[number])

    def _asks(self, rng: np.random.Generator, stage: Stage, told: dict[int, int]) -> list[tuple[int, int, str]]:
        """Questions as (frame, attribute, answer), in any order; at most one of them about a frame that never came."""
        known = [(frame, attribute) for frame in told for attribute in range(len(ATTRIBUTES))]
        absent = [frame for frame in range(len(NAMES)) if frame not in told]
        asks: list[tuple[int, int, str]] = []
        if absent and (not known or rng.random() < stage.unknown):
            asks.append((absent[int(rng.integers(len(absent)))], int(rng.integers(len(ATTRIBUTES))), UNKNOWN))
        for place in rng.permutation(len(known))[: stage.questions - len(asks)]:
            frame, attribute = known[place]
            asks.append((frame, attribute, self._said(told[frame])[attribute]))
        return [asks[place] for place in rng.permutation(len(asks))]

    def _questions(self, asks: Sequence[Sequence[tuple[int, int, str]]], most: int) -> dict[str, np.ndarray]:
        """Arrays of the questions of a batch; as many columns in every batch, so that shapes repeat."""
        said = [
            [(self._encoded(asked(ATTRIBUTES[about], frame)), self._encoded(answer)) for frame, about, answer in row]
            for row in asks
        ]
        width = max(len(question) + len(answer) for row in said for question, answer in row)
        shape = (len(asks), most, width)
        ids, mask = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        targets = np.full(shape, -100, dtype=np.int64)
        for row, questions in enumerate(said):
            for column, (question, answer) in enumerate(questions):
                behind = len(question) + len(answer)
                ids[row, column, : len(question)] = question
                ids[row, column, len(question) : behind] = targets[row, column, len(question) : behind] = answer
                mask[row, column, :behind] = 1
        return {"question_ids": ids, "question_mask": mask, "question_targets": targets}

    def _lead(
        self, rng: np.random.Generator, texts: Sequence[tuple[Tokens, int]], stage: Stage
    ) -> dict[str, np.ndarray]:
        """A run of background for each document, from anywhere in its text, of one random length; at times none."""
        tokens = int(rng.integers(stage.lead + 1)) * stage.segment_size
        if not tokens:
            return {}
        starts = [int(rng.integers(len(text) - tokens + 1)) for text, _ in texts]
        runs = [text[start : start + tokens] for (text, _), start in zip(texts, starts, strict=True)]
        return {"lead_ids": np.stack(runs).astype(np.int64)}
