"""The multiplication that is left where nothing before a linear layer can carry its scales.

It is one more operation at run time, so nobody gets it unasked. It also is what post-norm encoders need, and what
stands between GELU and the second layer of a feed-forward network.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from efficiency.int8.linear import Int8Linear
from efficiency.int8.multiplied import MultipliedInt8Linear
from efficiency.smoothquant.weights import as_linear
from efficiency.surgery import become, replace_modules


class MultipliedLinear(nn.Linear):
    """(x m) W^T + b: multiplies its input, a channel, before the product.

    Attributes:
        multiplier: m of shape (in,), float32, not trained.
    """

    multiplier: nn.Parameter

    def forward(self, input: Float[Tensor, "*rows in"]) -> Float[Tensor, "*rows out"]:
        """The product, in the format of the input."""
        return super().forward(input * self.multiplier.to(input.dtype))


def multiply_input(model: nn.Module, name: str, multiplier: Float[Tensor, " in"]) -> None:
    """Make a linear layer of a model multiply its input, in place; GPT-2's Conv1D becomes a linear layer at that."""
    linear = as_linear(model.get_submodule(name))
    if linear is not model.get_submodule(name):
        replace_modules(model, lambda full, _: linear if full == name else None)
    become(linear, MultipliedLinear)
    told: Any = linear
    told.multiplier = nn.Parameter(multiplier.float().contiguous(), requires_grad=False)


def to_int8(module: Any, *, activations: str, input_scale: Tensor | float | None = None) -> Int8Linear:
    """The 8-bit layer of a linear one, of GPT-2's Conv1D, or of one that multiplies its input."""
    linear = as_linear(module)
    with torch.no_grad():
        layer = Int8Linear.from_linear(linear, activations=activations, input_scale=input_scale)
    if linear is not module:
        layer.stands_for = "Conv1D"
    if isinstance(module, MultipliedLinear):
        become(layer, MultipliedInt8Linear)
        layer.multiplier = module.multiplier
    return layer
