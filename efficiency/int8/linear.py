"""A linear layer whose weight and activations are 8-bit integers (W8A8; SmoothQuant, arXiv 2211.10438, section 3).

    y = (q(x) W_q^T) s_x s_w + b,    W_q = round(W / s_w),  s_w = max|W| / 127 of each output channel (symmetric)

and activations one of three ways (table 2 of the paper): ``token``, a scale of each row as it comes (O1); ``tensor``,
one of the whole input as it comes (O2); ``static``, one that was measured before (O3).
"""

from __future__ import annotations

from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from efficiency.errors import InputError
from efficiency.int8.marks import Marks

ACTIVATIONS = ("token", "tensor", "static")
LEVELS = 127  # of either sign


class Int8Linear(nn.Module):
    """x W^T + b over a frozen 8-bit weight; the output has the format of the input, or of autocast.

    Its state is laid out as compressed-tensors has it (``int-quantized``): ``weight`` int8 of shape (out, in),
    ``weight_scale`` float32 of shape (out, 1), ``input_scale`` float32 of shape (1,) where static, ``bias``.

    Args:
        in_features, out_features: sizes.
        bias: whether there is one.
        activations: one of :data:`ACTIVATIONS`.
        device, dtype: of the parameters, and of the bias among them.

    Attributes:
        marks: where rows that are memory are to run on the weight's numbers in floating point, who knows them.

    Raises:
        InputError: unknown ``activations``.
    """

    bias: nn.Parameter | None
    input_scale: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        activations: str = "token",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if activations not in ACTIVATIONS:
            raise InputError(
                f"activations: expected one of {', '.join(ACTIVATIONS)}, got {activations!r}; choose among these"
            )
        self.in_features, self.out_features, self.activations = in_features, out_features, activations
        shape = out_features, in_features
        self.weight = nn.Parameter(torch.zeros(shape, dtype=torch.int8, device=device), requires_grad=False)
        self.weight_scale = nn.Parameter(torch.ones(out_features, 1, device=device), requires_grad=False)
        one = nn.Parameter(torch.ones(1, device=device), requires_grad=False) if activations == "static" else None
        self.register_parameter("input_scale", one)
        given = nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype)) if bias else None
        self.register_parameter("bias", given)
        self.marks: Marks | None = None

    @classmethod
    def from_linear(
        cls, linear: nn.Linear, *, activations: str = "token", input_scale: Tensor | float | None = None
    ) -> Self:
        """The layer with its weight rounded to 8 bits.

        Args:
            linear: left as it is; the bias is shared.
            activations: one of :data:`ACTIVATIONS`.
            input_scale: the largest absolute input over 127, where static.

        Raises:
            InputError: static without a scale, or a weight that holds no finite number.
        """
        if activations == "static" and input_scale is None:
            raise InputError("input_scale: expected a number for static activations, got none; calibrate, or use token")
        sizes = linear.in_features, linear.out_features
        layer = cls(*sizes, activations=activations, bias=False, device=linear.weight.device)
        layer.weight.data, layer.weight_scale.data = rounded(linear.weight.detach())
        if layer.input_scale is not None:
            layer.input_scale.data.fill_(float(input_scale or 0.0))
        layer.bias = linear.bias
        return layer.train(linear.training)

    def dequantised(self, dtype: torch.dtype | None = None) -> Float[Tensor, "out in"]:
        """The weight's numbers in ``dtype``, float32 where None."""
        return (self.weight * self.weight_scale).to(dtype or torch.float32)

    def forward(self, x: Float[Tensor, "*rows in"]) -> Float[Tensor, "*rows out"]:
        """The product."""
        weight = self.dequantised()
        return F.linear(x.float(), weight, None if self.bias is None else self.bias.float()).to(x.dtype)

    def extra_repr(self) -> str:
        """Sizes and the way of activations."""
        bias = self.bias is not None
        return f"{self.in_features}, {self.out_features}, bias={bias}, activations={self.activations}"


def rounded(weight: Float[Tensor, "out in"]) -> tuple[Tensor, Tensor]:
    """A weight as int8, and the scale of each output channel of shape (out, 1) in float32.

    Raises:
        InputError: a number that is not finite.
    """
    exact = weight.float()
    scale = exact.abs().amax(dim=1, keepdim=True) / LEVELS
    if not torch.isfinite(scale).all():
        raise InputError("weight: expected finite numbers, got inf or nan; look at the model before quantising it")
    scale.clamp_(min=torch.finfo(torch.float32).tiny)
    return (exact / scale).round_().to(torch.int8), scale
