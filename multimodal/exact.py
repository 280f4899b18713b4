"""Text to tokens with the characters of each, where words that look like special tokens stay words.

A tokenizer takes "<image>" for its image token wherever it stands, also in what a user wrote. Here only those at
given places are; the others are cut behind their first character, and the halves encoded each by itself.
Knows tokenizers and nothing of conversations.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rmt.errors import InputError

_CONTEXTS = (".", "a", "\n", "1")


def encode(
    tokenizer: Any, text: str, written: Sequence[tuple[int, int]], added: re.Pattern[str]
) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids of a text, without special tokens around it, and the characters from which to before which each is.

    Where nothing written looks like an added token this is the tokenizer's own encoding of the whole text.

    Args:
        tokenizer: a fast one of transformers: only they tell the characters of a token.
        text: the whole text.
        written: character ranges in which nothing is a special token, whatever it looks like.
        added: from :func:`multimodal.templates.added_tokens`.

    Raises:
        InputError: the tokenizer is not fast, or takes a written word for a special token nevertheless.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            "tokenizer: expected a fast one, which tells the characters of a token, got a slow one; convert it"
        )
    own = bytearray(len(text))
    for start, end in written:
        own[start:end] = b"\1" * (end - start)
    cuts, meant = _cuts(text, own, added)
    ids: list[int] = []
    spans: list[tuple[int, int]] = []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        got, where = _encode(tokenizer, text[start:end]) if start == 0 else _behind(tokenizer, text[start:end])
        ids += got
        spans += [(a + start, b + start) for a, b in where]
    special = set(tokenizer.get_added_vocab().values())
    for token, (start, end) in zip(ids, spans, strict=True):
        if token in special and added.search(text, start, end) and not any(a < end and start < b for a, b in meant):
            raise _taken(text[start:end])
    return ids, spans


def _cuts(text: str, own: bytearray, added: re.Pattern[str]) -> tuple[list[int], list[tuple[int, int]]]:
    """Where to cut, and the ranges of added tokens that are meant."""
    cuts, meant, at = [], [], 0
    while (match := added.search(text, at)) is not None:
        start, end = match.span()
        if not any(own[start:end]):
            meant.append((start, end))
            at = end
            continue
        if end - start < 2:
            raise _taken(match[0])
        at = start + 1
        cuts.append(at)
    return cuts, meant


def _encode(tokenizer: Any, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    out = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return list(out["input_ids"]), [(int(a), int(b)) for a, b in out["offset_mapping"]]


def _behind(tokenizer: Any, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Tokens of a text that does not stand at the beginning: many tokenizers put a space in front of what does."""
    for context in _CONTEXTS:
        ids, spans = _encode(tokenizer, context + text)
        own = next((index for index, (_, end) in enumerate(spans) if end > 1), len(ids))
        if all(start >= 1 for start, _ in spans[own:]):
            return ids[own:], [(start - 1, end - 1) for start, end in spans[own:]]
    raise InputError(
        f"tokenizer: expected one that can split {text[:20]!r} from what is before it, got one that merges them; take "
        "the word that looks like a special token out of the text"
    )


def _taken(word: str) -> InputError:
    return InputError(
        f"tokenizer: expected the written {word[:40]!r} to be text, got a special token for it; take it out of the text"
    )
