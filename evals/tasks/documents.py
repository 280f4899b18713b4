"""Documents of an exact number of tokens, made as they are read: facts inside real text that is never tiled.

Nothing of a document is held but its facts and where its text begins, so a document of millions of tokens costs
kilobytes until it is read. Knows nothing of models, nor of what the facts are.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Tokens(Protocol):
    """Background text as token ids: a numpy array, or a file that is read in slices."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> Any: ...


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
    questions: tuple[Any, ...]
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


def place(
    rng: np.random.Generator, length: int, facts: Sequence[tuple[str, np.ndarray, bool, bool]]
) -> tuple[Insert, ...]:
    """Put facts (text, tokens, keep, opens the document) at offsets: any, in any order, none inside another."""
    room = length - sum(len(ids) for _, ids, _, _ in facts)
    if room < 0:
        raise ValueError(f"length: expected room for all facts ({length - room} tokens), got {length}")
    gaps = [(0 if opens else int(rng.integers(room + 1)), rng.random(), n) for n, (*_, opens) in enumerate(facts)]
    inserts, shift = [], 0
    for gap, _, n in sorted(gaps, key=lambda g: (g[0], not facts[g[2]][3], g[1])):
        text, ids, keep, _ = facts[n]
        inserts.append(Insert(gap + shift, text, ids, keep))
        shift += len(ids)
    return tuple(inserts)
