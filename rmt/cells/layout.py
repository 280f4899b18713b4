"""How a segment and its memory tokens stand beside each other. Knows nothing of what a memory is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional as F

from rmt.segments import Segment

# Word embeddings of a segment in, what stands at the memory positions and what stands for the words out.
Fill = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Laid:
    """A segment laid out.

    Attributes:
        inputs: of the backbone's forward.
        text: columns of the segment's tokens.
        written: columns of the memory tokens whose outputs are written.
    """

    inputs: dict[str, Any]
    text: slice
    written: slice


def encoder(backbone: nn.Module, segment: Segment, special: tuple[int, int], fill: Fill) -> Laid:
    """[CLS] memory [SEP] segment [SEP], or [CLS] segment [SEP] where there are no memory tokens.

    Args:
        backbone: base model of an encoder.
        segment: tokens of every document.
        special: ids of [CLS] and [SEP].
        fill: see :data:`Fill`.
    """
    embed = embeddings(backbone)
    batch, width = segment.ids.shape
    opening, closing = special
    closed, seen = close(segment, closing)
    embedded = embed(F.pad(F.pad(closed, (1, 0), value=closing), (1, 0), value=opening))
    memory, text = fill(embedded[:, 2:])
    count = memory.shape[1]
    parts = [embedded[:, :1], memory, embedded[:, 1:2], text] if count else [embedded[:, :1], text]
    inputs = torch.cat(parts, dim=1)
    ahead = inputs.shape[1] - text.shape[1]
    mask = torch.cat([seen.new_ones(batch, ahead), seen], dim=1)
    given = {"inputs_embeds": inputs, "attention_mask": mask.long()}
    return Laid(given, slice(ahead, ahead + width), slice(1, 1 + count))


def decoder(backbone: nn.Module, segment: Segment, fill: Fill, *, ahead: bool) -> Laid:
    """[segment | memory], causal: memory tokens see the whole segment; ``ahead``: [memory | segment | memory].

    Args:
        backbone: base model of a decoder.
        segment: tokens of every document.
        fill: see :data:`Fill`.
        ahead: whether the words see the memory tokens too.
    """
    memory, text = fill(embeddings(backbone)(segment.ids))
    count, width, first = memory.shape[1], text.shape[1], memory.shape[1] * ahead
    ones = segment.mask.new_ones(len(text), count)
    mask = torch.cat([ones[:, :first], segment.mask, ones], dim=1).long()
    given = {
        "inputs_embeds": torch.cat([memory[:, :first], text, memory], dim=1),
        "attention_mask": mask,
        "position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0),
        "use_cache": False,
    }
    return Laid(given, slice(first, first + width), slice(first + width, first + width + count))


def embeddings(backbone: nn.Module) -> nn.Module:
    """Word embeddings of a base model."""
    found: Any = backbone.get_input_embeddings
    return found()


def close(segment: Segment, closing: int) -> tuple[Int[Tensor, "batch closed"], Tensor]:
    """The segment with a closing token behind the last real token of each row, and the mask of both."""
    width = segment.ids.shape[1]
    lengths = segment.lengths[:, None]
    places = torch.arange(width + 1, device=segment.ids.device)[None]
    ids = F.pad(segment.ids, (0, 1)).masked_fill(places == lengths, closing)
    return ids, places <= lengths
