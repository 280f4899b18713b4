"""Text in pieces to token ids in pieces: those of the whole text, which is never held at once."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerBase

from rmt.data.plain import mended

CHUNK_CHARS = 1 << 14
"""Characters tokenised at a time. Larger chunks are no faster, they only hold more."""

_MAX_CHUNK_CHARS = 1 << 16
_LAST_WORD_END = re.compile(r"(?s).*\S(?=\s)")
_PROBE = ("The river", " bank was quiet in 1859.")


def tokenize_stream(
    texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, *, chunk_chars: int = CHUNK_CHARS
) -> Iterator[Int[np.ndarray, " tokens"]]:
    """Token ids of a text that comes in pieces, without special tokens.

    The text is cut only between two words: at a space with a letter on either side. There a WordPiece
    tokenizer ends a word and a byte-level BPE begins one (the space belongs to the word after it), so the ids
    are those of the whole text. Text with no such place for 65,536 characters is cut at any white space, or,
    with none, anywhere.

    Args:
        texts: pieces that, joined with nothing between them, are the text; they may end inside a word. Half a
            character (a lone surrogate) counts as U+FFFD.
        tokenizer: any tokenizer of `transformers`.
        chunk_chars: about how many characters to tokenise at a time, at least 1.

    Yields:
        int64 arrays of token ids, shape [tokens], none empty.
    """
    keep_space = _keeps_space(tokenizer)
    for chunk in _chunks(map(mended, texts), chunk_chars, keep_space):
        ids = _encode(tokenizer, chunk)
        if ids:
            yield np.asarray(ids, dtype=np.int64)


class StreamTokenizer:
    """Tokenises a text that is handed over piece by piece; the ids are those of `tokenize_stream`.

    For callers that are given text, where `tokenize_stream` is for those that ask for it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, chunk_chars: int = CHUNK_CHARS) -> None:
        self._tokenizer = tokenizer
        self._cutter = _Cutter(chunk_chars, _keeps_space(tokenizer))

    def push(self, text: str) -> Int[np.ndarray, " tokens"]:
        """Takes a piece; int64 ids of what can be cut off between words now, maybe none."""
        return self._ids(self._cutter.push(mended(text)))

    def flush(self) -> Int[np.ndarray, " tokens"]:
        """int64 ids of all that is left: the text ends here, and a new one may begin."""
        return self._ids([self._cutter.rest()])

    def _ids(self, chunks: Iterable[str]) -> Int[np.ndarray, " tokens"]:
        ids = [_encode(self._tokenizer, chunk) for chunk in chunks if chunk]
        return np.asarray([token for part in ids for token in part], dtype=np.int64)


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Names a tokenizer by what it does: 16 hexadecimal digits over its vocabulary and ids of a fixed text.

    The class, the path and the version of the library do not enter, so the same tokenizer has one name
    everywhere.
    """
    probe = _encode(tokenizer, "".join(_PROBE) + "\n\n\tCafé NAÏVE don't x_1 = [3.5e-2];")
    content = json.dumps([sorted(tokenizer.get_vocab().items()), probe], ensure_ascii=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    # verbose=False: no warning that the text is longer than the model's positions, it is meant to be.
    encoded = tokenizer(
        text,
        add_special_tokens=False,
        padding=False,
        truncation=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    return list(encoded["input_ids"])


def _keeps_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the space at a cut goes with the text after it, or is dropped.

    SentencePiece tokenizers that put a space before every text would see two if the text began with its own.
    """
    before, after = _PROBE
    whole = _encode(tokenizer, before + after)
    kept = _encode(tokenizer, before) + _encode(tokenizer, after)
    dropped = _encode(tokenizer, before) + _encode(tokenizer, after[1:])
    return kept == whole or dropped != whole


class _Cutter:
    """Pieces of text in, chunks that end between words out."""

    def __init__(self, size: int, keep_space: bool) -> None:
        self._size = self._wanted = size
        self._limit = max(4 * size, _MAX_CHUNK_CHARS)
        self._keep_space = keep_space
        self._buffer = ""

    def push(self, text: str) -> Iterator[str]:
        """The chunks that can be cut off; to be exhausted before the next call."""
        self._buffer += text
        start = 0
        while len(self._buffer) - start > self._wanted:
            cut, skip = _cut(self._buffer, start, self._size, self._limit, self._keep_space)
            if cut is None:
                # Looking again after every small piece would take time that grows with its square.
                self._wanted = min(2 * (len(self._buffer) - start), self._limit)
                break
            yield self._buffer[start:cut]
            start = cut + skip
            self._wanted = self._size
        self._buffer = self._buffer[start:]

    def rest(self) -> str:
        """What is left at the end of the text."""
        rest, self._buffer = self._buffer, ""
        return rest


def _chunks(texts: Iterable[str], size: int, keep_space: bool) -> Iterator[str]:
    cutter = _Cutter(size, keep_space)
    for text in texts:
        yield from cutter.push(text)
    if rest := cutter.rest():
        yield rest


def _cut(buffer: str, start: int, size: int, limit: int, keep_space: bool) -> tuple[int | None, int]:
    """Where the chunk from `start` ends, and how many characters are dropped there; None asks for more."""
    # The last place before `size`, else the first after it.
    position = buffer.rfind(" ", start + 1, start + size)
    while position > 0 and not _between_words(buffer, position):
        position = buffer.rfind(" ", start + 1, position)
    if position < 0:
        position = buffer.find(" ", start + size, start + limit)
        while position > 0 and not _between_words(buffer, position):
            position = buffer.find(" ", position + 1, start + limit)
    if position > 0:
        return position, 0 if keep_space else 1
    if len(buffer) - start < limit:
        return None, 0
    match = _LAST_WORD_END.match(buffer, start + 1, start + limit)
    return (match.end(), 0) if match else (start + limit, 0)


def _between_words(buffer: str, position: int) -> bool:
    return position + 1 < len(buffer) and buffer[position - 1].isalpha() and buffer[position + 1].isalpha()
