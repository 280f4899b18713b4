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

import torch
from peft.tuners.lora import Linear, LoraLayer
from torch import nn

from efficiency.errors import InputError
from efficiency.fused import Clock, Fused, FusedLinear, has_dropout, why_not
from efficiency.prepack import share_out
from efficiency.surgery import become

MASKS = ("sample", "shared")
PREPACK = 2**30
_log = logging.getLogger(__name__)


def fuse(
    model: nn.Module,
    *,
    dtype: torch.dtype | None = None,
    seed: int = 0,
    masks: str = "sample",
    prepack: int = PREPACK,
) -> int:
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
        prepack: bytes of memory that may hold frozen weights a second and third time, laid out for products in bfloat16
            on a CPU (:mod:`efficiency.prepack`), 2 each a number; 0 for none. After writing to a frozen weight by way
            of ``weight.data``, call ``fuse`` again; other changes are seen.

    Returns:
        How many layers are fused now; why others are not is logged.

    Raises:
        InputError: no layer of PEFT's LoRA in the model; unknown ``masks``; a ``dtype`` without fractions; a negative
            ``prepack``.
    """
    if masks not in MASKS:
        raise InputError(f"masks: expected one of {', '.join(MASKS)}, got {masks!r}; choose among these")
    if dtype is not None and not dtype.is_floating_point:
        raise InputError(f"dtype: expected a floating-point format, got {dtype}; pass torch.bfloat16 or None")
    if prepack < 0:
        raise InputError(f"prepack: expected a number of bytes, 0 or more, got {prepack}; pass 0 for no memory")
    found = dict(layers(model))
    if not found:
        raise InputError(
            f"fuse: expected a model with LoRA layers of PEFT, got {type(model).__name__} without one; "
            "call peft.get_peft_model(model, peft.LoraConfig(...)) first"
        )
    clocks = {id(layer.clock): layer.clock for layer in found.values() if isinstance(layer, Fused)}
    clock = Clock(seed, masks, dtype, max((c.step for c in clocks.values()), default=0))
    for number, layer in enumerate(found.values()):
        if (kind := _fused_kind(layer)) is not None:
            become(layer, kind)
            # No number without dropout: layers that are alike otherwise may then be taken for alike.
            layer.clock, layer.number = clock, number if has_dropout(layer) else None
    _prepack(_fused(model), prepack)
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
    found = _fused(model)
    for layer in found:
        become(layer, type(layer).__mro__[2])
        del layer.clock, layer.number, layer.prepacked
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
    clocks = {id(layer.clock): layer.clock for layer in _fused(model)}
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
    found = _fused(model)
    return sum(layer.clock.terms[layer].nbytes for layer in found if layer in layer.clock.terms)


def laid_out(model: nn.Module) -> int:
    """Bytes of frozen weights that fused layers hold laid out for oneDNN, beside the weights themselves."""
    return sum(layouts.nbytes for layer in _fused(model) if (layouts := layer.clock.layouts.get(layer)) is not None)


def layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """PEFT's LoRA layers of any kind, with their names."""
    return ((name, m) for name, m in model.named_modules() if isinstance(m, LoraLayer))


def _fused(model: nn.Module) -> list[Any]:
    return [layer for _, layer in layers(model) if isinstance(layer, Fused)]


def _prepack(fused: list[Any], budget: int) -> None:
    """Say which frozen weights may be laid out, within a budget of bytes; 4-bit ones have a cache of their own."""
    for layer in fused:
        layer.prepacked = ()
    plain: list[Any] = [layer for layer in fused if type(layer) is FusedLinear]
    sizes = [2 * layer.base_layer.weight.numel() for layer in plain]
    for layer, sides in zip(plain, share_out(sizes, budget), strict=True):
        layer.prepacked = sides


def _fused_kind(layer: Any) -> type[nn.Module] | None:
    """The class that runs a LoRA layer as one operation; None where there is none."""
    if type(layer) in (Linear, FusedLinear):
        return FusedLinear
    if not hasattr(type(layer.get_base_layer()), "dequantised"):
        return None
    from efficiency.lora_nf4 import FusedLinear4bit, fusable

    return FusedLinear4bit if fusable(layer) else None
