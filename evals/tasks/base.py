"""A task: documents to read, questions of them, and how an answer is scored. Knows nothing of models.

    Task = dataset (``documents``) + prompt (``Question.ids``) + scorer (``scorer``)

Everything of a document follows from the task's settings, ``Source.seed``, the length and its number, so a log needs
to keep no text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from evals.model import Document, Sampling
from evals.tasks.documents import Tokens

_BLOCK = 1 << 16  # tokens hashed at a time


@dataclass(frozen=True)
class Source:
    """What documents are made of.

    Attributes:
        encode: text to token ids (int64, no special tokens), of the model's tokenizer.
        decode: the way back, for tasks that cut text.
        background: token ids of the text that facts are hidden in; never tiled.
        digest: name of that text; of its tokens, where none is given.
        seed: with a document's length and number, all the randomness there is.
        bare: facts and questions alone, without the benchmark's instructions and examples: for models that were
            trained to answer, not told to.
    """

    encode: Callable[[str], Int[np.ndarray, " tokens"]]
    decode: Callable[[Any], str]
    background: Tokens
    digest: str = ""
    seed: int = 0
    bare: bool = False

    def __post_init__(self) -> None:
        if not self.digest:
            object.__setattr__(self, "digest", _digest(self.background))


def _digest(tokens: Tokens) -> str:
    """SHA-256 of token ids, read in blocks, first 16 hex digits."""
    digest = hashlib.sha256()
    for start in range(0, len(tokens), _BLOCK):
        digest.update(np.ascontiguousarray(tokens[start : start + _BLOCK], dtype="<i8").data)
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Question:
    """What is asked of a document once it has been read.

    Attributes:
        task: name of the task; cells of a result are per task.
        text: the question in words, as scorers want it.
        ids: tokens that follow the document: the question with the benchmark's words around it.
        answers: right answers; how many of them must be said is the scorer's business.
        scorer: name in ``evals.scorers.SCORERS``.
        method: how the answer is got. "generate" is text; "choose" the one of ``choices`` that is most likely
            as a continuation; "nats" the mean negative log-likelihood of ``continuation`` in nats a token; "measure"
            several at once, a dictionary: ``text`` generated, ``nats``, ``tokens`` and ``greedy`` of ``continuation``
            (see ``evals.model.Score``; ``nats`` is the sum of its log-likelihoods, at most 0), and ``choices``, the
            same sum for each of them.
        choices: answers to choose from. A model with a closed set of answers may also use them to generate.
        continuation: tokens to score, for "nats" and "measure".
        max_tokens: tokens to generate at most.
        stop: texts at which generation ends.
        evidence: token ranges [start, stop) of the document that hold what is needed.
        sampling: how the text is drawn; None for greedy.
        about: what results are broken down by (size, depth of reasoning), as JSON can hold it; kept in the row.
    """

    task: str
    text: str
    ids: Int[np.ndarray, " tokens"]
    answers: tuple[str, ...]
    scorer: str = "exact"
    method: str = "generate"
    choices: tuple[str, ...] = ()
    continuation: Int[np.ndarray, " continued"] | None = None
    max_tokens: int = 16
    stop: tuple[str, ...] = ("\n",)
    evidence: tuple[tuple[int, int], ...] = ()
    sampling: Sampling | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def answer(self) -> tuple[str, ...]:
        """The right answers, as the runner compares them."""
        return self.answers


@runtime_checkable
class Task(Protocol):
    """Documents of any exact length with questions; a frozen dataclass whose fields are its settings."""

    @property
    def name(self) -> str:
        """As in the registry."""

    @property
    def chance(self) -> float | None:
        """Score of a guess, in [0, 1]; None where there is none to speak of."""

    def settings(self) -> Mapping[str, Any]:
        """All that changes its documents or questions, as JSON can hold it; part of a result's key."""

    def documents(self, source: Source, length: int, count: int, first: int = 0) -> Iterator[Document]:
        """``count`` documents of exactly ``length`` tokens from number ``first`` on.

        Raises ValueError where the background is shorter, or the length too small for what must be in it.
        """
