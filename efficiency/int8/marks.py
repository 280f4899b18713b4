"""Which rows of what layers see are memory: told from outside before a model's layers run, asked by the layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from jaxtyping import Bool
from torch import Tensor


class Marks:
    """The memory's rows of the batch that runs now.

    Attributes:
        mask: of shape (batch, positions) or (positions,), True at memory; None where nothing is known.
    """

    def __init__(self) -> None:
        self.mask: Bool[Tensor, "*batch positions"] | None = None

    @contextmanager
    def told(self, mask: Bool[Tensor, "*batch positions"] | None) -> Iterator[None]:
        """Inside, layers see this mask."""
        before, self.mask = self.mask, mask
        try:
            yield
        finally:
            self.mask = before

    def rows(self, x: Tensor) -> Bool[Tensor, "batch positions"] | None:
        """The mask for an input of shape (batch, positions, features): (batch, positions); None where it has others."""
        if self.mask is None or x.dim() != 3 or x.shape[1] != self.mask.shape[-1]:
            return None
        if self.mask.dim() == 2 and self.mask.shape[0] != x.shape[0]:
            return None
        return self.mask.expand(x.shape[:2])
