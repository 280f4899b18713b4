"""Any model that is shown a part of a document only: what people do where a text is too long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np
from jaxtyping import Int

from evals.model import Document, Model, Sampling, Score, State

KEEP = ("last", "ends")


def kept(length: int, size: int, keep: str) -> list[tuple[int, int]]:
    """Token ranges [start, stop) of a document that are kept: the last ``size``, or the first and the last half.

    "ends" is what LongBench (arXiv 2308.14508, section 4.1) does to texts that are too long: cut from the middle.
    """
    if length <= size:
        return [(0, length)]
    head = size // 2 if keep == "ends" else 0
    return [part for part in ((0, head), (length - size + head, length)) if part[1] > part[0]]


@dataclass(frozen=True)
class Part:
    """Some ranges of a document, one behind the other, as a document; made as it is read."""

    whole: Document
    ranges: tuple[tuple[int, int], ...]

    @property
    def length(self) -> int:
        """Tokens of all ranges."""
        return sum(stop - start for start, stop in self.ranges)

    @property
    def questions(self) -> Sequence[Any]:
        """Those of the document."""
        return self.whole.questions

    def tokens(self, start: int, stop: int) -> Int[np.ndarray, " length"]:
        """Token ids, int64."""
        pieces, at = [np.zeros(0, dtype=np.int64)], 0
        for begin, end in self.ranges:
            first, last = max(start - at, 0), min(stop - at, end - begin)
            if last > first:
                pieces.append(np.asarray(self.whole.tokens(begin + first, begin + last), dtype=np.int64))
            at += end - begin
        return np.concatenate(pieces)


class Truncated(Generic[State]):
    """Shows ``inner`` the last ``size`` tokens of a document, or with ``keep="ends"`` its first and last half of them.

    Raises:
        ValueError: a size below 1, or an unknown ``keep``.
    """

    def __init__(self, inner: Model[State], size: int, keep: str = "last") -> None:
        if size < 1:
            raise ValueError(f"size: expected at least 1 token, got {size}; give more")
        if keep not in KEEP:
            raise ValueError(f"keep: expected one of {', '.join(KEEP)}, got {keep!r}; name one")
        self.inner, self.size, self.keep = inner, size, keep

    @property
    def name(self) -> str:
        """The model's, and what it is shown."""
        return f"{self.inner.name}, {'last' if self.keep == 'last' else 'both ends of'} {self.size} tokens"

    @property
    def segment(self) -> int | None:
        """The model's."""
        return self.inner.segment

    @property
    def answers(self) -> tuple[str, ...] | None:
        """The model's."""
        return self.inner.answers

    @property
    def controls(self) -> tuple[str, ...]:
        """The model's."""
        return self.inner.controls

    def fingerprint(self) -> str:
        """The model's, and what it is shown."""
        return f"{self.inner.fingerprint()} truncate={self.size},{self.keep}"

    def encode(self, text: str) -> Int[np.ndarray, " tokens"]:
        """The model's."""
        return self.inner.encode(text)

    def decode(self, ids: Int[np.ndarray, " tokens"]) -> str:
        """The model's."""
        return self.inner.decode(ids)

    def initial(self) -> State:
        """The model's."""
        return self.inner.initial()

    def read(self, documents: Sequence[Document]) -> Sequence[State]:
        """The model's states of the parts; no other token is made."""
        return self.inner.read([Part(d, tuple(kept(d.length, self.size, self.keep))) for d in documents])

    def score(
        self, state: State, prompt: Int[np.ndarray, " tokens"], continuations: Sequence[Int[np.ndarray, " _"]]
    ) -> Sequence[Score]:
        """The model's."""
        return self.inner.score(state, prompt, continuations)

    def generate(
        self,
        state: State,
        prompts: Sequence[Int[np.ndarray, " _"]],
        max_tokens: int,
        stop: Sequence[str] = (),
        sampling: Sequence[Sampling] | None = None,
    ) -> Sequence[str]:
        """The model's."""
        return self.inner.generate(state, prompts, max_tokens, stop, sampling)

    def shuffled(self, state: State, seed: int) -> State:
        """The model's."""
        return self.inner.shuffled(state, seed)
