"""What the tests of composition share: five ways of training a recurrent model, each beside its plain twin.

The twin runs over the segments in a bare loop, keeps everything, and is trained by torch, PEFT, or an update written
down in full.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from efficiency.lomo import AdaLomo, Lomo
from efficiency.lora import fuse
from efficiency.surgery import replace_modules
from rmt.models.causal_lm import RMTForCausalLM
from rmt.segments import split
from tests.efficiency.test_lomo_ada import Naive
from tests.rmt.tiny import causal, classifier, content

BATCH, SEGMENTS, SIZE, DEPTH = 2, 3, 4, 2
MARKS = tuple(range(56, 56 + SEGMENTS))  # ids that stand once a document: in the first segment, the second, and so on
RECURRENCE: dict[str, dict[str, Any]] = {
    "exact": {"recurrence": "plain"},
    "truncated": {"recurrence": "plain", "bptt_depth": DEPTH},
    "checkpointed": {"recurrence": "checkpointed"},
}
HEAD = {"encoder": "classifier", "decoder": "lm_head"}
TARGETS = {"encoder": ["query", "value", "dense"], "decoder": ["q_proj", "v_proj", "down_proj"]}
ADAPTED = ("lora", "qlora")


@dataclass
class Side:
    """A model in training, and what trains it.

    Attributes:
        model: as it is called and trained; with adapters PEFT's.
        optimizer: of all that is trained.
        by_hand: whether the loop over segments is the bare one.
        probes: added to the word embedding of each mark, zeros: their gradients are those of the words.
    """

    model: Any
    optimizer: Any
    by_hand: bool = False
    probes: Tensor = field(init=False)

    def __post_init__(self) -> None:
        words, marks = self.rmt.get_input_embeddings(), torch.tensor(MARKS)
        self.probes = torch.zeros(SEGMENTS, words.embedding_dim, dtype=words.weight.dtype, requires_grad=True)

        def probe(_: nn.Module, args: Any, out: Tensor) -> Tensor:
            return out + (args[0][..., None] == marks).to(self.probes.dtype) @ self.probes

        words.register_forward_hook(probe)

    @property
    def rmt(self) -> Any:
        """The recurrent model itself."""
        return self.model if isinstance(self.model, PreTrainedModel) else self.model.get_base_model()

    def loss(self, ids: Tensor, last_only: bool = False) -> Tensor:
        """Of a batch; of a decoder with ``last_only`` that of the last segment, which is all that an encoder has."""
        decoder = isinstance(self.rmt, RMTForCausalLM)
        labels = ids.clone() if decoder else ids[:, 0] % 6
        if decoder and last_only:
            labels[:, : -SIZE + 1] = -100
        if self.by_hand:
            return bare_loss(self.rmt, ids, labels)
        found: Tensor = self.model(input_ids=ids, labels=labels).loss
        return found

    def kept(self, ids: Tensor) -> tuple[int, Tensor]:
        """Bytes that autograd keeps of a forward, weights and what checkpoints make again not counted; and the loss."""
        weights = {p.untyped_storage().data_ptr() for p in self.model.parameters()}
        found: dict[int, Tensor] = {}

        def pack(tensor: Tensor) -> Tensor:
            found[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no place is taken twice
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = self.loss(ids)
        return sum(t.untyped_storage().nbytes() for place, t in found.items() if place not in weights), loss

    def gradients(self, ids: Tensor, **how: Any) -> dict[str, Tensor]:
        """Loss, and gradients of all that is trained and of the marked words; none is left behind."""
        loss = self.loss(ids, **how)
        loss.backward()
        found = {name: p.grad.clone() for name, p in self.model.named_parameters() if p.grad is not None}
        self.optimizer.zero_grad()
        return found | {"loss": loss.detach(), "marked words": self.reach()}

    def reach(self) -> Tensor:
        """The gradient of each segment's marked word since it was last asked for, (segments, hidden)."""
        found, self.probes.grad = self.probes.grad, None
        return torch.zeros_like(self.probes) if found is None else found

    def step(self, ids: Tensor, micro: int = 1) -> None:
        """A step of training, in so many micro-batches of as many documents."""
        for part in ids.chunk(micro):
            (self.loss(part) / micro).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.probes.grad = None

    def weights(self) -> dict[str, Tensor]:
        """All that is trained, as it stands."""
        return {name: p.detach().clone() for name, p in self.model.named_parameters() if p.requires_grad}


def bare_loss(model: Any, ids: Tensor, labels: Tensor) -> Tensor:
    """The loss by one loop over segments, for documents of one length; see :mod:`rmt.recurrence` for the cuts."""
    state, total = model.cell.initial(len(ids)), torch.zeros(())
    parts, depth = split(ids, None, SIZE), model.config.bptt_depth
    decoder = isinstance(model, RMTForCausalLM)
    for number, part in enumerate(parts):
        if number and depth and (len(parts) - number) % depth == 0:
            state = {name: tensor.detach() for name, tensor in state.items()}
        out = model.cell(model.core, part, state)
        state = out.state
        if decoder:
            wanted = F.pad(labels, (0, 1), value=-100)[:, number * SIZE + 1 : (number + 1) * SIZE + 1]
            total = total + F.cross_entropy(
                model.get_output_embeddings()(out.hidden).flatten(0, 1).float(), wanted.flatten(), reduction="sum"
            )
    if decoder:
        return total / (labels[:, 1:] != -100).sum()
    return F.cross_entropy(model.classifier(out.opening).float(), labels)


def documents(seed: int = 0, batch: int = BATCH) -> Tensor:
    """A batch of documents with a mark in each segment."""
    ids = content(batch, SEGMENTS * SIZE, seed)
    ids[torch.isin(ids, torch.tensor(MARKS))] = 3
    ids[:, 1::SIZE] = torch.tensor(MARKS)
    return ids


def recurrent(kind: str, memory: str, scale: float = 1.0, **fields: Any) -> Any:
    """A tiny recurrent model, in training mode, whose memory says something from the first segment on.

    ``scale``: of the backbone's matrices.
    """
    if memory == "associative":
        fields = {"num_memory_tokens": 2, "associative_key_size": 8, "associative_normalize": True} | fields
    model = {"encoder": classifier, "decoder": causal}[kind](memory=memory, **fields).train()
    if memory == "associative":
        with torch.no_grad():  # fresh ones write nothing
            model.cell.value.normal_(std=0.05)
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            if parameter.dim() > 1:
                parameter.mul_(scale)
    return model


def adapted(model: Any, kind: str, dropout: float = 0.0) -> Any:
    """A model with PEFT's adapters, and with memory and head trained whole."""
    config = LoraConfig(r=4, target_modules=TARGETS[kind], modules_to_save=["cell", HEAD[kind]], lora_dropout=dropout)
    torch.manual_seed(1)
    found = get_peft_model(model, config).train()
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return found


def dequantised(model: nn.Module) -> nn.Module:
    """A copy whose 4-bit layers are linear layers of the numbers that these stand for."""
    from efficiency import nf4
    from efficiency.qlora import NF4Linear

    def choose(_: str, module: nn.Module) -> nn.Module | None:
        if not isinstance(module, NF4Linear):
            return None
        twin = nn.Linear(module.in_features, module.out_features, module.bias is not None)
        twin.weight.data = nf4.dequantize(module.weight)
        twin.bias = copy.deepcopy(module.bias)
        return twin

    twin: Any = copy.deepcopy(model)
    replace_modules(twin, choose)
    twin.is_loaded_in_4bit = False
    return twin


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    # Gradients that are zero but for rounding must not be made as large as others.
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, eps=1e-3)


def sides(
    way: str,
    kind: str,
    memory: str,
    *,
    early: bool = False,
    dtype: torch.dtype = torch.float64,
    dropout: float = 0.0,
    **fields: Any,
) -> tuple[Side, Side]:
    """A model trained in one of the five ways, and its twin.

    Args:
        way, kind, memory: see the tests.
        early: LOMO updates during backward.
        dtype: of weights; float64, where sums in another order leave no doubt. QLoRA is float32 in any case.
        dropout: of adapters.
        fields: of :func:`recurrent`; the twin has truncation, updates of memory and scale only, and runs by hand.
    """
    same = {name: value for name, value in fields.items() if name in ("bptt_depth", "memory_update", "scale")}
    ours, theirs = recurrent(kind, memory, **fields), recurrent(kind, memory, **same)
    if way == "qlora":
        from efficiency.qlora import quantize_model
        from efficiency.weight_cache import WeightCache

        ours = quantize_model(ours, compute_dtype=None, cache=WeightCache())
        theirs, dtype = dequantised(quantize_model(theirs, compute_dtype=None)), torch.float32
    if way in ADAPTED:
        ours, theirs = adapted(ours, kind, dropout), adapted(theirs, kind, dropout)
        fuse(ours)
    ours, theirs = (model if way == "qlora" else model.to(dtype) for model in (ours, theirs))
    if way in ADAPTED or way == "full":
        return Side(ours, adamw(ours)), Side(theirs, adamw(theirs), by_hand=True)
    how: dict[str, Any] = {"early": True} if early else {"defer": ours}
    kit, naive = {"lomo": (Lomo, torch.optim.SGD), "adalomo": (AdaLomo, Naive)}[way]
    optimizer = kit(ours.parameters(), lr=0.02, weight_decay=0.01, piece_bytes=2000, **how)
    return Side(ours, optimizer), Side(theirs, naive(theirs.parameters(), lr=0.02, weight_decay=0.01), by_hand=True)


def gap(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest error over tensors, relative to their norm, or to a thousandth of the largest norm of all."""
    assert one.keys() == other.keys()
    least = 1e-3 * max(float(t.norm()) for t in other.values())
    return max(float((one[n].double() - t.double()).norm()) / max(float(t.norm()), least) for n, t in other.items())
