"""What training takes of memory, by part: estimated without allocating anything, or measured on a step.

    with fake():
        model = Model(config)
        print(estimate(model, lambda: model(ids).sum(), optimizer="adamw").table())

Both count storages. The estimate runs the same forward on fake tensors (shapes without data, as :mod:`torch` has them
for tracing), which takes seconds for 70 billion parameters; the measurement runs a real step. Activations are bytes of
all storages that operations made and that are alive when backward begins, so what a checkpoint holds is counted, and a
storage that several tensors share is counted once.
"""

from __future__ import annotations

import re
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from efficiency.errors import InputError
from efficiency.lomo.optimizer import GradientFreeing
from efficiency.lomo.size import UPDATE, counted, gradients_of

NF4_BITS = 4.127  # of a weight with double quantisation: 4 + 8/64 + 32/(64 * 256), arXiv 2305.14314, section 3
# Bytes of an optimizer's state for a parameter, from its shape and the bytes of one of its numbers.
OPTIMIZERS: dict[str, Callable[[torch.Size, int], int]] = {
    "adamw": lambda shape, size: 2 * size * shape.numel(),
    "adamw_8bit": lambda shape, size: 2 * shape.numel() + 2 * 4 * -(-shape.numel() // 256),
    "sgd": lambda shape, size: 0,
    "lomo": lambda shape, size: 0,
    "adalomo": lambda shape, size: 4 * (sum(shape) if len(shape) == 2 else shape.numel()),
}
FREES_GRADIENTS = ("lomo", "adalomo")
KINDS = ("parameters", "gradients", "optimizer", "activations")


@dataclass(frozen=True)
class Part:
    """Bytes of one part of a model, by what they hold."""

    parameters: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return sum(getattr(self, kind) for kind in KINDS)


@dataclass(frozen=True)
class Footprint:
    """Bytes of training, by part.

    Attributes:
        parts: by name; layers of one list are one part.
        peak: of activations, with what backward computes again; at least their sum over parts.
    """

    parts: dict[str, Part]
    peak: int

    def of(self, kind: str) -> int:
        """Bytes of one of :data:`KINDS`."""
        return sum(getattr(part, kind) for part in self.parts.values())

    @property
    def total(self) -> int:
        """Parameters, gradients, state of the optimizer, and the peak of activations."""
        return sum(map(self.of, KINDS)) - self.of("activations") + max(self.peak, self.of("activations"))

    def table(self) -> str:
        """Lines of text: a row for each part, megabytes."""
        every = {**self.parts, "all": Part(*map(self.of, KINDS))}
        rows: list[list[str]] = [["", *KINDS, "total"]]
        for name, part in every.items():
            rows.append([name, *(megabytes(getattr(part, kind)) for kind in (*KINDS, "total"))])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
        lines.append(f"activations at their peak {megabytes(self.peak)} MB; in all {megabytes(self.total)} MB")
        return "\n".join(lines)


def megabytes(count: int) -> str:
    """Of bytes, 10^6 each."""
    return f"{count / 1e6:,.1f}"


def part_of(name: str) -> str:
    """The part of a module or a parameter: the list it is in, else the first two modules of its path.

    What adapters wrap a model in (``base_model.model`` of PEFT) is passed over.
    """
    name = name.removeprefix("base_model.model.")
    listed = re.match(r"(.*?)\.\d+(\.|$)", name)
    if listed:
        return listed[1]
    return ".".join(name.split(".")[:2])


@contextmanager
def fake() -> Iterator[None]:
    """Inside, tensors are shapes without data; models that are built and run here take no memory.

    What depends on values, such as ``bool(mask.all())``, raises inside.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with warnings.catch_warnings(), FakeTensorMode(allow_non_fake_inputs=True):
        # Fused layers ask whether their weights have moved; these have not.
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        yield


def give_fake(model: nn.Module) -> None:
    """Inside :func:`fake`: tensors of a model on the meta device become fake ones, tied ones tied.

    For models that cannot be built on fake tensors, such as those that PEFT has put its adapters into.
    """
    new: dict[int, Any] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if id(tensor) not in new:
                    made = torch.empty(tensor.shape, dtype=tensor.dtype)
                    trained = isinstance(tensor, nn.Parameter)
                    new[id(tensor)] = nn.Parameter(made, requires_grad=tensor.requires_grad) if trained else made
                tensors[name] = new[id(tensor)]


class Live(TorchDispatchMode):
    """Bytes of storages that operations made while autograd was recording, and that are still alive.

    Sound where ``saved_tensors_hooks`` is not: those hooks do not see what a checkpoint holds for its
    recomputation, and count a storage again for each tensor that shares it. Backward runs without recording,
    so gradients are left out, while what a checkpoint recomputes inside backward is counted. Storages that
    were there before are left out, and so are the random states that a checkpoint keeps (5 KB a segment on
    the CPU).

    Args:
        model: whose modules' storages are told apart; None to count all together.
        always: count what is made without recording, too.

    Attributes:
        live, peak: bytes, now and at most.
        parts: bytes by part, now.
    """

    def __init__(self, model: nn.Module | None = None, always: bool = False) -> None:
        super().__init__()
        self.always = always
        self.live = 0
        self.peak = 0
        self.parts: Counter[str] = Counter()
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        self._model = model
        self._inside: list[str] = []
        self._hooks: list[Any] = []

    def __enter__(self) -> Live:
        if self._model is not None:
            parts = {module: part_of(name) for name, module in self._model.named_modules()}

            def enter(module: nn.Module, *_: Any) -> None:
                if module in parts:
                    self._inside.append(parts[module])

            def leave(module: nn.Module, *_: Any) -> None:
                if module in parts and self._inside:
                    self._inside.pop()

            # On all modules there are, not on these: fused layers would step aside for hooks of their own.
            self._hooks = [
                register_module_forward_pre_hook(enter),
                register_module_forward_hook(leave, always_call=True),
            ]
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        before = {t.untyped_storage() for t in tree_iter((args, kwargs)) if _stored(t)}
        out = func(*args, **(kwargs or {}))
        if self.always or torch.is_grad_enabled():
            for made in tree_iter(out):
                if _stored(made) and made.untyped_storage() not in before:
                    self._count(made.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        size, part = storage.nbytes(), self._inside[-1] if self._inside else ""
        self._known.add(storage)
        weakref.finalize(storage, self._release, size, part)
        self.live += size
        self.parts[part] += size
        self.peak = max(self.peak, self.live)

    def _release(self, size: int, part: str) -> None:
        self.live -= size
        self.parts[part] -= size


def _stored(made: Any) -> bool:
    """Whether this is a tensor with a storage; those that oneDNN has laid out have none to show."""
    return isinstance(made, Tensor) and made.layout == torch.strided


def estimate(
    model: nn.Module,
    loss_of: Callable[[], Tensor],
    *,
    optimizer: str = "adamw",
    times: int = 1,
    kept: int | None = None,
    memory_bytes: int = 0,
    freeing: str = "deferred",
    bits: Callable[[str, nn.Parameter], float | None] = lambda name, parameter: None,
) -> Footprint:
    """What a step will take, from a model on fake or meta tensors, or a real one.

    Of LOMO and AdaLomo, gradients are what is kept of them at the end of backward, or most of it during backward, and a
    part by the name of :data:`efficiency.lomo.size.UPDATE` what updates take besides.

    Args:
        model: whose parameters that require a gradient are trained.
        loss_of: runs one forward of what is repeated, a segment, and gives a scalar with a graph; keeps nothing else.
        optimizer: one of :data:`OPTIMIZERS`.
        times: how often it is repeated in one graph.
        kept: how many of these are alive at a time; None for all, 1 under checkpoints.
        freeing: how LOMO and AdaLomo free gradients, one of :data:`efficiency.lomo.size.WAYS`.
        memory_bytes: that pass from one to the next, and are kept for each where it is computed again.
        bits: of a parameter's name and itself, how many bits a number of it takes where that is not its dtype's.

    Raises:
        InputError: an unknown optimizer, or way to free gradients.
    """
    check_optimizer(optimizer)
    frees = optimizer in FREES_GRADIENTS
    counting: AbstractContextManager[Counter[int]] = counted(model) if frees else nullcontext(Counter())
    with Live(model) as live:
        with counting as factors:
            loss = loss_of()
        saved = Counter(live.parts)
        loss.backward()
        once = live.peak
    for parameter in model.parameters():
        parameter.grad = None
    alive = times if kept is None else min(kept, times)
    activations = Counter({name: alive * count for name, count in saved.items()})
    passed = 0 if kept is None else times * memory_bytes
    if passed:
        activations["memories"] += passed
    peak = passed + (alive - 1) * sum(saved.values()) + once
    parameters = _parameters(model, bits)
    gradients, states = _trained(model, optimizer)
    if frees:
        gradients = Counter()
        for name, size in gradients_of(model, optimizer, freeing, factors, times):
            gradients[part_of(name)] += size
    return Footprint(_assemble(parameters, gradients, states, activations), max(peak, sum(activations.values())))


def measure(model: nn.Module, optimizer: torch.optim.Optimizer, loss_of: Callable[[], Tensor]) -> Footprint:
    """What a step took: forward, backward, and the optimizer's step, which is made.

    Gradients are those at the end of backward: of LOMO what is deferred as it is kept, and what its step makes besides
    as a part of its own; nothing of those that an early backward has freed.

    Args:
        model: real.
        optimizer: over its parameters.
        loss_of: runs forward and gives the loss; keeps nothing else.
    """
    with Live(model) as live:
        loss = loss_of()
        saved = Counter(live.parts)
        loss.backward()
        peak = live.peak
    gradients: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            gradients[part_of(name)] += parameter.grad.untyped_storage().nbytes()
        if isinstance(optimizer, GradientFreeing):
            gradients[part_of(name)] += optimizer.kept(parameter)
    with Live(always=True) as live:
        optimizer.step()
    if isinstance(optimizer, GradientFreeing):
        gradients[UPDATE] += live.peak - live.live
    optimizer.zero_grad()
    states: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        for value in optimizer.state.get(parameter, {}).values():
            if isinstance(value, Tensor):
                states[part_of(name)] += value.untyped_storage().nbytes()
    return Footprint(_assemble(_parameters(model), gradients, states, saved), peak)


def check_optimizer(name: str) -> None:
    """Refuse an optimizer whose state is not known.

    Raises:
        InputError: it is.
    """
    if name not in OPTIMIZERS:
        raise InputError(f"optimizer: expected one of {', '.join(OPTIMIZERS)}, got {name!r}; choose one of these")


def _trained(model: nn.Module, optimizer: str) -> tuple[Counter[str], Counter[str]]:
    """Bytes of gradients that nobody frees, and of an optimizer's state, by part."""
    gradients: Counter[str] = Counter()
    states: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            gradients[part_of(name)] += parameter.numel() * parameter.element_size()
            states[part_of(name)] += OPTIMIZERS[optimizer](parameter.shape, parameter.element_size())
    return gradients, states


def _parameters(
    model: nn.Module, bits: Callable[[str, nn.Parameter], float | None] = lambda name, parameter: None
) -> Counter[str]:
    """Bytes of parameters and buffers by part, of tied ones once."""
    found: Counter[str] = Counter()
    known: set[int] = set()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        key = tensor.untyped_storage()._cdata
        if key in known:
            continue
        known.add(key)
        small = bits(name, tensor) if isinstance(tensor, nn.Parameter) else None
        found[part_of(name)] += (
            tensor.numel() * tensor.element_size() if small is None else round(tensor.numel() * small / 8)
        )
    return found


def _assemble(*counts: Counter[str]) -> dict[str, Part]:
    names: Iterable[str] = dict.fromkeys(name for count in counts for name in count)
    parts = {name or "the rest": Part(*(count[name] for count in counts)) for name in names}
    return {name: part for name, part in parts.items() if part.total}
