"""Which rows of what layers see are memory: told from outside before a model's layers run, asked by the layers."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from efficiency.errors import InputError


class Marks:
    """The memory's rows of the batch that runs now, in this thread: others may be reading other segments.

    A checkpoint inside of what was told, as around a single layer, computes again when it is told no more: give it
    ``context_fn=marks.again``, or layers refuse. One around it, as recurrent models have theirs, needs nothing.
    """

    def __init__(self) -> None:
        self._here = threading.local()
        self._used = False

    @property
    def mask(self) -> Bool[Tensor, "*batch positions"] | None:
        """Of shape (batch, positions) or (positions,), True at memory; None where nothing is known."""
        found: Tensor | None = getattr(self._here, "mask", None)
        return found

    def told(self, mask: Bool[Tensor, "*batch positions"] | None) -> AbstractContextManager[None]:
        """Inside, layers see this mask; may be entered more than once."""
        self._used = True
        return _Told(self._here, mask)

    def again(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """``context_fn`` of ``torch.utils.checkpoint``: what is told now is told when a layer is computed again."""
        return nullcontext(), self.told(self.mask)

    def __reduce__(self) -> Any:
        """A copy, as of a copied model, knows nothing yet."""
        return Marks, ()

    def rows(self, x: Tensor) -> Bool[Tensor, "batch positions"] | None:
        """The mask for an input of shape (batch, positions, features): (batch, positions); None where it has others.

        Raises:
            InputError: nothing is told while a backward pass computes a layer again, which was told something before.
        """
        mask = self.mask
        if mask is None and self._used and torch._C._current_graph_task_id() != -1:
            raise InputError(
                "marks: expected to be told where memory is, got a layer that a checkpoint computes again, which would "
                "round it; give the checkpoint context_fn=marks.again, or checkpoint whole segments"
            )
        if mask is None or x.dim() != 3 or x.shape[1] != mask.shape[-1]:
            return None
        if mask.dim() == 2 and mask.shape[0] != x.shape[0]:
            return None
        return mask.expand(x.shape[:2])


class _Told:
    """See :meth:`Marks.told`; a generator could be entered once only, and a graph that is kept is run through twice."""

    def __init__(self, here: threading.local, mask: Tensor | None) -> None:
        self._here, self._mask = here, mask
        self._before: list[Tensor | None] = []

    def __enter__(self) -> None:
        self._before.append(getattr(self._here, "mask", None))
        self._here.mask = self._mask

    def __exit__(self, *_: object) -> None:
        self._here.mask = self._before.pop()
