"""What an evaluation asks of a model and of a document: small protocols, no base classes.

A memory is opaque here (``State``): whatever the model returns from reading is handed back to it when a
question is asked. So any model that reads first and answers later can be scored, whatever it is made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Int

State = TypeVar("State")


@runtime_checkable
class Question(Protocol):
    """A question about a document, with the label that is right."""

    @property
    def task(self) -> str:
        """Name of the task the question belongs to; cells of a result are per task."""

    @property
    def ids(self) -> Int[np.ndarray, " length"]:
        """Token ids of the question, without special tokens."""

    @property
    def answer(self) -> int | tuple[str, ...]:
        """The right label, or the right answers."""


@runtime_checkable
class Document(Protocol):
    """A document of known length whose tokens are made when asked for, never all at once."""

    @property
    def length(self) -> int:
        """Number of content tokens."""

    @property
    def questions(self) -> Sequence[Question]:
        """The questions to ask of this document."""

    def tokens(self, start: int, stop: int) -> Int[np.ndarray, " length"]:
        """Content token ids from ``start`` up to ``stop``; the same range always gives the same ids."""


@runtime_checkable
class MemoryModel(Protocol[State]):
    """A model that reads documents into memories and answers questions from a memory alone."""

    def fingerprint(self) -> str:
        """A string that changes when the weights do; results of different models never mix."""

    def read(self, documents: Sequence[Document]) -> Sequence[State]:
        """One memory for each document; all documents of one call have the same length."""

    def answer(self, state: State, questions: Sequence[Question]) -> Sequence[Any]:
        """One label (or text, or number) for each question, answered from ``state`` and its own ``ids`` alone."""

    def initial(self) -> State:
        """The memory before anything was read (the zeroed control)."""

    def shuffled(self, state: State, seed: int) -> State:
        """``state`` with its channels in the order of ``channel_order`` (the shuffled control)."""


@dataclass(frozen=True)
class Score:
    """How likely a continuation is.

    Attributes:
        nats: sum of the log-likelihoods of its tokens, natural logarithm.
        greedy: whether each of its tokens is the most likely one.
        tokens: how many there are.
    """

    nats: float
    greedy: bool
    tokens: int


@dataclass(frozen=True)
class Sampling:
    """How one text is drawn rather than taken greedily.

    Attributes:
        temperature: divides the logits; above 0.
        top_p: the least set of most likely tokens with at least this much of the probability is drawn from (nucleus
            sampling, Holtzman et al., arXiv 1904.09751).
        seed: of this text alone: what is drawn does not depend on what is generated beside it, up to rounding.
    """

    temperature: float
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(
                f"temperature: expected more than 0, got {self.temperature}; leave sampling out for greedy"
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: expected more than 0 and at most 1, got {self.top_p}; 0.95 is usual")


@runtime_checkable
class Model(Protocol[State]):
    """A model of text: reads tokens into a state, scores continuations of it, generates from it.

    A state is a value: reading or asking never changes one, so that it can be asked again. What it is made of is the
    model's business (a memory, a cache of keys and values, chunks with their embeddings). A model with a closed set
    of answers (a classifier) scores and generates these alone, and says so in ``answers``.
    """

    @property
    def name(self) -> str:
        """For people: what the model is and how it reads."""

    @property
    def segment(self) -> int | None:
        """Tokens between two updates of its memory; None for a model without one."""

    @property
    def answers(self) -> tuple[str, ...] | None:
        """The only answers it can give; None for a model that says anything."""

    @property
    def controls(self) -> tuple[str, ...]:
        """Which of zeroed, shuffled and swapped its states allow; an index of chunks has no channels to shuffle."""

    def fingerprint(self) -> str:
        """A string that changes when the weights, or the way of reading, do; results of different models never mix."""

    def encode(self, text: str) -> Int[np.ndarray, " tokens"]:
        """Token ids of a text, int64, without special tokens."""

    def decode(self, ids: Int[np.ndarray, " tokens"]) -> str:
        """The text of token ids."""

    def initial(self) -> State:
        """The state before anything was read."""

    def read(self, documents: Sequence[Document]) -> Sequence[State]:
        """One state for each document, read from the start; all documents of one call have the same length."""

    def score(
        self, state: State, prompt: Int[np.ndarray, " tokens"], continuations: Sequence[Int[np.ndarray, " continued"]]
    ) -> Sequence[Score]:
        """How likely each continuation is behind ``state`` and ``prompt`` (which may be empty).

        Only the logits of the continuations are ever made. Raises ValueError for a continuation that a model with a
        closed set of answers cannot give.
        """

    def generate(
        self,
        state: State,
        prompts: Sequence[Int[np.ndarray, " tokens"]],
        max_tokens: int,
        stop: Sequence[str] = (),
        sampling: Sequence[Sampling] | None = None,
    ) -> Sequence[str]:
        """Text behind ``state`` and each prompt: at most ``max_tokens`` tokens, cut before a ``stop`` text.

        Greedy, or drawn as ``sampling`` says, one for each prompt. A model with a closed set of answers may ignore it.
        """

    def shuffled(self, state: State, seed: int) -> State:
        """``state`` with its channels in the order of ``channel_order``; asked only where ``controls`` allows it."""


def channel_order(width: int, seed: int = 0) -> Int[np.ndarray, " width"]:
    """A fixed random order of ``width`` channels in which none keeps its place (one cycle).

    Sattolo's algorithm (S. Sattolo, Information Processing Letters 22, 1986). Every value of the memory
    is still there, so its norm and its statistics are; only what each channel means is gone.
    Returns int64 indices: ``memory[..., channel_order(hidden)]``. Raises ValueError for a width below 2.
    """
    if width < 2:
        raise ValueError(f"expected at least 2 channels to put in another order, got {width}; leave out shuffled")
    generator = np.random.default_rng(seed)
    order = np.arange(width)
    for last in range(width - 1, 0, -1):
        other = int(generator.integers(0, last))
        order[[last, other]] = order[[other, last]]
    return order
