"""Low-rank adaptation (LoRA, arXiv 2106.09685) at the cost of its products, where a layer runs once per segment.

PEFT keeps what it is good at: configurations, injection, initialisation, files, merging. :func:`fuse` changes how its
linear layers compute,

    y = x W^T + b + s B A drop(x)        (eq. 3, s = alpha / r)

so that a call saves x and A drop(x) only, forms no gradient of W, and runs the adapter in the number format of the
base weight while the parameters that the optimizer sees stay as they are (fp32 by PEFT's default).

Dropout is feature-wise, one mask a sample for all positions and segments of a step, counted instead of drawn
(:mod:`efficiency.masks`). So it folds into A, nothing of it is stored, and recomputation under a checkpoint is exact in
whatever order. A *step* ends when an optimizer of torch's that holds the adapters has stepped; where another one
trains them, or where micro-batches of one step are to have masks of their own, call :func:`next_step`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, WeakSet, ref

import torch
from peft.tuners.lora import Linear, LoraLayer
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from efficiency import masks as counted
from efficiency.errors import InputError
from efficiency.product import Product, Terms, format_of
from efficiency.surgery import become

MASKS = ("sample", "shared")
_log = logging.getLogger(__name__)


def fuse(model: nn.Module, *, dtype: torch.dtype | None = None, seed: int = 0, masks: str = "sample") -> int:
    """Let PEFT's linear layers run as one operation each; in place, and again after adapters were changed.

    Outputs and gradients stay PEFT's, but for rounding where adapters run in a lower format, and for dropout, whose
    masks are other ones (see above). Adding, choosing, disabling, merging, saving and loading adapters stay PEFT's too:
    a layer that is set up so that it cannot be fused runs as before as long as it is (:func:`unfused` says why), and
    so does every layer under ``torch.compile`` and ``torch.func``.

    Args:
        model: a ``PeftModel``, or any module into which PEFT has injected LoRA.
        dtype: in which adapters are computed; None for that of the base layer, or of autocast.
        seed: of the masks; the same in each process of a distributed run, or another one in each.
        masks: ``"sample"``: of shape (batch, 1, features), where the first dimension of a layer's input is the batch
            (an input of two dimensions is one sample); ``"shared"``: one for the whole batch.

    Returns:
        How many layers are fused now; why others are not is logged.

    Raises:
        InputError: no layer of PEFT's LoRA in the model; unknown ``masks``; a ``dtype`` without fractions.
    """
    if masks not in MASKS:
        raise InputError(f"masks: expected one of {', '.join(MASKS)}, got {masks!r}; choose among these")
    if dtype is not None and not dtype.is_floating_point:
        raise InputError(f"dtype: expected a floating-point format, got {dtype}; pass torch.bfloat16 or None")
    found = dict(layers(model))
    if not found:
        raise InputError(
            f"fuse: expected a model with LoRA layers of PEFT, got {type(model).__name__} without one; "
            "call peft.get_peft_model(model, peft.LoraConfig(...)) first"
        )
    clocks = {id(layer.clock): layer.clock for layer in found.values() if isinstance(layer, FusedLinear)}
    clock = Clock(seed, masks, dtype, max((c.step for c in clocks.values()), default=0))
    for number, layer in enumerate(found.values()):
        if type(layer) in (Linear, FusedLinear):
            become(layer, FusedLinear)
            # No number without dropout: layers that are alike otherwise may then be taken for alike.
            layer.clock, layer.number = clock, number if _has_dropout(layer) else None
    why = unfused(model)
    for reason, count in Counter(why.values()).items():
        _log.info("%d of %d LoRA layers are left to PEFT: %s", count, len(found), reason)
    return len(found) - len(why)


def unfuse(model: nn.Module) -> int:
    """Give PEFT's layers back their own forward.

    Args:
        model: changed in place.

    Returns:
        How many layers were changed.
    """
    found = [layer for _, layer in layers(model) if isinstance(layer, FusedLinear)]
    for layer in found:
        become(layer, Linear)
        del layer.clock, layer.number
    return len(found)


def unfused(model: nn.Module) -> dict[str, str]:
    """Why LoRA layers run PEFT's own forward as the model is set up now, by name; those that do not are left out."""
    reasons = {name: why_not(layer) for name, layer in layers(model)}
    return {name: reason for name, reason in reasons.items() if reason}


def next_step(model: nn.Module, step: int | None = None) -> int:
    """New dropout masks from now on.

    Not to be called between forward and backward where activations are computed again.

    Args:
        model: fused.
        step: number of the step, as when training is resumed; None for the next.

    Returns:
        The number of the step.

    Raises:
        InputError: no layer is fused.
    """
    clocks = {id(layer.clock): layer.clock for _, layer in layers(model) if isinstance(layer, FusedLinear)}
    if not clocks:
        raise InputError(f"next_step: expected a fused model, got {type(model).__name__}; call fuse(model) first")
    for clock in clocks.values():
        clock.step = clock.step + 1 if step is None else step
    return next(iter(clocks.values())).step


def kept_beside(model: nn.Module) -> int:
    """Bytes of adapters and masks as the last step multiplied with them, which fused layers hold beside their weights.

    One set for all segments of a step: rank * (features * samples + out) numbers a layer, samples being 1 without
    dropout.
    """
    found = [layer for _, layer in layers(model) if isinstance(layer, FusedLinear)]
    return sum(layer.clock.terms[layer].nbytes for layer in found if layer in layer.clock.terms)


def layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """PEFT's LoRA layers of any kind, with their names."""
    return ((name, m) for name, m in model.named_modules() if isinstance(m, LoraLayer))


class Clock:
    """What the fused layers of a model share: settings, the number of the step, and the terms of the step.

    Attributes:
        seed, masks, dtype: see :func:`fuse`.
        step: from 0.
        terms: of each layer, as its adapter stands; not copied with a model.
        marker: an adapter weight that was used with dropout, by which the model's optimizer is known.
    """

    def __init__(self, seed: int, masks: str, dtype: torch.dtype | None, step: int) -> None:
        self.seed, self.masks, self.dtype, self.step = seed, masks, dtype, step
        self._begin()

    def _begin(self) -> None:
        self.terms: WeakKeyDictionary[nn.Module, Terms] = WeakKeyDictionary()
        self.marker: ReferenceType[Tensor] | None = None
        if not _handle:
            _handle.append(register_optimizer_step_post_hook(_stepped))
        _clocks.add(self)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("seed", "masks", "dtype", "step")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()


class FusedLinear(Linear):
    """PEFT's linear layer with LoRA as one operation; what :func:`fuse` makes of it, never built anew.

    Attributes:
        clock: shared with the other layers.
        number: of the layer, for its masks; None where its adapters had no dropout when it was fused.
    """

    clock: Clock
    number: int | None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(..., in_features) to (..., out_features) of the same format."""
        if args or kwargs or _transformed() or why_not(self) or not x.numel():
            return super().forward(x, *args, **kwargs)
        base: Any = self._modules["base_layer"]
        inner = format_of(x)
        if inner is None and x.dtype != base.weight.dtype:
            return super().forward(x)
        a, b, terms = self._terms(x, inner or x.dtype)
        if inner is None:
            return Product.apply(x, base.weight, base.bias, a, b, terms)
        with torch.autocast(x.device.type, enabled=False):
            return Product.apply(x.to(inner), base.weight, base.bias, a, b, terms)

    def _terms(self, x: Tensor, inner: torch.dtype) -> tuple[Tensor, Tensor, Terms]:
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

    def _new_terms(self, a: Tensor, b: Tensor, p: float, samples: int, dtype: torch.dtype, key: Any) -> Terms:
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


def why_not(layer: Any) -> str:
    """Why a LoRA layer runs PEFT's own forward as it is set up now; empty where it is fused.

    Asked at each call, hence past ``nn.Module.__getattr__``.
    """
    if not isinstance(layer, FusedLinear):
        kind = type(layer)
        return "fuse was not called" if kind is Linear else f"a {kind.__module__}.{kind.__name__}"
    base, active = layer._modules["base_layer"], layer.active_adapters
    if layer._disable_adapters:
        return "adapters are disabled"
    if layer.merged_adapters:
        return "adapters are merged"
    if type(base) is not nn.Linear:
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


def _has_dropout(layer: Any) -> bool:
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
