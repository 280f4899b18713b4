"""Memory tokens (RMT, Bulatov et al., arXiv 2207.06881 and 2304.11062): one segment in, a new memory out.

Knows nothing of documents, losses or other segments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from rmt.backbone import family_of
from rmt.config import RMTConfig
from rmt.errors import InputError
from rmt.segments import Segment

State = dict[str, Tensor]


@dataclass(frozen=True)
class CellOutput:
    """What one segment gives.

    Attributes:
        hidden: last hidden states of the segment's tokens.
        opening: last hidden state of the first position ([CLS] of an encoder).
        state: the memory after this segment; rows whose document has ended keep theirs bit for bit.
        gate_logits: slot gates before the sigmoid, None for the ``replace`` update.
    """

    hidden: Float[Tensor, "batch width hidden"]
    opening: Float[Tensor, "batch hidden"]
    state: State
    gate_logits: Float[Tensor, "batch memory"] | None


class TokenMemoryCell(nn.Module):
    """Memory as tokens of the input.

    Encoder layout: [CLS] memory [SEP] segment [SEP]. Decoder layout: [memory | segment | memory], causal; the last
    block sees the whole segment. In both the outputs at the (last) memory positions are the write w.

    The next memory is w itself (``replace``; RMT, section 3), or (``gated``)

        o = norm(output), e = [norm(key + m); o]
        s = sigmoid(a . e + b)                 one number a memory token: is there anything to keep?
        c = sigmoid(A e + d)                   one number a channel: what of it?
        m' = (1 - s c) m + s c (g * o)         g a scale a channel, at first that of word embeddings

    There the memory starts at zero and the backbone sees key + m, the learned memory token being a key that never
    fades (recurrent entity networks, arXiv 1612.03969, equations 2 to 4): without it, and at the size of last hidden
    states, memory drowns the position that tells one memory token from another, and two facts are not told apart.

    When not training, s below ``gate_threshold`` is exactly zero, so that a segment which says nothing leaves the
    memory bit for bit unchanged; nothing then decays over any length. Cells run in whatever dtype the backbone has;
    the memory itself is float32.
    """

    def __init__(self, config: RMTConfig) -> None:
        super().__init__()
        self.config = config
        self.layout = family_of(config.backbone_config).layout
        self.special = (int(config.cls_token_id or 0), int(config.sep_token_id or 0))
        if self.layout == "encoder" and None in (config.cls_token_id, config.sep_token_id):
            raise InputError(
                "RMTConfig: expected cls_token_id and sep_token_id with an encoder backbone, got none; build the model "
                "with from_backbone(...)"
            )
        count, hidden = config.num_memory_tokens, config.hidden_size
        self.memory = nn.Parameter(torch.empty(count, hidden))
        self.slot_gate: nn.Linear | None = None
        self.channel_gate: nn.Linear | None = None
        if config.memory_update == "gated" and count:
            self.slot_gate = nn.Linear(2 * hidden, 1)
            self.channel_gate = nn.Linear(2 * hidden, hidden)
            self.write_scale = nn.Parameter(torch.empty(hidden))

    @torch.no_grad()
    def reset_parameters(self, std: float, init: Any = nn.init) -> None:
        """Memory tokens scattered like word embeddings (``std``); gates half open, so that learning can start.

        Args:
            std: of word embeddings.
            init: has ``normal_`` and ``constant_``; transformers' own passes over what a checkpoint brought.
        """
        init.normal_(self.memory, mean=0.0, std=std)
        for gate, bias in ((self.slot_gate, 0.0), (self.channel_gate, 2.0)):
            if gate is not None:
                init.normal_(gate.weight, mean=0.0, std=0.02 / gate.in_features**0.5)
                init.constant_(gate.bias, bias)
        if self.slot_gate is not None:
            init.constant_(self.write_scale, std)

    def initial(self, batch: int) -> State:
        """The memory before the first segment, float32: the learned memory tokens, or zeros where they are keys."""
        start = self.memory.float() if self.slot_gate is None else torch.zeros_like(self.memory, dtype=torch.float32)
        return {"tokens": start.expand(batch, -1, -1)}

    def shown(self, memory: Float[Tensor, "batch memory hidden"]) -> Float[Tensor, "batch memory hidden"]:
        """What the backbone sees of a memory: itself, or on top of the keys where it is gated."""
        return memory if self.slot_gate is None else memory + self.memory.float()

    def forward(self, backbone: nn.Module, segment: Segment, state: State) -> CellOutput:
        """Read one segment.

        Args:
            backbone: base model of the family that the configuration names.
            segment: tokens of every document; ended documents have empty rows.
            state: the memory before, float32 of shape (batch, memory, hidden) under ``tokens``.
        """
        memory = state["tokens"]
        run = self._encode if self.layout == "encoder" else self._decode
        hidden, opening, write = run(backbone, segment, self.shown(memory))
        if not self.config.num_memory_tokens:
            return CellOutput(hidden, opening, state, None)
        new, gates = self._update(memory, write.float())
        kept = torch.where(segment.active[:, None, None], new, memory)
        return CellOutput(hidden, opening, {"tokens": kept}, gates)

    def _update(
        self, memory: Float[Tensor, "batch memory hidden"], write: Float[Tensor, "batch memory hidden"]
    ) -> tuple[Tensor, Tensor | None]:
        if self.slot_gate is None or self.channel_gate is None:
            return write, None
        with torch.autocast(device_type=memory.device.type, enabled=False):
            write = F.layer_norm(write, write.shape[-1:])
            both = torch.cat([F.layer_norm(self.shown(memory), write.shape[-1:]), write], dim=-1)
            write = write * self.write_scale.float()
            logits = F.linear(both, self.slot_gate.weight.float(), self.slot_gate.bias.float())
            channel = F.linear(both, self.channel_gate.weight.float(), self.channel_gate.bias.float()).sigmoid()
            slot = logits.sigmoid()
            if not self.training:
                slot = torch.where(slot < self.config.gate_threshold, 0.0, slot)
            z = slot * channel
            # Written so that z = 0 gives back the very same bits.
            return torch.where(z == 0, memory, (1 - z) * memory + z * write), logits.squeeze(-1)

    def _encode(
        self, backbone: nn.Module, segment: Segment, memory: Float[Tensor, "batch memory hidden"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        embed = embeddings(backbone)
        batch, width = segment.ids.shape
        count = memory.shape[1]
        cls, sep = self.special
        closed, seen = close(segment, sep)
        text = embed(closed)
        opening = embed(closed.new_full((batch, 1), cls))
        parts = [opening, text]
        if count:
            parts[1:1] = [memory.to(text.dtype), embed(closed.new_full((batch, 1), sep))]
        inputs = torch.cat(parts, dim=1)
        ahead = inputs.shape[1] - text.shape[1]
        mask = torch.cat([seen.new_ones(batch, ahead), seen], dim=1)
        out = backbone(inputs_embeds=inputs, attention_mask=mask.long()).last_hidden_state
        return out[:, ahead : ahead + width], out[:, 0], out[:, 1 : 1 + count]

    def _decode(
        self, backbone: nn.Module, segment: Segment, memory: Float[Tensor, "batch memory hidden"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        embed = embeddings(backbone)
        batch, width = segment.ids.shape
        count = memory.shape[1]
        text = embed(segment.ids)
        block = memory.to(text.dtype)
        inputs = torch.cat([block, text, block], dim=1)
        ones = segment.mask.new_ones(batch, count)
        mask = torch.cat([ones, segment.mask, ones], dim=1).long()
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        out = backbone(
            inputs_embeds=inputs, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state
        return out[:, count : count + width], out[:, 0], out[:, count + width :]


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
