"""What an evaluation asks of a model and of a document: small protocols, no base classes.

A memory is opaque here (``State``): whatever the model returns from reading is handed back to it when a
question is asked. So any model that reads first and answers later can be scored, whatever it is made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar, runtime_checkable

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
    def answer(self) -> int:
        """The right label."""


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

    def answer(self, state: State, questions: Sequence[Question]) -> Sequence[int]:
        """One label for each question, each answered from ``state`` and its own ``ids`` alone."""

    def initial(self) -> State:
        """The memory before anything was read (the zeroed control)."""

    def shuffled(self, state: State, seed: int) -> State:
        """``state`` with its channels in the order of ``channel_order`` (the shuffled control)."""


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
