"""The operations of ``cuda.py`` in torch's own: the twin of its Triton kernels, and what runs without them.

Scales are those of rows, s = max|x| / 127 (symmetric; SmoothQuant, arXiv 2211.10438, equation 1). A row with a number
that is not finite gets the scale nan and zeros for integers, so that all that comes of it is nan.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int8
from torch import Tensor
from torch.nn import functional as F

from efficiency.int8.linear import LEVELS

TINY = torch.finfo(torch.float32).tiny  # the scale of a row of zeros
ROWS, SIZES = 17, 8  # of the library's product on CUDA: at least so many rows, and sizes that are multiples
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda v: F.gelu(v, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


def quantise(
    x: Float[Tensor, "rows features"], scale: Float[Tensor, " 1"] | None = None
) -> tuple[Int8[Tensor, "rows features"], Float[Tensor, " rows"]]:
    """Rows as integers, rounded half to even, and their scales in float32; or with one given scale, clipped to it."""
    exact = x.float()
    most = exact.abs().amax(dim=1)
    own = (most / LEVELS).clamp(min=TINY) if scale is None else scale.expand(len(x))
    own = torch.where(most.isfinite(), own, torch.nan)
    values = (exact / own[:, None]).round_().nan_to_num_(nan=0.0).clamp_(-LEVELS, LEVELS)
    return values.to(torch.int8), own


def normed(
    x: Float[Tensor, "rows features"],
    weight: Float[Tensor, " features"],
    bias: Float[Tensor, " features"] | None,
    eps: float,
    layer: bool,
    plus_one: bool,
) -> Float[Tensor, "rows features"]:
    """LayerNorm, or RMSNorm, of rows in float32, times the weight or 1 + weight."""
    scale = weight.float() + 1 if plus_one else weight.float()
    if layer:
        return F.layer_norm(x.float(), x.shape[1:], scale, None if bias is None else bias.float(), eps)
    out = F.rms_norm(x.float(), x.shape[1:], scale, eps)
    return out if bias is None else out + bias.float()


def gated(
    gate: Float[Tensor, "rows features"], up: Float[Tensor, "rows features"], activation: str
) -> Float[Tensor, "rows features"]:
    """activation(gate) * up in float32."""
    return FUNCTIONS[activation](gate.float()) * up.float()


def sums(values: Int8[Tensor, "rows in"], weight: Int8[Tensor, "out in"]) -> Tensor:
    """values weight^T in int32 by ``torch._int_mm``, padded to what that takes: a weight of odd sizes is copied."""
    rows, out = len(values), len(weight)
    columns = -values.shape[1] % SIZES
    if columns or -out % SIZES:
        weight = F.pad(weight, (0, columns, 0, -out % SIZES))
    missing = max(0, ROWS - rows)
    if columns or missing:
        values = F.pad(values, (0, columns, 0, missing))
    total: Tensor = torch._int_mm(values, weight.t())
    return total[:rows, :out]


def finish(
    total: Tensor,
    scale: Float[Tensor, " rows"],
    weight_scale: Float[Tensor, " out"],
    bias: Float[Tensor, " out"] | None,
    activation: str | None,
    residual: Float[Tensor, "rows out"] | None,
    dtype: torch.dtype,
) -> Float[Tensor, "rows out"]:
    """activation(total * s_row * s_column + bias) + residual, computed in float32, as ``dtype``.

    Args:
        total: sums of shape (rows, out), of integers or in floating point.
    """
    y = total.float() * scale[:, None] * weight_scale
    if bias is not None:
        y += bias.float()
    if activation is not None:
        y = FUNCTIONS[activation](y)
    if residual is not None:
        y += residual.float()
    return y.to(dtype)


def dequantised(
    values: Int8[Tensor, "rows in"], weight: Int8[Tensor, "out in"], dtype: torch.dtype
) -> Float[Tensor, "rows out"]:
    """The sums in floating point, for devices without integer products; float16 would overflow, so float32 there."""
    wide = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
    return F.linear(values.to(wide), weight.to(wide))
