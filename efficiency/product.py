"""A frozen linear layer and its low-rank adapter as one operation. Knows nothing of PEFT, steps or layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


@dataclass
class Terms:
    """An adapter as it is multiplied with: s B (A * keep), in the number format of the products.

    Attributes:
        a: A, with the mask folded in: one matrix, or one a sample.
        b: s B, transposed; a mask's 1 / (1 - p) is part of s.
        scale: s.
        keep: what is kept of the features; None for all.
        key: what this was made of.
        spent: whether a backward has used it.
    """

    a: Float[Tensor, "samples rank features"]
    b: Float[Tensor, "rank out"]
    scale: float
    keep: Bool[Tensor, "samples features"] | None
    key: tuple[Any, ...] = ()
    spent: bool = field(default=False)

    @classmethod
    def of(
        cls,
        a: Float[Tensor, "rank features"],
        b: Float[Tensor, "out rank"],
        *,
        scale: float,
        keep: Bool[Tensor, "samples features"] | None,
        dtype: torch.dtype,
        key: tuple[Any, ...] = (),
    ) -> Terms:
        """From the weights that are trained."""
        masked = a[None] if keep is None else a * keep[:, None]
        return cls(masked.to(dtype), (b.t() * scale).to(dtype).contiguous(), scale, keep, key)

    @property
    def nbytes(self) -> int:
        """Of its tensors."""
        return sum(t.nbytes for t in (self.a, self.b, self.keep) if t is not None)


class Product(torch.autograd.Function):
    """y = x W^T + bias + s (drop(x) A^T) B^T, with gradients of x, A and B only.

    Saves x and drop(x) A^T, and by reference W, A and B, so that a change in place before backward is an error.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "*batch features"],
        weight: Float[Tensor, "out features"],
        bias: Float[Tensor, " out"] | None,
        a: Float[Tensor, "rank features"],
        b: Float[Tensor, "out rank"],
        terms: Terms,
    ) -> Float[Tensor, "*batch out"]:
        """See above; ``terms`` are of ``a`` and ``b``."""
        out, rank = b.shape
        rows = x.reshape(-1, x.shape[-1])
        inner = rows.to(terms.a.dtype)
        if len(terms.a) == 1:
            down = inner @ terms.a[0].t()
        else:
            down = torch.bmm(inner.view(len(terms.a), -1, x.shape[-1]), terms.a.mT).view(-1, rank)
        y = F.linear(rows, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
        _add_product(y, down, terms.b)
        ctx.save_for_backward(x, down, weight, a, b)
        ctx.terms = terms
        return y.view(*x.shape[:-1], out)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of x in one pass, of A and B; none of W."""
        kind = gradient.device.type
        if torch.is_autocast_enabled(kind):  # where backward is called inside it
            with torch.autocast(kind, enabled=False):
                return _gradients(ctx, gradient)
        return _gradients(ctx, gradient)


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    x, down, weight, a, b = ctx.saved_tensors
    terms: Terms = ctx.terms
    terms.spent = True
    samples, rank, features = terms.a.shape
    of_y = gradient.reshape(-1, gradient.shape[-1])
    of_down = of_y.to(terms.b.dtype) @ terms.b.t()
    of_x = of_a = of_b = None
    if ctx.needs_input_grad[0]:
        of_x = of_y @ weight.to(x.dtype)
        if samples == 1:
            _add_product(of_x, of_down, terms.a[0])
        else:
            each = of_x.view(samples, -1, features)
            grown = of_down.view(samples, -1, rank)
            if terms.a.dtype == each.dtype:
                each.baddbmm_(grown, terms.a)
            else:
                each.add_(torch.bmm(grown, terms.a))
        of_x = of_x.view(x.shape)
    if ctx.needs_input_grad[3]:
        rows = x.reshape(samples, -1, features).to(of_down.dtype)
        each = torch.bmm(of_down.view(samples, -1, rank).mT, rows) if samples > 1 else (of_down.t() @ rows[0])[None]
        of_a = _summed(each, terms.keep, a.dtype)
    if ctx.needs_input_grad[4]:
        of_b = (down.t() @ of_y.to(down.dtype)).t().to(b.dtype) * terms.scale
    return of_x, None, None, of_a, of_b, None


def format_of(x: Tensor) -> torch.dtype | None:
    """The format that autocast asks products for, None where it is off."""
    kind = x.device.type
    # float64 is left alone by autocast too.
    if not torch.is_autocast_enabled(kind) or x.dtype == torch.float64:
        return None
    return torch.get_autocast_dtype(kind)


def _add_product(to: Tensor, one: Tensor, other: Tensor) -> None:
    """to += one @ other, in one pass where their formats allow it."""
    if to.dtype == one.dtype:
        to.addmm_(one, other)
    else:
        to.add_(one @ other)


def _summed(
    each: Float[Tensor, "samples rank features"], keep: Bool[Tensor, "samples features"] | None, dtype: torch.dtype
) -> Float[Tensor, "rank features"]:
    """The gradient of A out of those of A * keep."""
    if keep is not None:
        each = each * keep[:, None]
    return each[0].to(dtype) if len(each) == 1 else each.to(dtype).sum(dim=0)
