"""Bytes to text in constant memory: files, gzip files and standard input, checked for being text at all."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from rmt.errors import InputError

CHUNK_BYTES = 1 << 16

_SURROGATE = re.compile("[\ud800-\udfff]")


def mended(text: str) -> str:
    """The text with U+FFFD for each lone surrogate, as JSON escapes and PDF fonts give: UTF-8 has none."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def decode(stream: io.BufferedIOBase, name: str) -> Iterator[str]:
    """Text of a UTF-8 byte stream, as it arrives, without byte order mark, every line ending a newline.

    Raises:
        InputError: bytes that are not UTF-8, or a NUL byte; the message names the (decompressed) offset.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    offset = 0
    begun = False
    while True:
        chunk = stream.read1(CHUNK_BYTES)  # what a terminal or a pipe has now; `read` would wait for all
        nul = chunk.find(b"\0")
        if nul >= 0:
            raise _not_text(name, f"a NUL byte at offset {offset + nul}")
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            raise _not_text(name, f"bytes that are not UTF-8 at offset {offset - pending + error.start}") from None
        if text and not begun:
            text, begun = text.removeprefix("\ufeff"), True
        offset += len(chunk)
        text = newlines.decode(text, final=not chunk)
        if text:
            yield text
        if not chunk:
            return


@contextmanager
def open_bytes(path: Path) -> Iterator[io.BufferedIOBase]:
    """A file opened for reading bytes, decompressed when its name ends in `.gz`.

    Raises:
        InputError: the file cannot be opened or read, or is not the gzip file that its name says.
    """
    try:
        with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else open(path, "rb") as stream:
            yield stream
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise InputError(
            f"{path}: expected a whole gzip file, got one that is broken ({error}); copy it again"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: expected a readable file, got {error.strerror or error}; check it") from None


def file_text(path: Path) -> Iterator[str]:
    """Text of one file, decompressed when its name ends in `.gz`; errors as of `decode` and `open_bytes`."""
    with open_bytes(path) as stream:
        yield from decode(stream, str(path))


def stdin_text() -> Iterator[str]:
    """Text of standard input, while it is being written; errors as of `decode`.

    A stream of its own: a thread that waits in `sys.stdin` holds a lock that Python wants when it ends.
    """
    try:
        number = sys.stdin.fileno()
    except (OSError, ValueError):  # what stands in for it has no file
        yield from decode(cast(io.BufferedIOBase, sys.stdin.buffer), "standard input")
        return
    with open(number, "rb", closefd=False) as stream:
        yield from decode(stream, "standard input")


def _not_text(name: str, found: str) -> InputError:
    return InputError(f"{name}: expected UTF-8 text, got {found}; convert it to UTF-8 text first")
