"""Many documents into memories, in their order: opens each when there is room for it, and names the one that fails.

Knows nothing of how they are read side by side (:mod:`rmt.executors.packed`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from rmt.data.tokens import TokenFile
from rmt.errors import InputError
from rmt.executors.packed import Packed
from rmt.memory import Memory, MemoryMeta
from rmt.session import Runner, Session, Tokens, as_tokens

State = dict[str, Tensor]
AHEAD = 1024  # documents that may end, and wait, before one that was given earlier does; their memories are held


@runtime_checkable
class ManyRunner(Runner, Protocol):
    """What reading many documents asks of a reader."""

    def read(self, source: Any, *, progress: bool = True) -> Memory:
        """The memory of one document."""

    def tokens_of(self, source: str | Path, path: str | Path, *, progress: bool = True) -> TokenFile:
        """The tokens of a text source, in a file."""

    def describe(self, tokens: Tokens) -> tuple[str, str]:
        """Name and digest of a source that can be read."""

    def check(self, ids: np.ndarray) -> None:
        """Refuse ids beyond the vocabulary."""


@dataclass(frozen=True)
class _Open:
    """A document that is being read."""

    tokens: Tokens
    name: str
    digest: str
    files: ExitStack


@dataclass
class Desk:
    """Documents on their way: opened in their order, ended in any, handed out in their order.

    Args:
        reader: whose model reads.
        documents: paths, names of text sources, or tokens; drawn one at a time.
        ahead: documents that may be opened before an earlier one has ended.
    """

    reader: ManyRunner
    documents: Iterable[Any]
    ahead: int
    _open: dict[int, _Open] = field(default_factory=dict)
    _done: dict[int, Memory | InputError] = field(default_factory=dict)
    _handed_out: int = 0
    _failed: bool = False

    def runs(self) -> Iterator[Iterator[np.ndarray] | None]:
        """The segments of each document; nothing more behind one that cannot be read."""
        for number, source in enumerate(self.documents):
            while number - self._handed_out >= self.ahead:
                yield None
            if self._failed:
                return
            try:
                self._open[number] = self._take(source)
            except InputError as error:
                self._fail(number, error)
                return
            yield self._segments(number)

    def end(self, number: int, state: State) -> None:
        """Take what was read of a document."""
        document = self._open.pop(number)
        document.files.close()
        session = Session(self.reader, state, MemoryMeta(), len(document.tokens))
        self._done.setdefault(number, session.memory(document.name, document.digest))

    def ready(self) -> Iterator[Memory]:
        """Memories whose turn has come.

        Raises:
            InputError: it is the turn of a document that could not be read; says which.
        """
        while (result := self._done.pop(self._handed_out, None)) is not None:
            if isinstance(result, InputError):
                raise result
            self._handed_out += 1
            yield result

    def close(self) -> None:
        """Close what is open."""
        for document in self._open.values():
            document.files.close()

    def _take(self, source: Any) -> _Open:
        with ExitStack() as files:
            if isinstance(source, str | Path):
                folder = Path(files.enter_context(tempfile.TemporaryDirectory(prefix="rmt-")))
                tokens: Tokens = self.reader.tokens_of(source, folder / "tokens", progress=False)
                files.enter_context(tokens)  # type: ignore[arg-type]  # a TokenFile
            else:
                tokens = as_tokens(source)
            return _Open(tokens, *self.reader.describe(tokens), files.pop_all())

    def _segments(self, number: int) -> Iterator[np.ndarray]:
        tokens = self._open[number].tokens
        try:
            for start in range(0, len(tokens), self.reader.block):
                block = np.asarray(tokens[start : start + self.reader.block], dtype=np.int64)
                self.reader.check(block)
                for at in range(0, len(block), self.reader.segment_size):
                    yield block[at : at + self.reader.segment_size]
        except InputError as error:
            self._fail(number, error)

    def _fail(self, number: int, error: InputError) -> None:
        self._failed = True
        self._done[number] = named(number, error)


def named(number: int, error: InputError) -> InputError:
    """The same error, which says at which document, counted from 1."""
    made = InputError(f"document {number + 1}: {error}")
    made.__cause__ = error
    return made


def read_packed(
    reader: ManyRunner, packed: Packed, model: Any, initial: State, documents: Iterable[Any], ahead: int = AHEAD
) -> Iterator[Memory]:
    """The memory of each document, in the order given, with as many of them open as there are slots."""
    desk = Desk(reader, documents, ahead)
    try:
        for number, state in packed.read_many(model, desk.runs(), initial, reader.segment_size):
            desk.end(number, state)
            yield from desk.ready()
        yield from desk.ready()
    finally:
        desk.close()


def read_in_turn(reader: ManyRunner, documents: Iterable[Any]) -> Iterator[Memory]:
    """The memory of each document, one after another."""
    for number, source in enumerate(documents):
        try:
            memory = reader.read(source, progress=False)
        except InputError as error:
            raise named(number, error) from error
        yield memory
