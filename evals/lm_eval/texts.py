"""Texts that know their tokens, and how a text is divided into what is read and what is asked.

lm-eval hands texts around. Tokens of a text decoded and encoded again need not be the same, so our tasks hand it texts
that carry theirs; to anything else they are plain texts. Knows neither models nor lm-eval.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from evals.model import Document, Question

SLICE = 1 << 16  # tokens hashed at a time


class Context(str):
    """A document with a question behind it, as text, that also has both as tokens.

    Attributes:
        document: what is read.
        prompt: token ids that follow it, int64.
        asked: these as text, by which a model sees whether the tokens are its own.
    """

    document: Document
    prompt: Int[np.ndarray, " tokens"]
    asked: str

    @classmethod
    def of(cls, text: str, document: Document, prompt: Int[np.ndarray, " tokens"], asked: str) -> Context:
        """A text of these tokens."""
        made = cls(text)
        made.document, made.prompt, made.asked = document, prompt, asked
        return made

    def __reduce__(self) -> Any:
        """Pickled and copied as a plain text: the tokens of its background may lie in a file."""
        return str, (str(self),)


class Continuation(str):
    """A text to be scored that has its tokens (``ids``, int64)."""

    ids: Int[np.ndarray, " tokens"]

    @classmethod
    def of(cls, text: str, ids: Int[np.ndarray, " tokens"]) -> Continuation:
        """A text of these tokens."""
        made = cls(text)
        made.ids = ids
        return made

    def __reduce__(self) -> Any:
        """Pickled and copied as a plain text."""
        return str, (str(self),)


@dataclass(frozen=True)
class Ids:
    """Token ids as an ``evals.model.Document`` without questions."""

    ids: Int[np.ndarray, " length"]
    questions: Sequence[Question] = ()

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.ids)

    def tokens(self, start: int, stop: int) -> Int[np.ndarray, " part"]:
        """Token ids from ``start`` up to ``stop``."""
        return self.ids[start:stop]


@dataclass(frozen=True)
class Split:
    """A context as what is read into a state and what is asked of it.

    Attributes:
        document: read first; of no tokens where all is asked.
        prompt: at least one token, so that the next one is always predicted at a token.
        key: name of the document's tokens, to know it again.
    """

    document: Document
    prompt: Int[np.ndarray, " tokens"]
    key: bytes


def split(ids: Int[np.ndarray, " tokens"], segment: int | None, asked: int | None = None) -> Split:
    """Divide a context so that a model that reads by segments sees what it would see of it in one piece.

    Whole segments are read, and the open one, of 1 to ``segment`` tokens, is asked, so the continuation stands where it
    would in the whole text: segments are cut at the same places. A full last segment stays open, because the next
    token is predicted at its last one. Without segments all but the last token are read.

    Args:
        ids: the context, at least one token.
        segment: tokens between two updates of the model's memory; None for a model without one.
        asked: this many last tokens are asked instead, and all before them read.

    Raises:
        ValueError: no token at all.
    """
    if not len(ids):
        raise ValueError("context: expected at least one token, got none; give a text, or prefix_token_id=")
    last = len(ids) - 1
    read = max(0, len(ids) - asked) if asked else last if segment is None else last // segment * segment
    return known(Ids(ids[:read]), ids[read:])


def known(document: Document, prompt: Int[np.ndarray, " tokens"]) -> Split:
    """A document and its prompt, with the document's key. Its tokens are made once, in slices."""
    digest = hashlib.blake2b(str(document.length).encode(), digest_size=16)
    for start in range(0, document.length, SLICE):
        part = document.tokens(start, min(start + SLICE, document.length))
        digest.update(np.ascontiguousarray(part, dtype="<i8").tobytes())
    return Split(document, prompt, digest.digest())
