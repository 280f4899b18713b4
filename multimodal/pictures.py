"""Images of a call and of a cache, as values. Knows nothing of how they are spliced."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from multimodal.spliced import Lookup
from rmt.cache import Decoder, RMTCache
from rmt.memory import Memory


@runtime_checkable
class Seeing(Protocol):
    """What images ask of a model."""

    def encode(self, pixel_values: Tensor) -> Tensor:
        """Pixels (images, channels, height, width) to tokens of the language model (images, tokens, hidden)."""

    def project(self, features: Tensor) -> Tensor:
        """Features of patches (images, patches, vision) to the same."""


@dataclass(frozen=True)
class Pictures:
    """Images in the order of a batch.

    Attributes:
        values: pixels (images, channels, height, width), or features of patches (images, patches, vision).
        encoded: whether they are features.
        rows: the row that each belongs to, where known.
        columns: image tokens in so many first columns stand for them; None for all columns. What a model itself says
            behind is a word, whatever it is.
    """

    values: Shaped[Tensor, "images ..."]
    encoded: bool = False
    rows: Int[Tensor, " images"] | None = None
    columns: int | None = None

    def __len__(self) -> int:
        return len(self.values)

    def fork(self, copies: int = 1) -> Pictures:
        """The images of each row, ``copies`` times, those of one row's copies one after another."""
        if self.rows is None or copies == 1:
            return self
        order, rows = [], []
        for row in torch.unique(self.rows).tolist():
            mine = (self.rows == row).nonzero().flatten()
            order += [mine] * copies
            rows += [torch.full_like(mine, row * copies + copy) for copy in range(copies)]
        index = torch.cat(order)
        return replace(self, values=self.values[index.to(self.values.device)], rows=torch.cat(rows))

    def lookup(self, model: Seeing, tokens: int) -> Lookup:
        """Features by row of the table; images are encoded when they are asked for, each once a call."""

        def features(rows: Tensor) -> Tensor:
            images, place = torch.unique(torch.div(rows, tokens, rounding_mode="floor"), return_inverse=True)
            values = self.values[images.to(self.values.device)].to(rows.device)
            made = model.project(values) if self.encoded else model.encode(values)
            return made[place, rows % tokens]

        return features


@dataclass(frozen=True)
class PictureCache(RMTCache):
    """Where decoding stands, with the images of the open segment.

    Attributes:
        table: features that virtual ids of the open segment lead to, None where there are none.
    """

    table: Float[Tensor, "rows hidden"] | None = None

    def holding(self, lookup: Lookup, vocabulary: int) -> PictureCache:
        """The same with features of what is still open, and of nothing else."""
        virtual = (self.ids >= vocabulary) & self.mask
        if not bool(virtual.any()):
            return replace(self, table=None)
        rows, place = torch.unique(self.ids[virtual] - vocabulary, return_inverse=True)
        ids = self.ids.clone()
        ids[virtual] = vocabulary + place
        return replace(self, ids=ids, table=lookup(rows))

    def flush(self, model: Decoder) -> Memory:
        """See :meth:`rmt.cache.RMTCache.flush`."""
        seeing: Any = model
        held = self.table
        return super().flush(model if held is None else seeing.seeing(lambda rows: held[rows]))
