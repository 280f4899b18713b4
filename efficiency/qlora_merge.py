"""Merging LoRA into a quantised model's weights, in two ways, each saying how far its outputs move.

An adapter was trained over the 4-bit weights. Added to the 16-bit originals, it corrects for rounding that is no longer
there; added to the dequantised weights, outputs stay those of training up to a rounding to 16 bits, and rounding to
4 bits again moves them once more. Which is better depends on the task, so both are offered and both report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from efficiency.errors import InputError
from efficiency.nf4 import quantize, state_of
from efficiency.qlora import NF4Linear, nf4_layers
from efficiency.surgery import replace_modules


@dataclass(frozen=True)
class Merged:
    """What a merge gives.

    Attributes:
        model: without adapters; the same object as the base model that was given.
        into: which weights the adapter was added to.
        error: ||merged - (base + adapter)|| / ||base + adapter|| of outputs, None where no inputs were given.
        layers: names of the layers that an adapter was merged into.
    """

    model: nn.Module
    into: str
    error: float | None
    layers: tuple[str, ...]


def merge(
    model: nn.Module,
    into: str,
    *,
    originals: str | Path | Mapping[str, Tensor] | None = None,
    inputs: Mapping[str, Any] | None = None,
    output: Callable[[Any], Tensor] | None = None,
    requantize: bool = False,
    dtype: torch.dtype | None = None,
) -> Merged:
    """Merge a PEFT model's active LoRA adapters, in place.

    All 4-bit layers become ``nn.Linear``, those without an adapter too; LoRA over other layers and what PEFT keeps
    under ``modules_to_save`` are merged as PEFT does.

    Args:
        model: from ``get_peft_model`` over a model of :func:`efficiency.qlora.quantize_model`.
        into: ``"16bit"`` adds the adapter to ``originals``, ``"nf4"`` to the dequantised weights.
        originals: for ``"16bit"``: weights by their names in the base model, or a folder of safetensors.
        inputs: keywords for the model, to report the error on.
        output: the tensor to compare out of what the model returns; its logits, last hidden states or first by default.
        requantize: with ``"nf4"``: quantise the merged weights again, as the old ones were.
        dtype: of the merged weights with ``"nf4"``, that which they were quantised from where None; originals keep
            theirs.

    Raises:
        InputError: no LoRA over 4-bit layers, a kind of it that adds no fixed matrix (DoRA), originals missing or of
            another shape.
    """
    _check(into, originals is not None, requantize)
    peft: Any = model
    base: Any = peft.get_base_model() if hasattr(peft, "get_base_model") else nn.Module()
    adapted = _adapted(base)
    if not adapted:
        raise InputError(
            f"merge: expected a PEFT model with LoRA over 4-bit layers, got {type(model).__name__} without; "
            "quantise with quantize_model, then call peft.get_peft_model"
        )
    wanted = [name for name, _ in nf4_layers(base)]
    shapes = {name.removesuffix(".base_layer"): state_of(base.get_submodule(name).weight).shape for name in wanted}
    read = _reader(originals, shapes)
    before = None if inputs is None else outputs(model, inputs, output)
    forms = {name: (layer.compute_dtype, layer.cache) for name, layer in nf4_layers(base)}

    def choose(name: str, module: nn.Module) -> nn.Module | None:
        lora = adapted.get(name)
        old: Any = module if lora is None else lora.get_base_layer()
        if not isinstance(old, NF4Linear):
            return None
        weight = read(name) if into == "16bit" else old.dequantised(torch.float32)
        kind = weight.dtype if into == "16bit" else dtype or state_of(old.weight).dtype
        weight, bias = weight.to(old.weight.device, torch.float32), old.bias
        if lora is not None:
            weight, bias = _added(lora, weight, bias)
        if requantize:
            state = state_of(old.weight)
            packed = quantize(weight.to(state.dtype), double=state.nested, block=state.blocksize)
            compute, cache = forms[name if lora is None else f"{name}.base_layer"]
            return NF4Linear(packed, bias, compute_dtype=compute, cache=cache)
        return _linear(weight.to(kind), bias)

    replace_modules(base, choose)
    merged: Any = peft.merge_and_unload()
    if not requantize:
        _untell(merged)
    error = None
    if inputs is not None and before is not None:
        after = outputs(merged, inputs, output)
        error = float((after - before).norm() / before.norm())
    return Merged(merged, into, error, tuple(adapted))


def _check(into: str, originals: bool, requantize: bool) -> None:
    """Refuse what does not go together in :func:`merge`."""
    if into not in ("16bit", "nf4"):
        raise InputError(f"into: expected '16bit' or 'nf4', got {into!r}; choose one of these")
    if (into == "16bit") != originals:
        raise InputError(
            f"originals: expected with into='16bit' and only there, got into={into!r} and "
            f"{'some' if originals else 'none'}; {'leave them out' if originals else 'give them, or merge into nf4'}"
        )
    if requantize and into != "nf4":
        raise InputError("requantize: expected with into='nf4', got into='16bit'; quantise the result instead")


def outputs(
    model: nn.Module, inputs: Mapping[str, Any], output: Callable[[Any], Tensor] | None = None
) -> Float[Tensor, ...]:
    """What a model gives in evaluation mode, float32; modes are put back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    with torch.no_grad():
        found = (output or _first)(model(**inputs)).float()
    for module, training in modes.items():
        module.training = training
    return found


def _first(returned: Any) -> Tensor:
    """Logits, last hidden states, or the first tensor of what a model returned."""
    for name in ("logits", "last_hidden_state"):
        found = getattr(returned, name, None)
        if isinstance(found, Tensor):
            return found
    values = [returned] if isinstance(returned, Tensor) else list(getattr(returned, "values", lambda: returned)())
    return next(value for value in values if isinstance(value, Tensor))


def _adapted(base: nn.Module) -> dict[str, Any]:
    """LoRA layers over 4-bit ones, by name."""
    from peft.tuners.lora import LoraLayer

    found = {
        name: module
        for name, module in base.named_modules()
        if isinstance(module, LoraLayer) and isinstance(module.get_base_layer(), NF4Linear)
    }
    for name, layer in found.items():
        if getattr(layer, "lora_variant", None):
            raise InputError(f"{name}: expected plain LoRA, got a variant of it, such as DoRA; merge it with PEFT")
        if layer.merged:
            raise InputError(f"{name}: expected LoRA beside the weight, got it merged already; unmerge it first")
    return found


def _added(lora: Any, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Any]:
    """W + scaling B A for each active adapter in float32 (LoRA, arXiv 2106.09685, eq. 3), and their biases."""
    for name in lora.active_adapters:
        if name not in lora.lora_A:
            continue
        a, b, scaling = lora.lora_A[name].weight, lora.lora_B[name].weight, lora.scaling[name]
        with torch.no_grad():
            weight = weight + scaling * (b.float() @ a.float())
            if lora.lora_B[name].bias is not None:
                more = scaling * lora.lora_B[name].bias
                bias = nn.Parameter(more.clone() if bias is None else bias + more.to(bias.dtype), requires_grad=False)
    return weight, bias


def _linear(weight: Tensor, bias: Any) -> nn.Linear:
    """A frozen linear layer around these."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    linear.bias = bias if bias is None or bias.dtype == weight.dtype else nn.Parameter(bias.to(weight.dtype), False)
    return linear


def _reader(
    originals: str | Path | Mapping[str, Tensor] | None, shapes: Mapping[str, torch.Size]
) -> Callable[[str], Tensor]:
    """A function from names of layers to their original weights, all of which are known to be there."""
    if originals is None:
        return lambda name: torch.empty(0)
    if isinstance(originals, Mapping):
        given = originals
        have = {name: tuple(t.shape) for name, t in given.items()}
        read: Callable[[str], Tensor] = lambda name: given[name].detach()  # noqa: E731
    else:
        files = _files(Path(originals))
        have = {name: shape for name, (_, shape) in files.items()}
        read = lambda name: _tensor(files[name][0], name)  # noqa: E731
    for name, shape in shapes.items():
        got = have.get(f"{name}.weight")
        if got != tuple(shape):
            raise InputError(
                f"originals: expected {name}.weight of shape {tuple(shape)}, got {got or 'no such weight'}; give the "
                "16-bit weights that the model was quantised from, under the base model's names"
            )
    return lambda name: read(f"{name}.weight")


def _files(folder: Path) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """Tensors of all safetensors files in a folder: where, and of what shape."""
    from safetensors import safe_open

    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                found[name] = (path, tuple(file.get_slice(name).get_shape()))
    if not found:
        raise InputError(f"originals: expected a folder with safetensors files, got {folder}")
    return found


def _tensor(path: Path, name: str) -> Tensor:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(name)
    return tensor


def _untell(model: Any) -> None:
    """No longer say that a model is in 4 bit."""
    for name in ("is_loaded_in_4bit", "hf_quantizer", "quantization_method", "is_quantized"):
        if name in model.__dict__:
            delattr(model, name)
    if getattr(getattr(model, "config", None), "quantization_config", None) is not None:
        del model.config.quantization_config
