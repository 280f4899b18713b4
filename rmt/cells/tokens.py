"""Memory tokens (RMT, Bulatov et al., arXiv 2207.06881 and 2304.11062): one segment in, a new memory out.

Knows nothing of documents, losses or other segments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from rmt.backbone import family_of
from rmt.cells import layout
from rmt.cells.retrieval import Retrieval
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
        gate_logits: slot gates before the sigmoid, None for the ``replace`` update; with associative memory those
            of the memory tokens in the first layer, then in the second, and so on.
    """

    hidden: Float[Tensor, "batch width hidden"]
    opening: Float[Tensor, "batch hidden"]
    state: State
    gate_logits: Float[Tensor, "batch gates"] | None


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

    With ``retrieval_every`` the state also holds copies of old memories, which what the backbone is shown attends to
    (:class:`rmt.cells.retrieval.Retrieval`); what is stored is written as without.

    Attributes:
        teller: told where memory stands whenever the backbone runs (:meth:`rmt.RMTPreTrainedModel.on_positions`).
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
        self.retrieval = Retrieval(config) if config.retrieval_every else None
        self.teller: layout.Teller | None = None

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
        if self.retrieval is not None:
            self.retrieval.reset_parameters(init)

    def initial(self, batch: int) -> State:
        """The memory before the first segment, float32: the learned memory tokens, or zeros where they are keys."""
        start = self.memory.float() if self.slot_gate is None else torch.zeros_like(self.memory, dtype=torch.float32)
        state = {"tokens": start.expand(batch, -1, -1)}
        return state if self.retrieval is None else state | self.retrieval.initial(state["tokens"])

    def shown(self, memory: Float[Tensor, "batch memory hidden"]) -> Float[Tensor, "batch memory hidden"]:
        """What the backbone sees of a memory: itself, or on top of the keys where it is gated."""
        return memory if self.slot_gate is None else memory + self.memory.float()

    def inputs(
        self, text: Float[Tensor, "batch width hidden"], state: State
    ) -> tuple[Float[Tensor, "batch memory hidden"], Float[Tensor, "batch width hidden"]]:
        """What the backbone is given in place of the memory and of word embeddings, in the dtype of these.

        With retrieval each of them holds what it found among old memories. A word's depends on that word alone, so that
        a segment may be read in pieces.
        """
        memory = self.shown(state["tokens"])
        if self.retrieval is not None:
            bank = state["bank"]
            copies = self.shown(bank.flatten(0, 1)).view_as(bank)
            memory, text = self.retrieval(memory, text, copies, state["bank_at"] > 0)
        return memory.to(text.dtype), text

    def open(
        self, backbone: nn.Module, state: State, memory: Bool[Tensor, "*batch width"], **inputs: Any
    ) -> Float[Tensor, "batch width hidden"]:
        """Last hidden states of a segment that is still open: read, not written. For generation.

        Args:
            backbone: base model of a decoder.
            state: the memory, which :meth:`inputs` has already put among the inputs.
            memory: true at the inputs that are memory tokens.
            inputs: of the backbone's forward, a cache among them.
        """
        with layout.telling(self.teller, lambda: memory):
            out: Tensor = backbone(**inputs).last_hidden_state
        return out

    def forward(self, backbone: nn.Module, segment: Segment, state: State, write: bool = True) -> CellOutput:
        """Read one segment.

        Args:
            backbone: base model of the family that the configuration names.
            segment: tokens of every document; ended documents have empty rows.
            state: the memory before, float32 of shape (batch, memory, hidden) under ``tokens``; with retrieval also
                what :meth:`Retrieval.initial` names.
            write: whether the memory after it is wanted.
        """
        memory = state["tokens"]
        laid = self._lay_out(backbone, segment, state)
        with layout.telling(self.teller, laid.memory):
            out = backbone(**laid.inputs).last_hidden_state
        hidden, opening = out[:, laid.text], out[:, 0]
        if not write or not self.config.num_memory_tokens:
            return CellOutput(hidden, opening, state, None)
        new, gates = self._update(memory, out[:, laid.written].float())
        kept = torch.where(segment.active[:, None, None], new, memory)
        after = {"tokens": kept}
        if self.retrieval is not None:
            after |= self.retrieval.keep(state, kept, segment.active)
        return CellOutput(hidden, opening, after, gates)

    def _update(
        self, memory: Float[Tensor, "batch memory hidden"], write: Float[Tensor, "batch memory hidden"]
    ) -> tuple[Tensor, Tensor | None]:
        if self.slot_gate is None or self.channel_gate is None:
            return write, None
        with torch.autocast(device_type=memory.device.type, enabled=False):
            write = F.layer_norm(write, write.shape[-1:])
            both = torch.cat([F.layer_norm(self.shown(memory), write.shape[-1:]), write], dim=-1)
            logits = F.linear(both, self.slot_gate.weight.float(), self.slot_gate.bias.float())
            slot = logits.sigmoid()
            if not self.training:
                slot = torch.where(slot < self.config.gate_threshold, 0.0, slot)
                if at_hand(slot) and not bool(slot.any()):
                    return memory, logits.squeeze(-1)
            write = write * self.write_scale.float()
            channel = F.linear(both, self.channel_gate.weight.float(), self.channel_gate.bias.float()).sigmoid()
            z = slot * channel
            # Written so that z = 0 gives back the very same bits.
            return torch.where(z == 0, memory, (1 - z) * memory + z * write), logits.squeeze(-1)

    def _lay_out(self, backbone: nn.Module, segment: Segment, state: State) -> layout.Laid:
        def fill(text: Tensor) -> tuple[Tensor, Tensor]:
            return self.inputs(text, state)

        if self.layout == "encoder":
            return layout.encoder(backbone, segment, self.special, fill)
        return layout.decoder(backbone, segment, fill, ahead=True)


def at_hand(tensor: Tensor) -> bool:
    """Whether to look at a value costs nothing: not on a GPU, which it would hold up, nor in a graph of any kind."""
    real = type(tensor) is Tensor and tensor.device.type == "cpu"
    return real and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
