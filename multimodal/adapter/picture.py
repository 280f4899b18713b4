"""What the adapted layers of a model are shown: a picture for each row of the batch that runs now, or none.

A value for one call. It is told to layers that lie deep inside a backbone's forward as memory is
(:func:`rmt.cells.layout.telling`): with a context manager, entered again wherever a segment is computed again. Knows
nothing of encoders, layers or segments.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rmt.errors import InputError


@dataclass(frozen=True)
class Picture:
    """Projected features of what each row looks at.

    Attributes:
        tokens: in the backbone's width; one token for LLaMA-Adapter V1, any number for V2. Zero where nothing is seen.
        seen: rows that look at something. Others read as if there were no picture at all.
    """

    tokens: Float[Tensor, "batch tokens hidden"]
    seen: Bool[Tensor, " batch"]

    @classmethod
    def of(cls, prompts: Float[Tensor, "images tokens hidden"], rows: Int[Tensor, " images"], batch: int) -> Picture:
        """The pictures of some rows: several of one row become their mean.

        Args:
            prompts: of each image.
            rows: which row it belongs to, from 0.
            batch: how many rows there are.
        """
        count = torch.zeros(batch, device=prompts.device, dtype=prompts.dtype).index_add(
            0, rows, prompts.new_ones(len(rows))
        )
        total = prompts.new_zeros(batch, *prompts.shape[1:]).index_add(0, rows, prompts)
        return cls(total / count.clamp(min=1)[:, None, None], count > 0)

    def for_rows(self, batch: int) -> Picture:
        """The same, checked against a batch; a single row serves them all.

        Raises:
            InputError: another number of rows.
        """
        rows = self.tokens.shape[0]
        if rows not in (1, batch):
            raise InputError(f"picture: expected one for each of {batch} rows, got {rows}; repeat it for them")
        return self


_here = threading.local()  # and no context variable, at which torch.compile breaks off


@contextmanager
def showing(picture: Picture | None) -> Iterator[None]:
    """Inside, in this thread, adapted layers see this picture; None for none, whatever was shown outside.

    Of a model whose layers are gradient checkpoints themselves, as of a bare Hugging Face model with
    ``gradient_checkpointing_enable()``, backward must run inside too: it computes layers again, and outside torch's
    check of what a checkpoint saves refuses them. Recurrent models checkpoint whole segments, and need nothing.
    """
    before = shown()
    _here.picture = picture
    try:
        yield
    finally:
        _here.picture = before


def shown() -> Picture | None:
    """What is shown now."""
    found: Picture | None = getattr(_here, "picture", None)
    return found
