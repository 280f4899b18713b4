"""Linear layers of a model made 8-bit ones of the same size, empty, as a layout says. Knows no transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from efficiency.errors import InputError
from efficiency.int8.files import Entry, check
from efficiency.int8.layout import Layout, is_conv1d
from efficiency.int8.linear import Int8Linear
from efficiency.int8.marks import Marks
from efficiency.int8.multiplied import MultipliedInt8Linear
from efficiency.int8.siblings import put_together
from efficiency.surgery import replace_modules


def swap(model: nn.Module, layout: Layout, found: Mapping[str, Entry] | None, prefix: str = "") -> list[str]:
    """Replace linear layers by empty 8-bit ones, in place.

    Args:
        layout: which, and how.
        found: what the files have, from :func:`efficiency.int8.files.entries`, to check layers against.
        prefix: of the names of a model's body, which a file of the body alone does not have, and a file of a whole
            model has where only its body is to be loaded. With a body, a head of which the file has nothing stays
            a linear layer.

    Returns:
        names of the layers.

    Raises:
        InputError: no layer to replace, or one that the files do not have, or have otherwise.
    """

    def choose(name: str, module: nn.Module) -> nn.Module | None:
        if type(module) is not nn.Linear and not is_conv1d(module):
            return None
        names = (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}.")) if prefix else (name,)
        kind = layout.activations(module, *names)
        if kind is None:
            return None
        layer = _empty(module, kind, layout.multiplies(*names))
        if found is not None:
            parts = [part for part, _ in layer.named_parameters(recurse=False)]
            stored = next((n for n in names if any(f"{n}.{part}" in found for part in parts)), None)
            if stored is None and prefix and hasattr(model, prefix) and not name.startswith(f"{prefix}."):
                return None
            check(layer, stored or name, found)
        return layer

    replaced = replace_modules(model, choose)
    if not replaced:
        raise InputError(
            f"expected linear layers that quantization_config names, got none in {type(model).__name__}; "
            "weights and config.json are of different models"
        )
    return replaced


def freeze(model: nn.Module) -> None:
    """Let 8-bit weights and all scales take no gradient, which loaders give to floats; put siblings together."""
    put_together(model, Int8Linear)
    for module in model.modules():
        if isinstance(module, Int8Linear):
            for part, parameter in module.named_parameters(recurse=False):
                if part != "bias":
                    parameter.requires_grad_(False)


def keep_apart(model: Any) -> None:
    """Let 8-bit layers leave inputs at memory tokens as they are.

    Args:
        model: tells an object with ``told(mask)``, given to its ``on_positions``, where memory is.

    Raises:
        InputError: it has no ``on_positions``.
    """
    if not hasattr(model, "on_positions"):
        raise InputError(
            f"float_memory: expected a model that tells where its memory is, got {type(model).__name__}; load the whole"
        )
    marks = Marks()
    model.on_positions(marks)
    for module in model.modules():
        if isinstance(module, Int8Linear):
            module.marks = marks


def _empty(linear: Any, kind: str, multiplied: bool) -> Int8Linear:
    turned = is_conv1d(linear)
    wide, tall = linear.weight.shape if turned else (linear.in_features, linear.out_features)
    made = MultipliedInt8Linear if multiplied else Int8Linear
    layer = made(wide, tall, bias=False, activations=kind, device=linear.weight.device)
    if isinstance(layer, MultipliedInt8Linear):
        ones = torch.ones(wide, dtype=torch.float32, device=linear.weight.device)
        layer.multiplier = nn.Parameter(ones, requires_grad=False)
    # Loaders set the default format to the model's; scales stay in 32 bit whatever that is.
    for scale in (layer.weight_scale, layer.input_scale):
        if scale is not None:
            scale.data = scale.data.float()
    layer.bias = linear.bias
    layer.stands_for = type(linear).__name__
    layer.train(linear.training)
    return layer
