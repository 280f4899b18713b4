"""How a segment and its memory tokens stand beside each other. Knows nothing of what a memory is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.nn import functional as F

from rmt.segments import Segment

# Word embeddings of a segment in, what stands at the memory positions and what stands for the words out.
Fill = Callable[[Tensor], tuple[Tensor, Tensor]]


@runtime_checkable
class Teller(Protocol):
    """Who passes on where memory stands to whoever treats it apart, such as layers with 8-bit weights."""

    def told(self, mask: Bool[Tensor, "*batch positions"] | None) -> AbstractContextManager[Any]:
        """Inside, that is where memory stands: the mask is True there."""


@dataclass(frozen=True)
class Laid:
    """A segment laid out.

    Attributes:
        inputs: of the backbone's forward.
        text: columns of the segment's tokens.
        read: columns of the memory tokens that stand before the words.
        written: columns of the memory tokens whose outputs are written; in an encoder the same ones.
    """

    inputs: dict[str, Any]
    text: slice
    read: slice
    written: slice

    def memory(self) -> Bool[Tensor, " positions"]:
        """True at memory tokens."""
        return marked(self.inputs["inputs_embeds"], self.read, self.written)


def marked(x: Tensor, *columns: slice) -> Bool[Tensor, " positions"]:
    """True at some columns of an input of shape (batch, positions, features)."""
    mask = torch.zeros(x.shape[1], dtype=torch.bool, device=x.device)
    for some in columns:
        mask[some] = True
    return mask


def telling(
    teller: Teller | None, where: Callable[[], Bool[Tensor, "*batch positions"]]
) -> AbstractContextManager[Any]:
    """Inside, ``teller`` has been told where memory stands; where nobody wants to know, it is not worked out."""
    return nullcontext() if teller is None else teller.told(where())


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
    return Laid(given, slice(ahead, ahead + width), slice(1, 1 + count), slice(1, 1 + count))


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
    return Laid(given, slice(first, first + width), slice(first), slice(first + width, first + width + count))


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
