"""Retrieval: a document is an index of chunks, and a model reads the few that are nearest to a question.

What people use where a text is too long for their model. Knows nothing of torch; how texts become vectors is the
embedder's business, see ``evals.models.embedding``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from evals.model import Document, Model, Sampling, Score, State
from evals.models.truncated import Part

BLOCK = 64  # chunks whose tokens are made at a time


@runtime_checkable
class Embeds(Protocol):
    """What retrieval asks of an embedder."""

    def fingerprint(self) -> str:
        """A string that changes when its vectors do."""

    def encode(self, text: str) -> Int[np.ndarray, " tokens"]:
        """Token ids of a text, without special tokens."""

    def embed(self, rows: Sequence[Int[np.ndarray, " _"]]) -> Float[np.ndarray, "rows width"]:
        """A vector of length 1 for each row."""


@dataclass(frozen=True, eq=False)
class Index:
    """A document as chunks.

    Attributes:
        document: whose tokens are made again when a chunk is chosen; None for nothing read.
        vectors: float16 of shape (chunks, width), of length 1; chunk n begins at token n * (chunk - overlap).
    """

    document: Document | None
    vectors: np.ndarray


class Retrieval(Generic[State]):
    """Chunks by likeness to the question, in the order of the document, read by ``inner``, which is then asked.

    Args:
        inner: the model that answers.
        embedder: makes vectors of chunks and questions.
        k: chunks to read.
        chunk, overlap: tokens of a chunk, and how many of them the next one begins with.
        neighbours: chunks on either side of a chosen one that are read with it.
        query: last tokens of the prompt that are looked for; None for all. A prompt with instructions and examples is
            not what the document says, its end is the question.
        same_tokens: whether the embedder has the tokenizer of ``inner``, so that no text need be made in between.

    Raises:
        ValueError: numbers below what makes sense.
    """

    controls = ("zeroed", "swapped")
    segment = None

    def __init__(
        self,
        inner: Model[State],
        embedder: Embeds,
        *,
        k: int = 5,
        chunk: int = 128,
        overlap: int = 0,
        neighbours: int = 0,
        query: int | None = None,
        same_tokens: bool = False,
    ) -> None:
        for name, value, least in (("k", k, 1), ("chunk", chunk, 1), ("neighbours", neighbours, 0)):
            if value < least:
                raise ValueError(f"{name}: expected at least {least}, got {value}; give more")
        if not 0 <= overlap < chunk:
            raise ValueError(
                f"overlap: expected 0 to {chunk - 1} tokens of a chunk of {chunk}, got {overlap}; give less"
            )
        if query is not None and query < 1:
            raise ValueError(f"query: expected at least 1 token of the prompt, got {query}; leave it out for all")
        self.inner, self.embedder = inner, embedder
        self.k, self.chunk, self.overlap = k, chunk, overlap
        self.neighbours, self.query, self.same_tokens = neighbours, query, same_tokens

    @property
    def name(self) -> str:
        """The model's, and what is retrieved."""
        return f"{self.inner.name}, retrieval of {self.k} x {self.chunk}"

    @property
    def answers(self) -> tuple[str, ...] | None:
        """The model's."""
        return self.inner.answers

    def fingerprint(self) -> str:
        """The model's, the embedder's, and how chunks are cut and chosen."""
        how = (self.k, self.chunk, self.overlap, self.neighbours, self.query, self.same_tokens)
        return f"{self.inner.fingerprint()} retrieval={','.join(map(str, how))} {self.embedder.fingerprint()}"

    def encode(self, text: str) -> Int[np.ndarray, " tokens"]:
        """The model's."""
        return self.inner.encode(text)

    def decode(self, ids: Int[np.ndarray, " tokens"]) -> str:
        """The model's."""
        return self.inner.decode(ids)

    def initial(self) -> Index:
        """An index of nothing."""
        return Index(None, np.zeros((0, 0), dtype=np.float16))

    def read(self, documents: Sequence[Document]) -> list[Index]:
        """The index of each document; its tokens are made and embedded in blocks, none is kept."""
        return [self._index(document) for document in documents]

    def retrieve(self, state: Index, prompt: Int[np.ndarray, " tokens"]) -> Part | None:
        """What the model is to read for this prompt: chosen chunks in the document's order, none of its tokens twice.

        None where nothing was read.
        """
        if state.document is None or not len(state.vectors):
            return None
        wanted = self.embedder.embed([self._embedded(prompt[-self.query :] if self.query else prompt)])[0]
        nearest = np.argsort(-(state.vectors.astype(np.float32) @ wanted), kind="stable")[: self.k]
        chosen = {n + by for n in nearest.tolist() for by in range(-self.neighbours, self.neighbours + 1)}
        ranges: list[tuple[int, int]] = []
        for number in sorted(chosen & set(range(len(state.vectors)))):
            start, stop = self._range(number, state.document.length)
            if ranges and start <= ranges[-1][1]:
                ranges[-1] = (ranges[-1][0], stop)
            else:
                ranges.append((start, stop))
        return Part(state.document, tuple(ranges))

    def score(
        self, state: Index, prompt: Int[np.ndarray, " tokens"], continuations: Sequence[Int[np.ndarray, " _"]]
    ) -> Sequence[Score]:
        """The model's, of what it read for this prompt."""
        return self.inner.score(self._read(state, prompt), prompt, continuations)

    def generate(
        self,
        state: Index,
        prompts: Sequence[Int[np.ndarray, " _"]],
        max_tokens: int,
        stop: Sequence[str] = (),
        sampling: Sequence[Sampling] | None = None,
    ) -> list[str]:
        """The model's, of what it reads for each prompt."""
        ways = [None] * len(prompts) if sampling is None else [[way] for way in sampling]
        asked = zip(prompts, ways, strict=True)
        return [self.inner.generate(self._read(state, p), [p], max_tokens, stop, way)[0] for p, way in asked]

    def shuffled(self, state: Index, seed: int) -> Index:
        """Chunks have no channels. Raises ValueError."""
        raise ValueError("shuffled: expected zeroed or swapped of an index of chunks, got shuffled; leave it out")

    def _read(self, state: Index, prompt: np.ndarray) -> State:
        part = self.retrieve(state, prompt)
        return self.inner.initial() if part is None else self.inner.read([part])[0]

    def _index(self, document: Document) -> Index:
        made = [self.embedder.embed(rows).astype(np.float16) for rows in self._rows(document)]
        return Index(document, np.concatenate(made)) if made else self.initial()

    def _rows(self, document: Document) -> Iterator[list[np.ndarray]]:
        """Tokens of the chunks as the embedder wants them, a block at a time."""
        step = self.chunk - self.overlap
        # The last chunk is the first that reaches the end.
        count = 0 if not document.length else max(0, -(-(document.length - self.chunk) // step)) + 1
        for first in range(0, count, BLOCK):
            ranges = [self._range(n, document.length) for n in range(first, min(first + BLOCK, count))]
            begin = ranges[0][0]
            ids = np.asarray(document.tokens(begin, ranges[-1][1]), dtype=np.int64)
            yield [self._embedded(ids[start - begin : stop - begin]) for start, stop in ranges]

    def _range(self, number: int, length: int) -> tuple[int, int]:
        start = number * (self.chunk - self.overlap)
        return start, min(start + self.chunk, length)

    def _embedded(self, ids: Any) -> np.ndarray:
        """Tokens of the model as tokens of the embedder."""
        return np.asarray(ids if self.same_tokens else self.embedder.encode(self.inner.decode(ids)), dtype=np.int64)
