"""Text in pieces to token ids in pieces: those of the whole text, which is never held at once."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerBase

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
        texts: pieces that, joined with nothing between them, are the text; they may end inside a word.
        tokenizer: any tokenizer of `transformers`.
        chunk_chars: about how many characters to tokenise at a time, at least 1.

    Yields:
        int64 arrays of token ids, shape [tokens], none empty.
    """
    keep_space = _keeps_space(tokenizer)
    for chunk in _chunks(texts, chunk_chars, keep_space):
        ids = _encode(tokenizer, chunk)
        if ids:
            yield np.asarray(ids, dtype=np.int64)


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


def _chunks(texts: Iterable[str], size: int, keep_space: bool) -> Iterator[str]:
    limit = max(4 * size, _MAX_CHUNK_CHARS)
    buffer = ""
    for text in texts:
        buffer += text
        start = 0
        while len(buffer) - start > size:
            cut, skip = _cut(buffer, start, size, limit, keep_space)
            if cut is None:
                break
            yield buffer[start:cut]
            start = cut + skip
        buffer = buffer[start:]
    if buffer:
        yield buffer


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
