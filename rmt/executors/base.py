"""What an executor is, and what it asks of a model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from rmt.segments import Segment

State = dict[str, Tensor]


@runtime_checkable
class ReadingModel(Protocol):
    """What an executor asks of a model: a cell, and the transformer that the cell runs."""

    training: bool

    @property
    def cell(self) -> Any:
        """Called with the core, a segment and a state; gives an output with the next ``state``."""

    @property
    def core(self) -> nn.Module:
        """The backbone from word embeddings to last hidden states."""


@runtime_checkable
class Executor(Protocol):
    """How a run of segments is read.

    Attributes:
        name: what a user calls it.
        batch_segments: segments that belong together. Results are the same to the bit as long as every call
            but the last of a document brings a multiple of so many.
    """

    @property
    def name(self) -> str: ...

    @property
    def batch_segments(self) -> int: ...

    def read(self, model: ReadingModel, segments: Iterable[Segment], state: State) -> State:
        """The state after the segments, in the caller's gradient mode; meant for ``torch.inference_mode``.

        Args:
            model: in evaluation mode.
            segments: in order, each of shape (batch, width).
            state: before the first, tensors of shape (batch, ...).
        """
