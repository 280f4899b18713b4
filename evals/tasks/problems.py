"""A problem in one prompt, or with its parts spread over a long document: reasoning, and memory with reasoning.

Behind no background (length 0) nothing is read, and the question holds the problem as its benchmark puts it. Behind N
tokens the document holds its parts, in their order and anywhere, and the question only says what to do with them. So
the same problem at both lengths says what of the reasoning is lost to distance. Knows no benchmark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from evals.tasks.base import Question, Source
from evals.tasks.documents import Document, Insert


@dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
        parts: what must be known, each a text that stands by itself in a document, in order.
        prompt: the whole problem as its benchmark puts it, with its few-shot examples and instructions.
        ask: what follows a document that holds the parts.
        questions: one or more (samples of the same prompt), their ``ids`` not yet set.
        joint: what stands before each part in the document.
        aids: so many first parts only help (examples of what the words ask for): they are no evidence.
    """

    parts: tuple[str, ...]
    prompt: str
    ask: str
    questions: tuple[Question, ...]
    joint: str = " "
    aids: int = 0


def documents(
    source: Source, length: int, count: int, first: int, name: str, make: Callable[[int], Problem]
) -> Iterator[Document]:
    """``count`` documents of exactly ``length`` tokens (0: nothing to read) from number ``first`` on.

    Args:
        source: tokenizer, background and seed.
        length: tokens of each document, parts included.
        count, first: which documents.
        name: of the task, part of the randomness of places.
        make: the problem of a number; another one for each, and the same at every length.

    Raises:
        ValueError: a background shorter than the document, or a length too small for the parts.
    """
    if length < 0:
        raise ValueError(f"length: expected at least 0 tokens, got {length}; 0 puts the problem into the question")
    return (document(source, length, index, name, make(index)) for index in range(first, first + count))


def document(source: Source, length: int, index: int, name: str, problem: Problem) -> Document:
    """One document; parts keep their order and stand at uniformly random places, none inside another."""
    if not length:
        ids = source.encode(problem.prompt)
        asked = tuple(replace(question, ids=ids, evidence=()) for question in problem.questions)
        return Document(0, (), asked, source.background, 0, index)
    pieces = [source.encode(problem.joint + part) for part in problem.parts]
    text = length - sum(len(piece) for piece in pieces)
    if text < 0:
        raise ValueError(
            f"length: expected room for the {length - text:,} tokens of the parts of {name}, got {length:,}; ask for "
            "more, or 0"
        )
    if len(source.background) < text:
        raise ValueError(
            f"background: expected at least {text:,} tokens for a document of {length:,} (text is never tiled), got "
            f"{len(source.background):,}; give more text or ask for a shorter document"
        )
    rng = np.random.default_rng((source.seed, index, length, *name.encode()))
    start = int(rng.integers(len(source.background) - text + 1))
    inserts, shift = [], 0
    for gap, part, piece in zip(np.sort(rng.integers(text + 1, size=len(pieces))), problem.parts, pieces, strict=True):
        inserts.append(Insert(int(gap) + shift, part, piece, True))
        shift += len(piece)
    ids = source.encode(problem.ask)
    evidence = tuple((insert.offset, insert.offset + len(insert.ids)) for insert in inserts[problem.aids :])
    asked = tuple(replace(question, ids=ids, evidence=evidence) for question in problem.questions)
    return Document(length, tuple(inserts), asked, source.background, start, index)
