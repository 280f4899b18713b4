"""A text read as it comes: pieces of any size in, the memory of the whole out; under :mod:`rmt.reader`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rmt.data.stream import StreamTokenizer
from rmt.errors import InputError
from rmt.memory import Memory, MemoryMeta

_DIGEST_BLOCK = 1 << 16
State = dict[str, Tensor]


@runtime_checkable
class Tokens(Protocol):
    """Token ids with a length, read in slices."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> Any: ...


@runtime_checkable
class Runner(Protocol):
    """What a session asks of a reader."""

    tokenizer: PreTrainedTokenizerBase

    def fingerprint(self) -> str:
        """Of the model."""

    @property
    def block(self) -> int:
        """Tokens that are read together."""

    @property
    def segment_size(self) -> int:
        """Tokens of a segment."""

    def run(self, ids: Int[np.ndarray, "batch tokens"], state: State, position: int = 0) -> State:
        """The state after a block of tokens, which begins at this token of its document."""

    def settings(self) -> dict[str, str]:
        """What the bits of a memory depend on beside model and text."""


def as_tokens(source: Any) -> Tokens:
    """Token ids as something whose slices are arrays.

    Raises:
        InputError: neither a sequence nor one-dimensional.
    """
    if isinstance(source, Tensor):
        source = source.detach().cpu().numpy()
    if isinstance(source, list | tuple):
        source = np.asarray(source, dtype=np.int64)
    if not hasattr(source, "__len__") or not hasattr(source, "__getitem__"):
        raise InputError(f"source: expected a path or token ids, got {type(source).__name__}; give one of these")
    if isinstance(source, np.ndarray) and source.ndim != 1:
        raise InputError(f"source: expected token ids of one document, got shape {source.shape}; give one row")
    tokens: Tokens = source
    return tokens


def digest_of(tokens: Tokens) -> str:
    """SHA-256 of token ids as little-endian 64-bit numbers, taken in blocks; 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for start in range(0, len(tokens), _DIGEST_BLOCK):
        digest.update(_bytes(tokens[start : start + _DIGEST_BLOCK]))
    return digest.hexdigest()


class Session:
    """A text read as it comes.

    Pieces of any size give the very memory that reading all of it at once gives: tokens wait here until a
    block is full. Call :meth:`feed` any number of times, then :meth:`finish` once.

    Args:
        reader: whose model reads.
        state: the memory to begin with.
        before: how that came to be.
        position: tokens of this text that ``state`` has seen already, a multiple of a block.
    """

    def __init__(self, reader: Runner, state: State, before: MemoryMeta, position: int = 0) -> None:
        self._reader = reader
        self._state = state
        self._before = before
        self._position = position
        self._waiting: list[np.ndarray] = []
        self._text = StreamTokenizer(reader.tokenizer)
        self._digest = hashlib.sha256()
        self._finished = False

    def feed(self, piece: str | Tokens | Sequence[int] | Tensor) -> None:
        """Take the next piece: text, which may end inside a word, or token ids.

        Raises:
            InputError: after :meth:`finish`, or ids beyond the vocabulary.
        """
        if self._finished:
            raise InputError("session: expected nothing after finish(), got more; begin another session")
        if isinstance(piece, str):
            self._digest.update(piece.encode("utf-8", "replace"))
            self.feed_ids(self._text.push(piece))
        else:
            self.feed_ids(self._text.flush())
            tokens = as_tokens(piece)
            ids = np.asarray(tokens[0 : len(tokens)], dtype=np.int64)
            self._digest.update(_bytes(ids))
            self.feed_ids(ids)

    def finish(self, source: str = "pieces") -> Memory:
        """Read what is still waiting; the memory of all of it.

        The digest is that of the text where only text came, of the ids where only ids came.

        Raises:
            InputError: nothing was fed.
        """
        self.feed_ids(self._text.flush(), last=True)
        self._finished = True
        if not self._position:
            raise InputError("session: expected at least one token before finish(), got none; feed it text first")
        return self.memory(source, self._digest.hexdigest())

    def feed_ids(self, ids: Int[np.ndarray, " tokens"], last: bool = False) -> None:
        """Take token ids and read all full blocks; with ``last`` the rest as well."""
        self._waiting.append(np.asarray(ids, dtype=np.int64))
        count, block = sum(map(len, self._waiting)), self._reader.block
        full = count if last else count // block * block
        if not full:
            return
        waiting = np.concatenate(self._waiting)
        for start in range(0, full, block):
            part = waiting[start : min(start + block, full)]
            self._state = self._reader.run(part[None], self._state, self._position)
            self._position += len(part)
        self._waiting = [waiting[full:]]

    def memory(self, source: str, digest: str) -> Memory:
        """The memory of the blocks read so far, with what was read of a text of this name and digest."""
        meta = read_on(
            self._before,
            tokens=self._position,
            segments=-(-self._position // self._reader.segment_size),
            source=source,
            digest=digest,
        )
        return Memory(self._state, replace(meta, model=self._reader.fingerprint(), extra=self._reader.settings()))


def read_on(before: MemoryMeta, *, tokens: int, segments: int, source: str, digest: str) -> MemoryMeta:
    """How a memory came to be when, behind what was read before, so much of a text of this name was read."""
    return replace(
        before,
        tokens_read=before.tokens_read + tokens,
        segments_read=before.segments_read + segments,
        source=f"{before.source}, {source}" if before.source else source,
        digest=hashlib.sha256((before.digest + digest).encode()).hexdigest() if before.digest else digest,
    )


def _bytes(ids: Any) -> bytes:
    return np.ascontiguousarray(ids, dtype="<i8").tobytes()
