"""Models with 8-bit linears, as the tests of several rooms want them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from efficiency.int8 import Int8Linear, Marks


def in_bytes(model: Any, **options: Any) -> Any:
    """A copy of a recurrent model whose backbone's layers have 8-bit linears, its head and embeddings as they were."""
    twin = copy.deepcopy(model).eval()
    for name, module in list(twin.core.named_modules()):
        if type(module) is nn.Linear:
            path, _, leaf = name.rpartition(".")
            setattr(twin.core.get_submodule(path), leaf, Int8Linear.from_linear(module, **options))
    return twin.requires_grad_(False)


def marked(model: Any) -> Any:
    """The same model with memory told to its 8-bit linears."""
    marks = Marks()
    for module in model.modules():
        if isinstance(module, Int8Linear):
            module.marks = marks
    model.on_positions(marks)
    return model


def naive(linear: Int8Linear, x: torch.Tensor) -> torch.Tensor:
    """Rows rounded to 255 levels one by one, and the product in float64: what ``token`` means."""
    rows = []
    for row in x.double().reshape(-1, x.shape[-1]):
        scale = row.abs().max() / 127 if bool(row.any()) else torch.tensor(1.0)
        rows.append((row / scale).round() * scale)
    out = torch.stack(rows) @ (linear.weight.double() * linear.weight_scale.double()).T
    return (out + linear.bias.double()).reshape(*x.shape[:-1], -1).to(x.dtype)
