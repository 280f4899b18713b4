"""A model whose memory is looked at after every segment. Drift of a memory over a long text shows here first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from rmt.executors.base import ReadingModel, State
from rmt.segments import Segment

Norms = dict[str, Float[Tensor, "batch parts"]]
Look = Callable[[Norms], None]


def norms(state: State) -> Norms:
    """Euclidean norms: of each memory token, or with associative memory of what each layer holds.

    Args:
        state: of a cell, or ``Memory.tensors``; counts beside it are left out.
    """
    return {name: tensor.flatten(2).norm(dim=2) for name, tensor in state.items() if tensor.dim() > 2}


@dataclass(frozen=True)
class Watched:
    """A model for reading, as :class:`rmt.executors.ReadingModel`, that tells the norms after each segment.

    Attributes:
        model: what reads, as :func:`rmt.executors.writer` gives it: watching changes no bit.
        look: called with the norms, once a segment, in order of one document.
        training: as of the model, which reads in evaluation mode.
    """

    model: ReadingModel
    look: Look
    training: bool = False

    @property
    def core(self) -> nn.Module:
        """As the model's."""
        return self.model.core

    @property
    def cell(self) -> Any:
        """As the model's, and then a look."""
        return self._read

    def _read(self, core: nn.Module, segment: Segment, state: State) -> Any:
        out = self.model.cell(core, segment, state)
        self.look(norms(out.state))
        return out
