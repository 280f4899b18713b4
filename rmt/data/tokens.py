"""Token ids on disk: written in a stream, read by position, so that length costs no memory."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from threading import get_ident
from types import TracebackType
from typing import Any, BinaryIO, overload

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerBase

from rmt.data.plain import mended
from rmt.data.stream import tokenize_stream, tokenizer_fingerprint
from rmt.errors import InputError

_MAGIC = b"rmt-tokens 1\n"
_HEADER_BYTES = 4096  # one page: the ids begin at a page border
_DTYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
_MAX_SOURCE_CHARS = 512  # at most 6 bytes each as JSON, so the header fits its page


class TokenFile:
    """A file of token ids, opened for reading.

    Layout: a header of 4,096 bytes (the line `rmt-tokens 1`, a JSON object, padding), then the ids,
    little-endian, of 2 bytes where the vocabulary has at most 65,536 entries and of 4 otherwise. Slices are
    read by position and nothing stays resident, unlike the pages of a memory map. It can be read from several
    threads, and pickled by its path.

    Attributes:
        path: where the file lies.
        dtype: of the ids on disk, `uint16` or `uint32`.
        digest: SHA-256 of the UTF-8 text that the ids came from, 64 hexadecimal digits.
        tokenizer_fingerprint: of the tokenizer, see `rmt.data.stream.tokenizer_fingerprint`.
        source: what the text was, in the words of whoever built the file.
        num_chars: length of the text in characters.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: BinaryIO = _open(self.path)
        try:
            header = _read_header(self.path, self._file)
        except BaseException:
            self._file.close()
            raise
        self._count: int = header["count"]
        self.dtype = _DTYPES[header["dtype"]]
        self.digest: str = header["text_sha256"]
        self.tokenizer_fingerprint: str = header["tokenizer"]
        self.source: str = header["source"]
        self.num_chars: int = header["num_chars"]

    @classmethod
    def open(cls, path: str | Path, tokenizer: PreTrainedTokenizerBase | None = None) -> TokenFile:
        """Opens a token file.

        Args:
            path: a file that `build` wrote.
            tokenizer: when given, the file must come from this tokenizer.

        Raises:
            InputError: the file is missing, foreign, cut short, or of another tokenizer.
        """
        file = cls(path)
        if tokenizer is not None and (expected := tokenizer_fingerprint(tokenizer)) != file.tokenizer_fingerprint:
            file.close()
            found = file.tokenizer_fingerprint
            raise InputError(
                f"{path}: expected ids of tokenizer {expected}, got those of {found}; build the file again"
            )
        return file

    @classmethod
    def build(
        cls,
        texts: Iterable[str],
        tokenizer: PreTrainedTokenizerBase,
        path: str | Path,
        *,
        progress: Callable[[int, int], None] | None = None,
        source: str = "",
    ) -> TokenFile:
        """Tokenises a text that comes in pieces into a file, and opens it.

        The ids are those of the whole text, without special tokens. The file is written beside and renamed,
        so `path` holds either what it held before or all of the text.

        Args:
            texts: pieces of the text; joined with nothing between them they are the text.
            tokenizer: any tokenizer of `transformers`.
            path: the file to write; its folder is made.
            progress: called now and then, and at the end, with the characters and the tokens so far, which have
                been written by then.
            source: what the text is, kept in the header (the first 512 characters).

        Raises:
            InputError: there are no tokens in the text, or the file cannot be written.
        """
        path = Path(path)
        partial = partial_of(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            target = partial.open("wb")
        except OSError as error:
            raise InputError(
                f"{path}: expected a file that can be written, got {error.strerror}; choose another"
            ) from None
        try:
            with target:
                _write(target, texts, tokenizer, progress, source, str(path))
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return cls.open(path)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Int[np.ndarray, " tokens"]: ...
    def __getitem__(self, index: int | slice) -> int | Int[np.ndarray, " tokens"]:
        """`[a:b]`: int64 array of shape [tokens], read now; `[i]`: one id. Steps other than 1 are refused."""
        if isinstance(index, slice):
            start, stop, step = index.indices(self._count)
            if step != 1:
                raise ValueError(f"expected a slice with step 1, got step {step}; slice the array that comes back")
            return self._read(start, max(stop - start, 0))
        position = index + self._count if index < 0 else index
        if not 0 <= position < self._count:
            raise IndexError(f"expected an index within {self._count} tokens, got {index}")
        return int(self._read(position, 1)[0])

    def iter(self, chunk: int, start: int = 0) -> Iterator[Int[np.ndarray, " tokens"]]:
        """int64 arrays of `chunk` ids in order from token `start`; the last may be shorter."""
        if chunk < 1:
            raise ValueError(f"expected a chunk of at least 1 token, got {chunk}")
        for position in range(start, self._count, chunk):
            yield self[position : position + chunk]

    def close(self) -> None:
        """Closes the file; closing twice does no harm."""
        self._file.close()

    def __enter__(self) -> TokenFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[TokenFile], tuple[str]]:
        return TokenFile, (str(self.path),)

    def __repr__(self) -> str:
        return f"TokenFile({str(self.path)!r}, {self._count:,} tokens, {self.dtype})"

    def _read(self, start: int, count: int) -> Int[np.ndarray, " tokens"]:
        found = pread_ids(self._file.fileno(), self.dtype, start, count)
        if len(found) < count:
            raise InputError(f"{self.path}: expected {self._count} tokens, got fewer; build the file again")
        return found


def partial_of(path: Path) -> Path:
    """Where this thread writes a token file, before it has its name."""
    return path.with_name(f"{path.name}.{os.getpid()}-{get_ident()}.partial")


def id_type(tokenizer: PreTrainedTokenizerBase) -> np.dtype[Any]:
    """Of a tokenizer's ids on disk."""
    return _DTYPES["uint16" if len(tokenizer) <= 1 << 16 else "uint32"]


def pread_ids(file: int, dtype: np.dtype[Any], start: int, count: int) -> Int[np.ndarray, " tokens"]:
    """Ids of an open token file from ``start`` on, int64; fewer where it ends before."""
    wanted, offset = count * dtype.itemsize, _HEADER_BYTES + start * dtype.itemsize
    data = b""
    while len(data) < wanted:  # one read call returns 2 GiB at most
        more = os.pread(file, wanted - len(data), offset + len(data))
        if not more:
            break
        data = data + more if data else more
    return np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype=dtype).astype(np.int64)


def _write(
    target: BinaryIO,
    texts: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    progress: Callable[[int, int], None] | None,
    source: str,
    name: str,
) -> None:
    """The header and the ids; the header last, when the count and the digest are known."""
    digest = hashlib.sha256()
    chars = count = 0

    def watched() -> Iterator[str]:
        nonlocal chars
        for text in map(mended, texts):
            digest.update(text.encode())
            chars += len(text)
            yield text

    dtype = id_type(tokenizer)
    target.write(bytes(_HEADER_BYTES))
    for ids in tokenize_stream(watched(), tokenizer):
        target.write(ids.astype(dtype).tobytes())
        count += len(ids)
        if progress is not None:
            target.flush()
            progress(chars, count)
    if not count:
        raise InputError(f"{source or name}: expected text with tokens, got none; give a text that is not empty")
    header = {
        "count": count,
        "dtype": dtype.name,
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "text_sha256": digest.hexdigest(),
        "num_chars": chars,
        "source": source[:_MAX_SOURCE_CHARS],
    }
    content = _MAGIC + json.dumps(header, ensure_ascii=False).encode("utf-8", "replace")
    assert len(content) <= _HEADER_BYTES
    target.seek(0)
    target.write(content.ljust(_HEADER_BYTES))
    target.flush()
    os.fsync(target.fileno())  # the name must not outlive the content when the machine stops


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb", buffering=0)
    except OSError as error:
        raise InputError(f"{path}: expected a token file, got {error.strerror}; build one first") from None


def _read_header(path: Path, file: BinaryIO) -> dict[str, Any]:
    raw = os.pread(file.fileno(), _HEADER_BYTES, 0)
    if not raw.startswith(_MAGIC):
        raise InputError(f"{path}: expected a token file, got a file of another kind; build one with TokenFile.build")
    try:
        header = json.loads(raw[len(_MAGIC) :])
        count, itemsize = int(header["count"]), _DTYPES[header["dtype"]].itemsize
        fields = {name: header[name] for name in ("tokenizer", "text_sha256", "num_chars", "source")}
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: expected a token file, got one with a broken header; build it again") from None
    expected, size = _HEADER_BYTES + count * itemsize, os.fstat(file.fileno()).st_size
    if size != expected:
        raise InputError(f"{path}: expected {expected} bytes for {count} tokens, got {size}; build the file again")
    return {"count": count, "dtype": header["dtype"], **fields}
