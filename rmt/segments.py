"""Documents into segments and back: pure index arithmetic on token ids. Knows nothing of models or memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from rmt.errors import InputError


@dataclass(frozen=True)
class Segment:
    """One segment of every document in a batch, left-aligned.

    Attributes:
        ids: token ids, 0 where ``mask`` is false; ``width`` is the longest row of this segment.
        mask: true at real tokens; a document that has ended has an all-false row.
        source: the column of the batch that each token came from, 0 where ``mask`` is false.
    """

    ids: Int[Tensor, "batch width"]
    mask: Bool[Tensor, "batch width"]
    source: Int[Tensor, "batch width"]

    @property
    def lengths(self) -> Int[Tensor, " batch"]:
        """Real tokens of each row."""
        return self.mask.sum(dim=1)

    @property
    def active(self) -> Bool[Tensor, " batch"]:
        """Rows whose document reaches into this segment."""
        return self.mask.any(dim=1)

    def gather(self, values: Shaped[Tensor, "batch seq"], fill: int = 0) -> Shaped[Tensor, "batch width"]:
        """What ``values`` holds at this segment's tokens; ``fill`` at padding."""
        return values.gather(1, self.source).masked_fill(~self.mask, fill)


def compact(mask: Bool[Tensor, "batch seq"]) -> Int[Tensor, "batch longest"]:
    """Columns of the real tokens of each row, in order and left-aligned, -1 behind the last."""
    longest = int(mask.sum(dim=1).max()) if mask.numel() else 0
    order = torch.sort((~mask).to(torch.uint8), dim=1, stable=True).indices[:, :longest]
    real = torch.arange(longest, device=mask.device)[None] < mask.sum(dim=1, keepdim=True)
    return torch.where(real, order, -1)


def split(
    input_ids: Int[Tensor, "batch seq"], attention_mask: Shaped[Tensor, "batch seq"] | None, size: int
) -> list[Segment]:
    """Cut every document into segments of ``size`` tokens, the last one shorter.

    Padding may stand anywhere: each row is first drawn together, so that its segments are those it would have
    alone.

    Args:
        input_ids: token ids, without special tokens.
        attention_mask: nonzero at real tokens; None where all are real.
        size: tokens per segment.

    Raises:
        InputError: where a row holds no token at all.
    """
    real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    if real.shape != input_ids.shape:
        raise InputError(
            f"attention_mask: expected the shape of input_ids {tuple(input_ids.shape)}, got "
            f"{tuple(real.shape)}; a memory needs no mask of its own, so leave its positions out"
        )
    empty = (~real.any(dim=1)).nonzero().flatten().tolist()
    if empty or input_ids.shape[1] == 0:
        raise InputError(f"expected at least one token in each row, got none in rows {empty}; drop empty documents")
    columns = compact(real)
    segments = []
    for part in columns.split(size, dim=1):
        mask = part >= 0
        source = part.clamp(min=0)
        segments.append(Segment(input_ids.gather(1, source).masked_fill(~mask, 0), mask, source))
    return segments


def join(
    segments: list[Segment], values: list[Shaped[Tensor, "batch _ *rest"]], length: int
) -> Shaped[Tensor, "batch seq *rest"]:
    """Put values computed per segment back where their tokens stood, zero at padding; undoes :func:`split`.

    Args:
        segments: from :func:`split`.
        values: one tensor a segment, aligned with its tokens.
        length: columns of the batch that was split.
    """
    assert len(segments) == len(values)
    # All in one write: each out-of-place write copies the whole batch.
    flat = torch.cat(values, dim=1)
    rows, cols = torch.cat([s.mask for s in segments], dim=1).nonzero(as_tuple=True)
    source = torch.cat([s.source for s in segments], dim=1)
    out = flat.new_zeros(flat.shape[0], length, *flat.shape[2:])
    return out.index_put((rows, source[rows, cols]), flat[rows, cols])


def next_token_targets(
    labels: Int[Tensor, "batch seq"], attention_mask: Shaped[Tensor, "batch seq"] | None, ignore: int = -100
) -> Int[Tensor, "batch seq"]:
    """For each real token, the label of the next real token of its row; ``ignore`` at padding and the last.

    Segment borders do not matter: the last token of a segment predicts the first of the next.
    """
    real = torch.ones_like(labels, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    columns = compact(real)
    here, after = columns[:, :-1], columns[:, 1:]
    known = after >= 0
    out = torch.full_like(labels, ignore)
    rows, cols = known.nonzero(as_tuple=True)
    out[rows, here[rows, cols]] = labels[rows, after[rows, cols]]
    return out


def remaining(segments: list[Segment]) -> Int[Tensor, "count batch"]:
    """Segments each document still has, this one counted, at each segment; 0 once it has ended."""
    active = torch.stack([s.active for s in segments]).long()
    return active.flip(0).cumsum(0).flip(0)
