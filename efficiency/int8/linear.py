"""A linear layer whose weight and activations are 8-bit integers (W8A8; SmoothQuant, arXiv 2211.10438, section 3).

    y = (q(x) W_q^T) s_x s_w + b,    W_q = round(W / s_w),  s_w = max|W| / 127 of each output channel (symmetric)

and activations one of three ways (table 2 of the paper): ``token``, a scale of each row as it comes (O1); ``tensor``,
one of an input as it comes (O2), of each sample where the first of three or more dimensions is the batch, so that none
changes what becomes of another; ``static``, one that was measured before (O3).
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
SCALES = ("weight_scale", "input_scale", "multiplier")  # the last of a class derived from this one


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
        stands_for: the class of the layer in floating point: ``Linear``, or GPT-2's ``Conv1D`` with (in, out) weights.

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
        self.stands_for = "Linear"
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
            InputError: static without a positive scale, or a weight with numbers that are not finite.
        """
        if activations == "static" and input_scale is None:
            raise InputError("input_scale: expected a number for static activations, got none; calibrate, or use token")
        if activations == "static" and not 0 < float(torch.as_tensor(input_scale).sum()) < float("inf"):
            raise InputError(f"input_scale: expected a number above 0, got {input_scale}; calibrate on other inputs")
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
        if x.shape[-1] != self.in_features or not x.is_floating_point():
            raise InputError(
                f"x: expected floating-point numbers of {self.in_features} features, got {x.dtype} of {tuple(x.shape)}"
            )
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
        kind, flat = x.device.type, x.reshape(-1, self.in_features)
        if torch.is_autocast_enabled(kind):
            flat = flat.to(torch.get_autocast_dtype(kind))
        y = self._rounded(x, flat) if kind == "cpu" and len(flat) else self._elsewhere(x, flat)
        exact = None if self.marks is None else self.marks.rows(x)
        if exact is not None:
            if kind == "cpu":
                rows = exact.flatten().nonzero().flatten()
                y[rows] = self._unrounded(flat[rows])
            else:  # without asking the device where they are, which a captured graph could not
                y = torch.where(exact.reshape(-1, 1), self._unrounded(flat), y)
        return y.view(*x.shape[:-1], self.out_features)

    # Compiled code would hold each weight of each layer to be one it knows, and compile anew for the next.
    @torch.compiler.disable
    def _uncompiled(self, x: Float[Tensor, "*rows in"]) -> Float[Tensor, "*rows out"]:
        return self._product(x)

    def _elsewhere(self, x: Float[Tensor, "*rows in"], flat: Float[Tensor, "rows in"]) -> Float[Tensor, "rows out"]:
        """The product on a GPU; in floating point on a device without 8-bit kernels, and of no rows."""
        if flat.device.type != "cuda" or not len(flat):
            return self._unrounded(flat)
        return self._by_kernels(x, flat)

    def _by_kernels(self, x: Float[Tensor, "*rows in"], flat: Float[Tensor, "rows in"]) -> Float[Tensor, "rows out"]:
        """By the kernels for GPUs, which have a twin in torch for other devices."""
        from efficiency.int8 import cuda

        samples = self._samples(x)
        if self.activations == "tensor" and samples > 1:
            most = flat.float().abs().view(samples, -1).amax(dim=1) / LEVELS
            scales = most.clamp(min=cpu.SMALLEST).repeat_interleave(len(flat) // samples)
            values = cuda.quantise_rows(flat / scales[:, None], scale=torch.ones_like(scales[:1])).values
            rows = cuda.Quantised(values, scales)
            made: Tensor = cuda.int8_product(rows, self.weight, self.weight_scale, self.bias, dtype=flat.dtype)
            return made
        how: dict[str, Any] = {"activations": self.activations, "input_scale": self.input_scale}
        y: Tensor = cuda.int8_linear_cuda(flat, self.weight, self.weight_scale, self.bias, **how)
        return y

    def _samples(self, x: Tensor) -> int:
        """Documents, or segments, side by side: none may change what becomes of another."""
        return x.shape[0] if x.dim() > 2 else 1

    def _rounded(self, x: Float[Tensor, "*rows in"], flat: Float[Tensor, "rows in"]) -> Float[Tensor, "rows out"]:
        """The product of 8-bit integers on a CPU."""
        bias = None if self.bias is None else self.bias.float()
        samples = self._samples(x)
        if self.activations == "token" or (self.activations == "tensor" and samples > 1):
            y = self._by_rows(x, flat, samples)
            y = y if bias is None else y.add_(bias)
            return y.contiguous() if flat.dtype == torch.float32 else y.to(flat.dtype)
        packed, most = self._packed(), cpu.largest(flat)
        scale = float(most.amax() / LEVELS if self.input_scale is None else self.input_scale)
        y = packed.scaled(cpu.rounded_whole(flat, scale, packed.kernel), scale, bias, flat.dtype)
        finite = most.isfinite()
        return y if bool(finite.all()) else y.where(finite, torch.nan)

    def _by_rows(self, x: Tensor, flat: Float[Tensor, "rows in"], samples: int) -> Float[Tensor, "rows out"]:
        """Without the bias, each row by a scale of its own or of its sample, in float32."""
        if self.activations == "tensor":
            packed = self._packed()
            rows, scales = cpu.rounded_samples(flat, samples, packed.kernel)
            return packed(rows).mul_(scales)
        if self.siblings is not None:
            return self.siblings.product(x, flat, self)
        if len(flat) == 1 and "int_mm" in cpu.kernels():
            row, scales = cpu.rounded_rows(flat, "int_mm")
            return cpu.one_row(row, self).mul_(scales)
        packed = self._packed()
        rows, scales = cpu.rounded_rows(flat, packed.kernel)
        return packed(rows).mul_(scales)

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
        scales = {name: p.data for name in SCALES if (p := self._parameters.get(name)) is not None}
        super()._apply(fn, recurse)
        for name, scale in scales.items():
            new = self._parameters[name]
            assert new is not None
            if new.dtype != torch.float32:
                new.data = scale.to(new.device)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """As ``nn.Module``'s; numbers in floating point are no 8-bit weight."""
        weight, messages = state_dict.get(f"{prefix}weight"), rest[-1]
        if isinstance(weight, Tensor) and weight.dtype != torch.int8:
            messages.append(
                f"{prefix}weight: expected int8, got {weight.dtype}; quantise a model that has these weights"
            )
            return
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._laid = None
        if self.siblings is not None:
            self.siblings.forget()

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
