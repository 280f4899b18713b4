"""PEFT's linear LoRA layers as one operation each: what a fused layer does at a call. Builds and chooses no layers."""

from __future__ import annotations

from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, WeakSet, ref

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from efficiency import masks as counted
from efficiency.prepack import Layouts
from efficiency.product import Product, Terms, format_of


class Clock:
    """What the fused layers of a model share: settings, the number of the step, and what they made of their weights.

    Attributes:
        seed, masks, dtype: see :func:`fuse`.
        step: from 0.
        terms: of each layer, as its adapter stands; not copied with a model.
        layouts: of each layer's frozen weight; not copied either.
        marker: an adapter weight that was used with dropout, by which the model's optimizer is known.
    """

    def __init__(self, seed: int, masks: str, dtype: torch.dtype | None, step: int) -> None:
        self.seed, self.masks, self.dtype, self.step = seed, masks, dtype, step
        self._begin()

    def _begin(self) -> None:
        self.terms: WeakKeyDictionary[nn.Module, Terms] = WeakKeyDictionary()
        self.layouts: WeakKeyDictionary[nn.Module, Layouts] = WeakKeyDictionary()
        self.marker: ReferenceType[Tensor] | None = None
        if not _handle:
            _handle.append(register_optimizer_step_post_hook(_stepped))
        _clocks.add(self)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("seed", "masks", "dtype", "step")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()


class Fused:
    """A linear layer of PEFT's with LoRA as one operation; comes before PEFT's class, which keeps all other methods.

    Attributes:
        clock: shared with the other layers.
        number: of the layer, for its masks; None where its adapters had no dropout when it was fused.
        prepacked: sides of its frozen weight that may be laid out (:mod:`efficiency.prepack`).
    """

    clock: Clock
    number: int | None
    prepacked: tuple[str, ...]

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(..., in_features) to (..., out_features), in the format of x or of autocast."""
        if args or kwargs or _transformed() or why_not(self) or not x.numel():
            return self._plain(x, *args, **kwargs)
        base, autocast = self._modules["base_layer"], format_of(x)
        given = autocast or x.dtype
        if _stored(base):
            weight, inner = base, autocast or base.compute_dtype or given
        elif autocast is None and given != base.weight.dtype:
            return self._plain(x)
        else:
            weight, inner = base.weight, given
        a, b, terms = self._terms(x, inner)
        layouts = self._layouts()
        if autocast is None:
            return Product.apply(x.to(inner), weight, base.bias, a, b, terms, layouts).to(given)
        with torch.autocast(x.device.type, enabled=False):
            return Product.apply(x.to(inner), weight, base.bias, a, b, terms, layouts)

    def _plain(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """PEFT's own forward."""
        found: Tensor = super().forward(x, *args, **kwargs)  # type: ignore[misc]
        return found

    def merge(self: Any, *args: Any, **kwargs: Any) -> None:
        """PEFT's, which writes weights behind the back of their version counters."""
        self._layouts().clear()
        super().merge(*args, **kwargs)  # type: ignore[misc]

    def unmerge(self: Any) -> None:
        """PEFT's, see :meth:`merge`."""
        self._layouts().clear()
        super().unmerge()  # type: ignore[misc]

    def _layouts(self: Any) -> Layouts:
        known: Layouts | None = self.clock.layouts.get(self)
        if known is None:
            known = self.clock.layouts[self] = Layouts(self.prepacked)
        return known

    def _terms(self: Any, x: Tensor, inner: torch.dtype) -> tuple[Tensor, Tensor, Terms]:
        """A, B, and the two as they are multiplied with, made anew where anything of what these are made has changed.

        Version counters tell of updates in place; not of all, since some optimizers write past them. No weight is
        written between a forward and its backward, so terms that a backward has used are not trusted in a later
        forward either; recomputation inside a backward goes on with them.
        """
        clock, (adapter,) = self.clock, self.active_adapters
        a: Tensor = _part(self, "lora_A", adapter).weight
        b: Tensor = _part(self, "lora_B", adapter).weight
        p = _dropout(_part(self, "lora_dropout", adapter))
        samples = x.shape[0] if p and x.dim() > 2 and clock.masks == "sample" else 1
        counts = (clock.seed, clock.step, samples) if p else None
        key = (_stamp(a), _stamp(b), clock.dtype or inner, self.scaling[adapter], p, counts)
        known = clock.terms.get(self)
        if known is not None and known.key == key and known.of[0]() is a and known.of[1]() is b:  # noqa: SIM102
            if not known.spent or torch._C._current_graph_task_id() != -1:
                return a, b, known
        made = self._new_terms(a, b, p, samples, clock.dtype or inner, key)
        if torch.is_grad_enabled():
            clock.terms[self] = made
        return a, b, made

    def _new_terms(self: Any, a: Tensor, b: Tensor, p: float, samples: int, dtype: torch.dtype, key: Any) -> Terms:
        (adapter,) = self.active_adapters
        keep = None
        if p:
            assert self.number is not None  # why_not has seen to it
            numbers = (self.clock.seed, self.clock.step, self.number)
            keep = counted.kept(*numbers, samples=samples, features=a.shape[1], p=p, device=a.device)
            if a.requires_grad:
                self.clock.marker = ref(a)
        scale = self.scaling[adapter] / (1 - p) if p < 1 else 0.0
        with torch.no_grad():
            return Terms.made(a, b, scale=scale, keep=keep, dtype=dtype, key=key)


class FusedLinear(Fused, Linear):
    """PEFT's ``Linear`` as :func:`efficiency.lora.fuse` makes it run, never built anew."""


def why_not(layer: Any) -> str:
    """Why a LoRA layer runs PEFT's own forward as it is set up now; empty where it is fused.

    Asked at each call, hence past ``nn.Module.__getattr__``.
    """
    kind: type = type(layer)
    if not issubclass(kind, Fused):
        return (
            "fuse was not called"
            if kind is Linear or _stored(layer.get_base_layer())
            else f"a {kind.__module__}.{kind.__name__}"
        )
    base, active = layer._modules["base_layer"], layer.active_adapters
    if layer._disable_adapters:
        return "adapters are disabled"
    if layer.merged_adapters:
        return "adapters are merged"
    if type(base) is not nn.Linear and not _stored(base):
        return f"its base is a {type(base).__name__}, not nn.Linear"
    if len(active) != 1 or (down := _part(layer, "lora_A", active[0])) is None:
        return f"{len(active)} active adapters, or none of this layer"
    (adapter,) = active
    if adapter in layer.lora_variant:
        return f"a variant of LoRA, {type(layer.lora_variant[adapter]).__name__}"
    if layer.lora_bias[adapter]:
        return "its adapter has a bias"
    if any(weight is not None and weight.requires_grad for weight in base._parameters.values()):
        return "its base is trained"
    if _hooked(base) or _hooked(down) or _hooked(_part(layer, "lora_B", adapter)):
        return "hooks inside it, which one operation would not call"
    if "forward" in layer.__dict__:
        return "another library has put a forward of its own on it"
    drop = _part(layer, "lora_dropout", adapter)
    if not isinstance(drop, nn.Dropout | nn.Identity):
        return f"an unknown dropout, {type(drop).__name__}"
    if layer.number is None and _dropout(drop, training=True):
        return "its dropout came later; call fuse again"
    return ""


_clocks: WeakSet[Clock] = WeakSet()
_handle: list[Any] = []


def _stepped(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Moves the clocks of those models on whose adapters this optimizer holds."""
    for clock in tuple(_clocks):
        marker = None if clock.marker is None else clock.marker()
        if marker is not None and any(p is marker for group in optimizer.param_groups for p in group["params"]):
            clock.step += 1
    if not _clocks:
        while _handle:
            _handle.pop().remove()


def _dropout(drop: Any, training: bool | None = None) -> float:
    """The probability to drop; 0 where it is not training, unless told to look as if it were."""
    on = drop.training if training is None else training
    return float(drop.p) if on and not isinstance(drop, nn.Identity) else 0.0


def has_dropout(layer: Any) -> bool:
    """Whether an adapter of a LoRA layer drops features in training."""
    return any(_dropout(drop, training=True) for drop in layer.lora_dropout.values())


def _part(layer: nn.Module, table: str, adapter: str) -> Any:
    """A module of an adapter, None where the layer has none."""
    found: Any = layer._modules[table]
    return found._modules.get(adapter)


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)


def _stamp(weight: Tensor) -> tuple[int, int]:
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version


def _transformed() -> bool:
    """Whether torch.compile or a transform of torch.func (vmap, grad) is looking."""
    return torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None


def _stored(base: Any) -> bool:
    """Whether a layer holds its weight in another form and gives its numbers when asked: our 4-bit layers."""
    return callable(getattr(type(base), "dequantised", None))
