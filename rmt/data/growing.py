"""Token ids of a text that is still being tokenised: read as they come, on disk, so that length costs no memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from threading import Condition, Thread
from types import TracebackType

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerBase

from rmt.data.tokens import TokenFile, id_type, partial_of, pread_ids

LONGEST_WAIT = 1.0  # seconds for a thread to end that nobody wants; one that waits for standard input may never do


class Stopped(Exception):  # no error: ends a thread that nobody wants
    """Raised where the next piece of text is asked for, to end tokenising."""


class GrowingTokens:
    """A :class:`TokenFile` in the making, by another thread; used with ``with``.

    Args:
        texts, tokenizer, path, source: as :meth:`TokenFile.build` takes them; ``texts`` is drawn by the thread.
    """

    def __init__(
        self, texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, path: str | Path, source: str = ""
    ) -> None:
        self._texts, self._tokenizer, self._path, self._source = texts, tokenizer, Path(path), source
        self._dtype = id_type(tokenizer)
        self._changed = Condition()
        self._count = 0
        self._done: TokenFile | BaseException | None = None
        self._stopped = False
        self._file: int | None = None
        self._thread = Thread(target=self._build, name="rmt-tokenise", daemon=True)

    def __enter__(self) -> GrowingTokens:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped = True
        self._thread.join(LONGEST_WAIT)
        if self._thread.is_alive():
            return  # a descriptor that it may yet read stays with it
        if self._file is not None:
            os.close(self._file)
        if isinstance(self._done, TokenFile):
            self._done.close()

    @property
    def total(self) -> int | None:
        """Tokens in all, once that is known."""
        return len(self._done) if isinstance(self._done, TokenFile) else None

    def finished(self) -> TokenFile:
        """The whole file, as soon as it is there; closed with this.

        Raises:
            InputError: whatever :meth:`TokenFile.build` or the text's source said.
        """
        self._thread.join()
        if isinstance(self._done, TokenFile):
            return self._done
        assert self._done is not None
        raise self._done

    def blocks(self, size: int) -> Iterator[Int[np.ndarray, " tokens"]]:
        """int64 arrays of ``size`` ids in order, each as soon as it is there; the last may be shorter, never empty.

        Raises:
            InputError: see :meth:`finished`.
        """
        position = 0
        while len(block := self._take(position, size)):
            yield block
            position += len(block)

    def _take(self, position: int, size: int) -> Int[np.ndarray, " tokens"]:
        with self._changed:
            self._changed.wait_for(lambda: self._done is not None or self._count >= position + size)
        if self._done is not None:
            return self.finished()[position : position + size]
        assert self._file is not None
        return pread_ids(self._file, self._dtype, position, size)

    def _build(self) -> None:
        done: TokenFile | BaseException
        try:
            done = TokenFile.build(
                self._wanted(), self._tokenizer, self._path, progress=self._grown, source=self._source
            )
        except BaseException as error:
            done = error  # raised again where ids are asked for
        with self._changed:
            self._done = done
            self._changed.notify_all()

    def _wanted(self) -> Iterator[str]:
        for text in self._texts:
            if self._stopped:
                raise Stopped
            yield text

    def _grown(self, _: int, tokens: int) -> None:
        if self._file is None:  # while it has the name under which this thread writes
            self._file = os.open(partial_of(self._path), os.O_RDONLY)
        with self._changed:
            self._count = tokens
            self._changed.notify_all()
