"""A linear layer whose weight and activations are 8-bit integers (W8A8; SmoothQuant, arXiv 2211.10438, section 3).

    y = (q(x) W_q^T) s_x s_w + b,    W_q = round(W / s_w),  s_w = max|W| / 127 of each output channel (symmetric)

and activations one of three ways (table 2 of the paper): ``token``, a scale of each row as it comes (O1); ``tensor``,
one of the whole input as it comes (O2); ``static``, one that was measured before (O3).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from efficiency.errors import InputError
from efficiency.int8 import cpu
from efficiency.int8.cpu import LEVELS
from efficiency.int8.marks import Marks
from efficiency.int8.siblings import Siblings

ACTIVATIONS = ("token", "tensor", "static")
SCALES = ("weight_scale", "input_scale")


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
        marks: where rows that are memory are to run without rounding of activations, who knows them.
        siblings: layers that are given the same input, where :func:`efficiency.int8.put_together` has found some.

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
        self.weight_scale = nn.Parameter(
            torch.ones(out_features, 1, device=device, dtype=torch.float32), requires_grad=False
        )
        one = (
            nn.Parameter(torch.ones(1, device=device, dtype=torch.float32), requires_grad=False)
            if activations == "static"
            else None
        )
        self.register_parameter("input_scale", one)
        given = nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype)) if bias else None
        self.register_parameter("bias", given)
        self.marks: Marks | None = None
        self.siblings: Siblings | None = None
        self._laid: tuple[Any, cpu.Packed] | None = None

    @classmethod
    def from_linear(
        cls, linear: nn.Linear, *, activations: str = "token", input_scale: Tensor | float | None = None
    ) -> Int8Linear:
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
        """The product; gradients pass as if activations had not been rounded, and none goes to the bias."""
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        if torch.is_grad_enabled() and x.requires_grad:
            y: Tensor = _Straight.apply(x, self)
            return y
        return self._product(x)

    def _product(self, x: Float[Tensor, "*rows in"]) -> Float[Tensor, "*rows out"]:
        if torch.compiler.is_compiling():
            return self._uncompiled(x)
        if torch.is_grad_enabled():
            with torch.no_grad():
                return self._product(x)
        flat = x.reshape(-1, x.shape[-1])
        y = self._rounded(x, flat) if flat.device.type == "cpu" and len(flat) else self._elsewhere(flat)
        exact = None if self.marks is None else self.marks.rows(x)
        if exact is not None:
            rows = exact.flatten().nonzero().flatten()
            y[rows] = self._unrounded(flat[rows])
        return y.view(*x.shape[:-1], self.out_features)

    # Compiled code would hold each weight of each layer to be one it knows, and compile anew for the next.
    @torch.compiler.disable
    def _uncompiled(self, x: Float[Tensor, "*rows in"]) -> Float[Tensor, "*rows out"]:
        return self._product(x)

    def _elsewhere(self, flat: Float[Tensor, "rows in"]) -> Float[Tensor, "rows out"]:
        """The product on a GPU; in floating point on a device without 8-bit kernels, and of no rows."""
        if flat.device.type != "cuda" or not len(flat):
            return self._unrounded(flat)
        from efficiency.int8.cuda import int8_linear_cuda

        how: dict[str, Any] = {"activations": self.activations, "input_scale": self.input_scale}
        y: Tensor = int8_linear_cuda(flat, self.weight, self.weight_scale, self.bias, **how)
        return y

    def _rounded(self, x: Float[Tensor, "*rows in"], flat: Float[Tensor, "rows in"]) -> Float[Tensor, "rows out"]:
        """The product of 8-bit integers on a CPU."""
        bias = None if self.bias is None else self.bias.float()
        if self.activations == "token":
            if self.siblings is not None:
                y = self.siblings.product(x, flat, self)
            elif len(flat) == 1 and "int_mm" in cpu.kernels():
                row, scales = cpu.rounded_rows(flat, "int_mm")
                y = cpu.one_row(row, self).mul_(scales)
            else:
                packed = self._packed()
                rows, scales = cpu.rounded_rows(flat, packed.kernel)
                y = packed(rows).mul_(scales)
            y = y if bias is None else y.add_(bias)
            return y.contiguous() if x.dtype == torch.float32 else y.to(x.dtype)
        packed, given = self._packed(), self._parameters["input_scale"]
        scale = float(cpu.largest(flat).amax() / LEVELS if given is None else given)
        return packed.scaled(cpu.rounded_whole(flat, scale, packed.kernel), scale, bias, x.dtype)

    def _unrounded(self, flat: Float[Tensor, "rows in"]) -> Float[Tensor, "rows out"]:
        """The product with activations as they are, in their format (W8A16)."""
        if flat.device.type == "cpu" and len(flat):
            y = cpu.unrounded(flat, self.weight, self.weight_scale)
            return y if self.bias is None else y.add_(self.bias)
        bias = None if self.bias is None else self.bias.to(flat.dtype)
        return F.linear(flat, self.dequantised(flat.dtype), bias)

    def _packed(self) -> cpu.Packed:
        """The weight as the kernel wants it, made anew where it has changed."""
        stamp = cpu.stamp(self)
        if self._laid is None or self._laid[0] != stamp:
            # What is made under inference mode could not be used outside of it.
            with torch.inference_mode(False):
                self._laid = stamp, cpu.Packed(self.weight, self.weight_scale, cpu.kernels()[0])
        return self._laid[1]

    def _apply(self, fn: Any, recurse: bool = True) -> Int8Linear:
        """As ``nn.Module``'s; scales stay in float32 in whatever format the model is put."""
        scales = {name: p.data for name in SCALES if (p := self._parameters[name]) is not None}
        super()._apply(fn, recurse)
        for name, scale in scales.items():
            new = self._parameters[name]
            assert new is not None
            if new.dtype != torch.float32:
                new.data = scale.to(new.device)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """A copy, or a pickle, makes its own layouts."""
        return self.__dict__ | {"_laid": None}

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


class _Straight(torch.autograd.Function):
    """A layer's product; backward as if nothing of the activations had been rounded (straight-through estimator)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Int8Linear) -> Tensor:
        """As the layer computes it."""
        ctx.layer = layer
        return layer._product(x)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Of x."""
        return gradient @ ctx.layer.dequantised(gradient.dtype), None
