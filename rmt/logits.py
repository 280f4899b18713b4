"""Which logits a caller keeps, and where they stand: index arithmetic only. Knows nothing of models."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from rmt.errors import InputError
from rmt.segments import Segment


@dataclass(frozen=True)
class Placement:
    """Where kept logits go: the output column of each position of the batch, -1 where not kept, and their number."""

    columns: Int[Tensor, "batch seq"]
    width: int


def placement(
    input_ids: Int[Tensor, "batch seq"], mask: Shaped[Tensor, "batch seq"] | None, keep: int | Tensor | None
) -> Placement:
    """What ``logits_to_keep`` means for this batch.

    Args:
        input_ids: for its shape.
        mask: nonzero at real tokens.
        keep: as ``logits_to_keep``; None for all.

    Raises:
        InputError: a negative number, or columns outside the batch.
    """
    batch, seq = input_ids.shape
    columns = torch.arange(seq, device=input_ids.device).expand(batch, seq)
    real = torch.ones_like(input_ids, dtype=torch.bool) if mask is None else mask.bool()
    if isinstance(keep, Tensor):
        wanted = keep.tolist()
        if any(not -seq <= c < seq for c in wanted):
            raise InputError(f"logits_to_keep: expected columns below {seq}, got {wanted}; name columns of input_ids")
        chosen = columns.new_full((batch, seq), -1)
        chosen[:, keep] = torch.arange(len(wanted), device=columns.device)
        return Placement(chosen.masked_fill(~real, -1), len(wanted))
    if keep is not None and keep < 0:
        raise InputError(f"logits_to_keep: expected 0 or more, got {keep}; 0 keeps all")
    if not keep:
        return Placement(columns.masked_fill(~real, -1), seq)
    width = min(keep, seq)
    behind = real.sum(dim=1, keepdim=True) - real.long().cumsum(dim=1)
    return Placement((width - 1 - behind).clamp(min=-1).masked_fill(~real, -1), width)


def put_back(segments: list[Segment], kept: list[Tensor], place: Placement) -> Float[Tensor, "batch kept vocab"]:
    """Logits of single tokens, as the steps emitted them, as one batch; zero where there is none."""
    flat = torch.cat(kept)
    rows, cols = [], []
    for segment in segments:
        where = segment.gather(place.columns, fill=-1)
        row, col = (where >= 0).nonzero(as_tuple=True)
        rows.append(row)
        cols.append(where[row, col])
    out = flat.new_zeros(place.columns.shape[0], place.width, flat.shape[1])
    return out.index_put((torch.cat(rows), torch.cat(cols)), flat)
