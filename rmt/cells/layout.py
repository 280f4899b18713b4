"""How a segment and its memory tokens stand beside each other. Knows nothing of what a memory is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rmt.cells.tokens import close, embeddings
from rmt.segments import Segment


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


def encoder(
    backbone: nn.Module, segment: Segment, memory: Float[Tensor, "batch memory hidden"], special: tuple[int, int]
) -> Laid:
    """[CLS] memory [SEP] segment [SEP].

    Args:
        backbone: base model of an encoder.
        segment: tokens of every document.
        memory: embeddings at the memory positions.
        special: ids of [CLS] and [SEP].
    """
    embed = embeddings(backbone)
    batch, count = memory.shape[:2]
    opening, closing = special
    closed, seen = close(segment, closing)
    text = embed(closed)
    alone = closed.new_full((batch, 1), opening), closed.new_full((batch, 1), closing)
    inputs = torch.cat([embed(alone[0]), memory.to(text.dtype), embed(alone[1]), text], dim=1)
    ahead = count + 2
    mask = torch.cat([seen.new_ones(batch, ahead), seen], dim=1)
    given = {"inputs_embeds": inputs, "attention_mask": mask.long()}
    return Laid(given, slice(ahead, ahead + segment.ids.shape[1]), slice(1, 1 + count))


def decoder(backbone: nn.Module, segment: Segment, memory: Float[Tensor, "batch memory hidden"]) -> Laid:
    """[segment | memory], causal: memory tokens see the whole segment.

    Args:
        backbone: base model of a decoder.
        segment: tokens of every document.
        memory: embeddings at the memory positions.
    """
    text = embeddings(backbone)(segment.ids)
    count, width = memory.shape[1], text.shape[1]
    mask = torch.cat([segment.mask, segment.mask.new_ones(len(text), count)], dim=1).long()
    given = {
        "inputs_embeds": torch.cat([text, memory.to(text.dtype)], dim=1),
        "attention_mask": mask,
        "position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0),
        "use_cache": False,
    }
    return Laid(given, slice(0, width), slice(width, width + count))
