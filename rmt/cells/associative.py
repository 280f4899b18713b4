"""Layer-local associative memory (ARMT, Rodkin et al., arXiv 2407.04841): a matrix in every layer.

Knows nothing of documents, losses or other segments.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization

from rmt import layers
from rmt.backbone import family_of
from rmt.cells import layout
from rmt.cells.tokens import CellOutput
from rmt.config import RMTConfig
from rmt.segments import Segment

State = dict[str, Tensor]
EPSILON = 1e-5


@dataclass(frozen=True)
class Store:
    """What some layers hold, the layers first: the form in which a segment uses and changes it.

    Attributes:
        associations: A, values under features of keys.
        normalizers: z, how much has been written under each feature.
    """

    associations: Float[Tensor, "layers batch heads value features"]
    normalizers: Float[Tensor, "layers batch heads features"]

    def split(self) -> list[Store]:
        """Those of each layer. Taken all at once: the gradient of a slice is as large as the whole."""
        return [Store(a, z) for a, z in zip(self.associations.split(1), self.normalizers.split(1), strict=True)]

    def at(self, some: slice) -> Store:
        """That of some of the layers."""
        return Store(self.associations[some], self.normalizers[some])

    def state(self) -> State:
        """As a memory holds it: the batch first."""
        return {"associations": self.associations.transpose(0, 1), "normalizers": self.normalizers.transpose(0, 1)}

    @classmethod
    def of(cls, state: State) -> Store:
        """From what :meth:`state` gave, in float32 whatever it was moved to since."""
        return cls(*(state[name].float().transpose(0, 1) for name in ("associations", "normalizers")))

    @classmethod
    def join(cls, parts: list[Store]) -> Store:
        """Those of layers that follow one another as one."""
        if len(parts) == 1:
            return parts[0]
        return cls(torch.cat([p.associations for p in parts]), torch.cat([p.normalizers for p in parts]))


class AssociativeMemoryCell(nn.Module):
    """Memory as a matrix A and a vector z in each layer, and memory tokens that write to them.

    Encoder layout: [CLS] memory [SEP] segment [SEP]. Decoder layout: [segment | memory], causal. The memory tokens are
    the same for every segment; what passes on is (A, z). Before each layer every position reads (equations 5 and 6)

        h <- h + A phi(W_q h) / (z . phi(W_q h) + eps)

    and behind it each memory position, with output m, writes by the delta rule (equations 2 to 4; all tokens of a
    segment at once, each in view of the A before it)

        k = W_k m, v = W_v m, beta = sigmoid(W_b m + b)
        v' = A phi(k) / (z . phi(k) + eps)                          what stands under this key already
        gamma = clip(1 - z . phi(k) / (|phi(k)|^2 + eps), 0, 1)     how new the key is; no gradient through it
        A <- A + sum beta (v - v') phi(k)^T,  z <- z + sum gamma phi(k)

    with phi = DPFP (:func:`dpfp`), eps = 1e-5, and all of it for each head: a part of the keys, and a part of the
    values. W_v starts at zero, so a fresh model reads as its backbone does.

    ``memory_update="gated"``: beta is a gate a channel, c = sigmoid(W_b m + b), times one a token and layer,
    s = sigmoid(a . norm(m) + b), which also multiplies gamma; not training, s below ``gate_threshold`` is exactly zero.
    A segment that says nothing then leaves the memory bit for bit as it was. Take it where facts are rare and texts
    long: what drives a memory of the other kind out of shape over thousands of segments is small writes, and there are
    none. Take ``"replace"`` where every segment has something to say, or to follow the paper.

    ``associative_normalize=True`` scales phi to unit length. Take it where hidden states are very small or large (a
    fresh backbone, half precision), where eps or the square of a key would otherwise drown the rest, and for long
    horizons: what is written under a key then has the same weight whatever the size of the hidden state.

    All tokens of a segment write in view of the same A. Where several of them write under one key, what they add is
    several times what was missing, and norms may rise from segment to segment without end
    (:func:`rmt.executors.norms`; ``Reader(watch=...)``). ``associative_in_turn=True`` lets them write one after
    another: ours, the same rule, bounded. Take it with many memory tokens, or where norms rise in training.

    Everything that is written is computed in float32, reading in the number format of the hidden states (float16: too,
    but for what would leave its range).

    Attributes:
        teller: told where memory tokens stand whenever a layer runs by itself, not in a stack
            (:meth:`rmt.RMTPreTrainedModel.on_positions`).
    """

    def __init__(self, config: RMTConfig) -> None:
        super().__init__()
        self.config = config
        self.family = family_of(config.backbone_config)
        self.layout = self.family.layout
        self.special = (int(config.cls_token_id or 0), int(config.sep_token_id or 0))
        depth, hidden, keys = config.num_hidden_layers, config.hidden_size, config.associative_key_size
        self.gated = config.memory_update == "gated"
        self.memory = nn.Parameter(torch.empty(config.num_memory_tokens, hidden))
        self.query = nn.Parameter(torch.empty(depth, keys, hidden))
        self.key = nn.Parameter(torch.empty(depth, keys, hidden))
        self.value = nn.Parameter(torch.empty(depth, hidden, hidden))
        strengths = hidden if self.gated else config.associative_heads
        self.strength = nn.Parameter(torch.empty(depth, strengths, hidden))
        self.strength_bias = nn.Parameter(torch.empty(depth, strengths))
        if self.gated:
            self.slot_gate = nn.Parameter(torch.empty(depth, 1, hidden))
            self.slot_gate_bias = nn.Parameter(torch.empty(depth, 1))
        self.teller: layout.Teller | None = None

    @torch.no_grad()
    def reset_parameters(self, std: float, init: Any = initialization) -> None:
        """Memory tokens scattered like word embeddings, keys as fresh linear maps, values at zero.

        Queries begin as the keys do: what is written under a vector is then found under a vector like it, which is
        most of what there is to learn.

        Args:
            std: of word embeddings.
            init: transformers' own, which passes over what a checkpoint brought.
        """
        spread = self.config.hidden_size**-0.5
        init.normal_(self.memory, mean=0.0, std=std)
        init.normal_(self.key, mean=0.0, std=spread)
        init.copy_(self.query, self.key)
        init.constant_(self.value, 0.0)
        init.normal_(self.strength, mean=0.0, std=0.02 * spread if self.gated else spread)
        init.constant_(self.strength_bias, 2.0 if self.gated else 0.0)
        if self.gated:
            init.normal_(self.slot_gate, mean=0.0, std=0.02 * spread)
            init.constant_(self.slot_gate_bias, 0.0)

    def initial(self, batch: int) -> State:
        """Nothing stored: zeros, float32."""
        config, heads = self.config, self.config.associative_heads
        depth, features = config.num_hidden_layers, 2 * config.associative_expansion * config.associative_key_size
        shape = (batch, depth, heads, config.hidden_size // heads, features // heads)
        return {
            "associations": torch.zeros(shape, device=self.key.device),
            "normalizers": torch.zeros(*shape[:3], shape[4], device=self.key.device),
        }

    def forward(self, backbone: nn.Module, segment: Segment, state: State, write: bool = True) -> CellOutput:
        """Read one segment.

        Args:
            backbone: base model of the family that the configuration names.
            segment: tokens of every document; ended documents have empty rows, and keep their memory bit for bit.
            state: the memory before, see :meth:`initial`. Where nothing is written, one row of it may serve several
                rows of the segment that follow one another.
            write: whether the memory after it is wanted.
        """
        if not write:
            return self._ask(backbone, segment, state)
        laid, plan = self.begin(backbone, segment)
        hidden, after, gates = plan.hidden, [], []
        stack = zip(layers.layers_of(backbone, self.family), plan.calls, Store.of(state).split(), strict=True)
        for number, (layer, call, before) in enumerate(stack):
            hidden, new, gate = self.layer(number, layer, hidden, call, before, laid.written, segment.active)
            after.append(new)
            gates.append(gate)
        return self.end(backbone, laid, hidden, Store.join(after).state(), torch.cat(gates))

    def layer(
        self,
        number: int,
        layer: nn.Module,
        hidden: Float[Tensor, "batch width hidden"],
        call: layers.Call,
        before: Store,
        written: slice,
        active: Bool[Tensor, " batch"],
    ) -> tuple[Tensor, Store, Tensor]:
        """One layer of one segment: hidden states, what it holds now, and its gates as :meth:`write` gives them.

        Args:
            number: of the layer.
            layer: itself.
            hidden: what it is given.
            call: what it is called with beside that.
            before: what it held.
            written: columns of memory tokens.
            active: rows that have tokens in this segment.
        """
        at = slice(number, number + 1)
        with layout.telling(self.teller, partial(layout.marked, hidden, written)):
            hidden = layers.run(layer, self.read(at, hidden[None], before)[0], call)
        after, gates = self.write(at, hidden[None, :, written], before, active[None])
        return hidden, after, gates

    def inputs(self, text: Float[Tensor, "batch width hidden"], state: State) -> tuple[Tensor, Tensor]:
        """What stands before an open segment's tokens, nothing here, and what the backbone sees of the tokens."""
        return text[:, :0], text

    def _ask(self, backbone: nn.Module, segment: Segment, state: State) -> CellOutput:
        """Read one segment and leave the memory as it is; a decoder then needs no memory tokens."""
        laid = self._lay_out(backbone, segment, self.memory if self.layout == "encoder" else self.memory[:0])
        hidden = self.open(backbone, state, laid.memory(), **laid.inputs)
        return CellOutput(hidden[:, laid.text], hidden[:, 0], state, None)

    def open(
        self, backbone: nn.Module, state: State, memory: Bool[Tensor, "*batch width"], **inputs: Any
    ) -> Float[Tensor, "batch width hidden"]:
        """Last hidden states of a segment that is still open: read, not written. For generation.

        Args:
            backbone: base model of a decoder.
            state: the memory before the segment.
            memory: true at the inputs that are memory tokens.
            inputs: of the backbone's forward, a cache among them.
        """
        plan = layers.plan(backbone, self.family, **inputs)
        hidden = plan.hidden
        stack = zip(layers.layers_of(backbone, self.family), plan.calls, Store.of(state).split(), strict=True)
        with layout.telling(self.teller, lambda: memory):
            for number, (layer, call, store) in enumerate(stack):
                hidden = layers.run(layer, self.read(slice(number, number + 1), hidden[None], store)[0], call)
        return layers.finish(backbone, self.family, hidden)

    def begin(self, backbone: nn.Module, segment: Segment) -> tuple[layout.Laid, layers.Plan]:
        """A segment laid out, and what its layers are to be called with."""
        laid = self._lay_out(backbone, segment, self.memory)
        return laid, layers.plan(backbone, self.family, **laid.inputs)

    def _lay_out(self, backbone: nn.Module, segment: Segment, memory: Float[Tensor, "memory hidden"]) -> layout.Laid:
        def fill(text: Tensor) -> tuple[Tensor, Tensor]:
            return memory.expand(len(text), -1, -1).to(text.dtype), text

        if self.layout == "encoder":
            return layout.encoder(backbone, segment, self.special, fill)
        return layout.decoder(backbone, segment, fill, ahead=False)

    def end(
        self,
        backbone: nn.Module,
        laid: layout.Laid,
        hidden: Float[Tensor, "batch width hidden"],
        state: State,
        gates: Float[Tensor, "layers batch memory"],
    ) -> CellOutput:
        """What a segment gives once all layers have run, its memory and gates beside it."""
        hidden = layers.finish(backbone, self.family, hidden)
        logits = gates.transpose(0, 1).flatten(1) if self.gated else None
        return CellOutput(hidden[:, laid.text], hidden[:, 0], state, logits)

    def read(
        self, at: slice, hidden: Float[Tensor, "layers batch width hidden"], store: Store
    ) -> Float[Tensor, "layers batch width hidden"]:
        """Hidden states with what some layers hold for them added, before these layers run.

        Args:
            at: which layers.
            hidden: what they are about to be given.
            store: what they hold; one row of it may serve several rows that follow one another.
        """
        dtype, rows = hidden.dtype, store.normalizers.shape[1]
        side_by_side = hidden.unflatten(1, (rows, -1)).flatten(2, 3)
        keys = side_by_side @ self.query[at].to(dtype).mT[:, None]
        # Squares of keys, and what they weigh, leave the range of float16.
        exact = torch.float32 if dtype == torch.float16 else dtype
        keys = self._features(keys.to(exact))
        found = keys @ store.associations.to(exact).mT
        weight = (keys @ store.normalizers.to(exact)[..., None]) + EPSILON
        return hidden + (found / weight).to(dtype).transpose(2, 3).flatten(3).view_as(hidden)

    def write(
        self,
        at: slice,
        outputs: Float[Tensor, "layers batch memory hidden"],
        before: Store,
        active: Bool[Tensor, "layers batch"],
    ) -> tuple[Store, Float[Tensor, "layers batch memory"]]:
        """What some layers hold after a segment, and slot gates before the sigmoid (zeros where there are none).

        Args:
            at: which layers.
            outputs: what they gave at the memory positions.
            before: what they held.
            active: rows that have tokens in the segment of each layer; others keep what they hold.
        """
        if not self.config.associative_in_turn:
            return self._write(at, outputs, before, active)
        gates = []
        for token in outputs.split(1, dim=2):
            before, gate = self._write(at, token, before, active)
            gates.append(gate)
        return before, torch.cat(gates, dim=2)

    def _write(self, at: slice, outputs: Tensor, before: Store, active: Tensor) -> tuple[Store, Tensor]:
        """All of these tokens at once, each in view of what was there before them."""
        with torch.autocast(device_type=outputs.device.type, enabled=False):
            m = outputs.float()

            def project(weight: Tensor) -> Tensor:
                return m @ weight[at].float().mT[:, None]

            keys, values = self._features(project(self.key)), self._heads(project(self.value))
            known = keys @ before.normalizers[..., None]
            there = keys @ before.associations.mT / (known + EPSILON)
            strength = (project(self.strength) + self.strength_bias[at].float()[:, None, None]).sigmoid()
            strength = self._heads(strength)  # (layers, batch, heads, memory, 1 or value)
            fresh = torch.ones_like(known)
            if self.config.associative_correction:
                fresh = (1 - known / (keys.square().sum(dim=-1, keepdim=True) + EPSILON)).clamp(0, 1).detach()
            logits = torch.zeros_like(m[..., 0])
            if self.gated:
                slot, logits = self._slot(at, m)
                strength, fresh = strength * slot, fresh * slot
            # The closed rows of ended documents: zero is added, which changes no bit.
            there_is = active[:, :, None, None, None]
            change = torch.where(there_is, strength * (values - there), 0.0).mT @ keys
            weight = torch.where(there_is, fresh * keys, 0.0).sum(dim=3)
        return Store(before.associations + change, before.normalizers + weight), logits

    def _slot(self, at: slice, m: Tensor) -> tuple[Tensor, Tensor]:
        """Slot gates of shape (layers, batch, 1, memory, 1), exactly zero where they are shut; their logits."""
        normed = F.layer_norm(m, m.shape[-1:])
        logits = normed @ self.slot_gate[at].float().mT[:, None] + self.slot_gate_bias[at].float()[:, None, None]
        slot = logits.sigmoid()
        if not self.training:
            slot = torch.where(slot < self.config.gate_threshold, 0.0, slot)
        return slot[:, :, None], logits[..., 0]

    def _heads(self, x: Tensor) -> Tensor:
        """(..., count, channels) to (..., heads, count, channels of a head)."""
        return x.unflatten(-1, (self.config.associative_heads, -1)).transpose(-3, -2)

    def _features(self, x: Tensor) -> Tensor:
        x, expansion = self._heads(x), self.config.associative_expansion
        if not self.config.associative_normalize:
            return dpfp(x, expansion)
        # Of unit length whatever the size of x, so that is taken out first: squares of it would not keep within range.
        size = x.detach().abs().amax(dim=-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
        return F.normalize(dpfp(x / size, expansion), dim=-1, eps=1e-6)


def dpfp(x: Float[Tensor, "*rest channels"], expansion: int) -> Float[Tensor, "*rest features"]:
    """Deterministic parameter-free projection (Schlag et al., arXiv 2102.11174, equation 37).

    x <- [relu(x), relu(-x)], then x * roll(x, j) side by side for j = 1 to ``expansion``: 2 * expansion numbers a
    channel, none negative, few of them not zero, so that different keys share little.
    """
    both = torch.cat([x.relu(), (-x).relu()], dim=-1)
    return torch.cat([both * both.roll(j, dims=-1) for j in range(1, expansion + 1)], dim=-1)
