"""An 8-bit layer that multiplies its input first, where nothing before it could carry the scales of smoothing."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from efficiency.int8.linear import Int8Linear


class MultipliedInt8Linear(Int8Linear):
    """(x m) W^T + b over an 8-bit weight W.

    Attributes:
        multiplier: m of shape (in,), float32, not trained.
    """

    multiplier: nn.Parameter

    def forward(self, x: Float[Tensor, "*rows in"]) -> Float[Tensor, "*rows out"]:
        """The product, in the format of the input."""
        return super().forward(x * self.multiplier.to(x.dtype))
