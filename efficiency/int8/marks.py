"""Which rows of what layers see are memory: told from outside before a model's layers run, asked by the layers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jaxtyping import Bool
from torch import Tensor


class Marks:
    """The memory's rows of the batch that runs now, in this thread: others may be reading other segments.

    A checkpoint inside of what was told computes again when it is told no more; one around it, as recurrent models have
    theirs, is right.
    """

    def __init__(self) -> None:
        self._here = threading.local()

    @property
    def mask(self) -> Bool[Tensor, "*batch positions"] | None:
        """Of shape (batch, positions) or (positions,), True at memory; None where nothing is known."""
        found: Tensor | None = getattr(self._here, "mask", None)
        return found

    @contextmanager
    def told(self, mask: Bool[Tensor, "*batch positions"] | None) -> Iterator[None]:
        """Inside, layers see this mask."""
        before, self._here.mask = self.mask, mask
        try:
            yield
        finally:
            self._here.mask = before

    def __reduce__(self) -> Any:
        """A copy, as of a copied model, knows nothing yet."""
        return Marks, ()

    def rows(self, x: Tensor) -> Bool[Tensor, "batch positions"] | None:
        """The mask for an input of shape (batch, positions, features): (batch, positions); None where it has others."""
        mask = self.mask
        if mask is None or x.dim() != 3 or x.shape[1] != mask.shape[-1]:
            return None
        if mask.dim() == 2 and mask.shape[0] != x.shape[0]:
            return None
        return mask.expand(x.shape[:2])
