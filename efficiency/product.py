"""A frozen linear layer and its low-rank adapter as one operation. Knows nothing of PEFT, steps or layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable
from weakref import ReferenceType, ref

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from efficiency.prepack import Layouts


@dataclass
class Terms:
    """An adapter as it is multiplied with: s B (A * keep), in the number format of the products.

    Attributes:
        a: A, with the mask folded in: one matrix, or one a sample.
        b: B, transposed, times s.
        scale: s; a mask's 1 / (1 - p) is part of it.
        keep: what is kept of the features; None for all.
        of: A and B.
        key: what else this was made of.
        spent: whether a backward has used it.
    """

    a: Float[Tensor, "samples rank features"]
    b: Float[Tensor, "rank out"]
    scale: float
    keep: Bool[Tensor, "samples features"] | None
    of: tuple[ReferenceType[Tensor], ReferenceType[Tensor]]
    key: Any = None
    spent: bool = False

    @classmethod
    def made(
        cls,
        a: Float[Tensor, "rank features"],
        b: Float[Tensor, "out rank"],
        *,
        scale: float,
        keep: Bool[Tensor, "samples features"] | None,
        dtype: torch.dtype,
        key: Any = None,
    ) -> Terms:
        """From the weights that are trained."""
        masked = a[None] if keep is None else a * keep[:, None]
        return cls(masked.to(dtype), (b.t() * scale).to(dtype).contiguous(), scale, keep, (ref(a), ref(b)), key)

    @property
    def nbytes(self) -> int:
        """Of its tensors."""
        return sum(t.nbytes for t in (self.a, self.b, self.keep) if t is not None)


@runtime_checkable
class Stored(Protocol):
    """A layer that holds its weight in another form, such as 4 bits."""

    def dequantised(self, dtype: torch.dtype) -> Float[Tensor, "out features"]:
        """The weight's numbers, not to be changed."""


class Product(torch.autograd.Function):
    """y = x W^T + bias + s (drop(x) A^T) B^T, with gradients of x, A and B only.

    Saves x and drop(x) A^T, and by reference W, A and B, so that a change in place before backward is an error. The
    numbers of a stored W are asked for again in backward.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "*batch features"],
        weight: Float[Tensor, "out features"] | Stored,
        bias: Float[Tensor, " out"] | None,
        a: Float[Tensor, "rank features"],
        b: Float[Tensor, "out rank"],
        terms: Terms,
        layouts: Layouts,
    ) -> Float[Tensor, "*batch out"]:
        """See above; ``terms`` are of ``a`` and ``b``, ``layouts`` of ``weight``."""
        rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
        inner, samples = rows.to(terms.a.dtype), len(terms.a)
        if samples == 1:
            down = inner @ terms.a[0].t()
        else:
            down = torch.bmm(inner.view(samples, -1, x.shape[-1]), terms.a.mT).view(len(rows), -1)
        y = layouts.ahead(rows, _numbers(weight, x.dtype), bias)
        _add_product(y, down, terms.b)
        own = isinstance(weight, Tensor)
        ctx.save_for_backward(x, down, weight if own else None, a, b)
        ctx.terms, ctx.layouts, ctx.stored = terms, layouts, None if own else weight
        return y if x.dim() == 2 else y.view(*x.shape[:-1], y.shape[-1])

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
    of_y = gradient.reshape(-1, gradient.shape[-1])
    of_down = of_y.to(terms.b.dtype) @ terms.b.t()
    of_x = of_a = of_b = None
    if ctx.needs_input_grad[0]:
        through = ctx.layouts.back(of_y, _numbers(ctx.stored if weight is None else weight, x.dtype))
        of_x = _of_x(through, of_down, terms).view(x.shape)
    if ctx.needs_input_grad[3]:
        of_a = _of_a(x, of_down, terms, a.dtype)
    if ctx.needs_input_grad[4]:
        # s goes to the smallest of the factors.
        of_b = (of_y.to(down.dtype).t() @ (down * terms.scale)).to(b.dtype)
    return of_x, None, None, of_a, of_b, None, None


def _of_x(through: Float[Tensor, "rows features"], of_down: Float[Tensor, "rows rank"], terms: Terms) -> Tensor:
    """What comes through the adapter added to what came ``through`` the base, in place."""
    samples, rank, features = terms.a.shape
    if samples == 1:
        _add_product(through, of_down, terms.a[0])
        return through
    each, grown = through.view(samples, -1, features), of_down.view(samples, -1, rank)
    if terms.a.dtype == each.dtype:
        each.baddbmm_(grown, terms.a)
    else:
        each.add_(torch.bmm(grown, terms.a))
    return through


def _of_a(x: Tensor, of_down: Float[Tensor, "rows rank"], terms: Terms, dtype: torch.dtype) -> Tensor:
    """The gradient of A: sums over samples of keep * (gradient at the product)^T x."""
    samples, rank, features = terms.a.shape
    if samples == 1:
        rows = x.reshape(-1, features).to(of_down.dtype)
        whole = (of_down.t() @ rows).to(dtype)
        return whole if terms.keep is None else whole * terms.keep
    rows = x.reshape(samples, -1, features).to(of_down.dtype)
    each = torch.bmm(of_down.view(samples, -1, rank).mT, rows)
    assert terms.keep is not None
    return (each * terms.keep[:, None]).to(dtype).sum(dim=0)


def _numbers(weight: Tensor | Stored, dtype: torch.dtype) -> Tensor:
    return weight if isinstance(weight, Tensor) else weight.dequantised(dtype)


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
