"""Ways to train one and the same weights, and what a step of each takes; for ``gpu_training.py``.

The sides of a model share its weights: each is a copy of its modules over the same storages, and learning rates are
zero, so that a step does all of its work and changes nothing. What a side would hold if it were alone is counted.
"""

from __future__ import annotations

import copy
import gc
import importlib
import importlib.util
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import lora
import sizes
import torch
from subject import settle
from torch import Tensor, nn

from efficiency.lomo import Lomo

# What is adapted, what is trained whole, and what of a memory in each layer; in this order in a round.
GROUPS = {
    "adapters": ("PEFT", "PEFT bf16", "LoRA", "PEFT + bitsandbytes", "QLoRA", "QLoRA, no cache"),
    "weights": ("AdamW", "SGD", "LOMO", "lomo-optim"),
    "by layer": ("SGD", "LOMO by layer", "lomo-optim"),
}
MEMORY = {"adapters": "tokens", "weights": "tokens", "by layer": "associative"}
NEEDS = {
    "PEFT": ("peft",),
    "PEFT bf16": ("peft",),
    "LoRA": ("peft",),
    "PEFT + bitsandbytes": ("peft", "bitsandbytes"),
    "QLoRA": ("peft", "bitsandbytes"),
    "QLoRA, no cache": ("peft", "bitsandbytes"),
    "lomo-optim": ("lomo_optim",),
}
PIP = {"lomo_optim": "lomo-optim"}  # where a package's name is another
PEERS = {"LoRA": "ours", "QLoRA": "ours", "QLoRA, no cache": "ours", "PEFT + bitsandbytes": "PEFT"}  # of lora.py
FREES = ("LOMO", "LOMO by layer", "lomo-optim")  # whose gradients are not there to be looked at
STEPS = 5  # of a side in a round, at most


@dataclass(frozen=True)
class Setting:
    """What is the same for all sides.

    Attributes:
        device: type of it.
        segment, tokens: of a segment, and of the memory.
        rank, dropout: of adapters.
        budget: of the cache of QLoRA, over the bytes of its weights in 16 bit.
    """

    device: str
    segment: int
    tokens: int
    rank: int
    dropout: float
    budget: float


@dataclass
class Side:
    """A model and its optimizer.

    Attributes:
        name: of :data:`GROUPS`.
        cache: of dequantised weights.
        about: in words, what is worth knowing.
        warm: for which work it has run before.
    """

    name: str
    model: Any
    optimizer: Any
    cache: Any = None
    about: str = ""
    warm: set[str] = field(default_factory=set)

    def loss(self, ids: Tensor) -> Tensor:
        """Of a document, (1, tokens)."""
        loss: Tensor = self.model(input_ids=ids, labels=ids).loss
        return loss

    def backward(self, loss: Tensor) -> None:
        """In the optimizer's way."""
        if self.name == "lomo-optim":
            self.optimizer.fused_backward(loss, 0.0)
        else:
            loss.backward()

    def finish(self) -> None:
        """What comes behind backward."""
        if self.name != "lomo-optim":
            self.optimizer.step()
        self.optimizer.zero_grad()

    def norm(self) -> float | None:
        """Of all gradients; None where they are gone."""
        found = [p.grad for p in self.model.parameters() if p.grad is not None]
        if self.name in FREES or not found:
            return None
        norms = [torch.linalg.vector_norm(g, dtype=torch.float32) for g in found]
        return float(torch.linalg.vector_norm(torch.stack(norms)))

    def held(self) -> int:
        """Bytes between steps, if it were alone: weights, state of the optimizer, and what is kept beside."""
        total, seen = 0, set()
        states = [t for s in self.optimizer.state.values() for t in s.values() if isinstance(t, Tensor)]
        for tensor in (*self.model.parameters(), *self.model.buffers(), *states):
            at = tensor.data_ptr()
            if at not in seen:
                seen.add(at)
                total += stored(tensor)
        if self.cache is not None:
            total += self.cache.used_bytes
        if self.name in PEERS:
            from efficiency.lora import kept_beside

            total += kept_beside(self.model)
        return total


def stored(tensor: Tensor) -> int:
    """Bytes of a tensor, of a 4-bit one with its tables."""
    if getattr(tensor, "quant_state", None) is None:
        return tensor.nbytes
    from efficiency.nf4 import storage_bytes

    return storage_bytes(tensor)


def has(package: str) -> bool:
    """Whether it can be imported."""
    return importlib.util.find_spec(package) is not None


def lacking(name: str) -> str:
    """What to install for a side, in words; empty where all is there."""
    missing = [PIP.get(package, package) for package in NEEDS.get(name, ()) if not has(package)]
    return f"needs pip install {' '.join(missing)}" if missing else ""


def twin(model: Any, trained: bool) -> Any:
    """A copy of a model's modules over the same weights, with parameters of its own to hang gradients and hooks on.

    Weights in 4 bit, which are never trained, are the same parameters.
    """
    same: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        plain = type(tensor) is nn.Parameter
        same[id(tensor)] = nn.Parameter(tensor.detach(), requires_grad=trained) if plain else tensor
    return copy.deepcopy(model, same)


class Shop:
    """The weights of one model in one group, and sides over them, made when they are asked for.

    Args:
        model: of :data:`sizes.SIZES`.
        group: of :data:`GROUPS`.
        setting: see there.
    """

    def __init__(self, model: str, group: str, setting: Setting) -> None:
        self.group, self.setting = group, setting
        self.base = sizes.for_training(model, MEMORY[group], setting.segment, setting.tokens, setting.device)
        self.base.requires_grad_(False)
        self.sides: dict[str, Side] = {}
        self._four: Any = None

    def ids(self, segments: int) -> Tensor:
        """Random tokens of a document, (1, tokens) on the device."""
        maker, shape = torch.Generator().manual_seed(3), (1, segments * self.setting.segment)
        return torch.randint(0, self.base.config.vocab_size, shape, generator=maker).to(self.setting.device)

    def side(self, name: str, recurrence: str) -> Side:
        """One of them, set to a recurrence."""
        if name not in self.sides:
            self.sides[name] = self._adapted(name) if self.group == "adapters" else self._whole(name)
        config = self.sides[name].model.config
        config.recurrence, config.order = recurrence, "layers" if name == "LOMO by layer" else "segments"
        return self.sides[name]

    def drop(self) -> bool:
        """Free all but the weights in 16 bit; whether there was any side."""
        found = bool(self.sides)
        self.sides.clear()
        self._four = None
        free()
        return found

    def _adapted(self, name: str) -> Side:
        s, cache = self.setting, None
        four = NEEDS[name][-1] == "bitsandbytes"
        model = twin(self._in_four_bits() if four else self.base, trained=False)
        if name == "PEFT + bitsandbytes":
            model = importlib.import_module("qlora").bits_in_place(model)
        elif name == "QLoRA":
            from efficiency.qlora import nf4_layers, stored_bytes
            from efficiency.weight_cache import WeightCache

            cache = WeightCache(int(s.budget * stored_bytes(model)[1]))
            for _, layer in nf4_layers(model):
                layer.cache = cache
        adapted = lora.inject(model, PEERS.get(name, name), s.dropout, s.rank)
        some = [p for p in adapted.parameters() if p.requires_grad]
        return Side(name, adapted, adamw(some), cache, layers_fused(adapted) if PEERS.get(name) == "ours" else "")

    def _in_four_bits(self) -> Any:
        if self._four is None:
            from efficiency.qlora import quantize_model

            self._four = quantize_model(twin(self.base, trained=False))
        return self._four

    def _whole(self, name: str) -> Side:
        model = twin(self.base, trained=True)
        some = list(model.parameters())
        if name == "lomo-optim":
            return Side(name, model, importlib.import_module("lomo_optim").Lomo(model, lr=0.0))
        if name == "LOMO":
            return Side(name, model, Lomo(some, lr=0.0, defer=model))
        if name == "LOMO by layer":
            return Side(name, model, Lomo(some, lr=0.0))
        return Side(name, model, adamw(some) if name == "AdamW" else torch.optim.SGD(some, lr=0.0))


def adamw(some: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Torch's, as one kernel."""
    return torch.optim.AdamW(some, lr=0.0, fused=True)


def layers_fused(model: Any) -> str:
    """How many of PEFT's layers run as one operation, and why others do not."""
    from efficiency.lora import layers, unfused

    why, count = unfused(model), sum(1 for _ in layers(model))
    said = f"{count - len(why)} of {count} layers fused"
    return f"{said}: {next(iter(why.values()))}" if why else said


def free() -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def warm_up(side: Side, ids: Tensor, device: str) -> dict[str, Any]:
    """A first step, which makes the optimizer's state and fills caches, and what is told of a side once.

    That is the norm of gradients, bytes held, and on a CPU ``saved``: bytes that autograd keeps.
    """
    loss = side.loss(ids)
    side.backward(loss)
    norm = side.norm()
    side.finish()
    found = {"norm": norm, "held": side.held(), "about": side.about}
    if device == "cpu":
        found["saved"] = lora.saved_bytes(side.model, lambda: side.loss(ids))
        side.finish()
    return found


def one_step(side: Side, ids: Tensor, device: str) -> dict[str, float]:
    """What a step takes: seconds, on a CPU of the processor, and the loss.

    On a GPU also ``saved`` and ``peak``: bytes over those that were there before, once forward is done, and at most.
    """
    gpu = device == "cuda"
    clock = time.perf_counter if gpu else time.process_time
    settle()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    before = saved = torch.cuda.memory_allocated() if gpu else 0
    start = clock()
    loss = side.loss(ids)
    if gpu:
        saved = torch.cuda.memory_allocated()
    side.backward(loss)
    side.finish()
    settle()
    took = {"seconds": clock() - start, "loss": float(loss.detach())}
    if gpu:
        took |= {"saved": saved - before, "peak": torch.cuda.max_memory_allocated() - before}
    return took


def turn(side: Side, ids: Tensor, device: str, least: float) -> dict[str, float]:
    """Some steps of a side: as many as take ``least`` seconds, at most :data:`STEPS`.

    Returns:
        what :func:`one_step` gives, the median of seconds and the highest of the rest, and tokens of a step.
    """
    steps: list[dict[str, float]] = []
    while not steps or (sum(s["seconds"] for s in steps) < least and len(steps) < STEPS):
        steps.append(one_step(side, ids, device))
    highest = {name: max(s[name] for s in steps) for name in steps[0]}
    return {**highest, "seconds": median(s["seconds"] for s in steps), "tokens": ids.numel()}


def full(error: BaseException) -> bool:
    """Whether memory ran out."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        text in str(error) for text in ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    )


def pairs() -> Iterator[tuple[str, str, str]]:
    """Group, side, and the side that it is compared with, on the same work."""
    yield from (("adapters", "LoRA", other) for other in ("PEFT", "PEFT bf16"))
    yield from (("adapters", "QLoRA", other) for other in ("PEFT + bitsandbytes", "QLoRA, no cache", "LoRA"))
    yield ("adapters", "QLoRA, no cache", "PEFT + bitsandbytes")
    yield from (("weights", "LOMO", other) for other in ("lomo-optim", "SGD", "AdamW"))
    yield from (("by layer", "LOMO by layer", other) for other in ("lomo-optim", "SGD"))
