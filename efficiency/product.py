"""A frozen linear layer and its low-rank adapter as one operation. Knows nothing of PEFT, steps or layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable
from weakref import ReferenceType, ref

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


@dataclass
class Terms:
    """An adapter as it is multiplied with: B (s A * keep), in the number format of the products.

    Attributes:
        a: A times s, with the mask folded in: one matrix, or one a sample.
        b: B, transposed.
        scale: s; a mask's 1 / (1 - p) is part of it.
        keep: what is kept of the features; None for all.
        of: A and B.
        key: what else this was made of.
        spent: whether a backward has used it.
        through: A and B as calls are given them, by way of :class:`Shared`; None before the first.
    """

    a: Float[Tensor, "samples rank features"]
    b: Float[Tensor, "rank out"]
    scale: float
    keep: Bool[Tensor, "samples features"] | None
    of: tuple[ReferenceType[Tensor], ReferenceType[Tensor]]
    key: Any = None
    spent: bool = False
    through: tuple[Tensor, Tensor] | None = None
    sums: Sums = field(default_factory=lambda: Sums())

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
        masked = (a * scale)[None] if keep is None else a * scale * keep[:, None]
        return cls(masked.to(dtype), b.t().to(dtype).contiguous(), scale, keep, (ref(a), ref(b)), key)

    def shared(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """What a call is to be given in place of A and B, so that their gradients come once for all calls."""
        if self.through is None:
            self.through = Shared.apply(a, b, self.sums)
        return self.through

    @property
    def nbytes(self) -> int:
        """Of its tensors."""
        return sum(t.nbytes for t in (self.a, self.b, self.keep) if t is not None)


class Sums:
    """Gradients of A and B, added up over calls in float32 at least; that of B transposed."""

    __slots__ = ("a", "b")

    def __init__(self) -> None:
        self.a: Tensor | None = None
        self.b: Tensor | None = None

    def add(self, name: str, part: Tensor, scale: float = 1.0) -> None:
        """Another call's share, times ``scale``; ``part`` is taken over."""
        total = getattr(self, name)
        if total is None:
            part = part.to(torch.promote_types(part.dtype, torch.float32))
            setattr(self, name, part if scale == 1.0 else part.mul_(scale))
        else:
            total.add_(part, alpha=scale)

    def take(self, name: str, dtype: torch.dtype) -> Tensor | None:
        """The sum in ``dtype``, which is then forgotten; None where nothing came."""
        total: Tensor | None = getattr(self, name)
        setattr(self, name, None)
        return None if total is None else total.to(dtype)


class Shared(torch.autograd.Function):
    """A and B as all calls of a step take them; backward, when every call has had its own, gives their whole gradients.

    A call leaves its share in ``sums`` and gives autograd none, which would be added up call by call, each time by way
    of another tensor.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, sums: Sums) -> tuple[Tensor, Tensor]:
        """Both as they are."""
        ctx.sums, ctx.formats = sums, (a.dtype, b.dtype)
        ctx.set_materialize_grads(False)
        return a.detach(), b.detach()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        """What the calls have left."""
        sums: Sums = ctx.sums
        a, b = (sums.take(name, dtype) for name, dtype in zip("ab", ctx.formats, strict=True))
        return a, None if b is None else b.t(), None


@runtime_checkable
class Stored(Protocol):
    """A layer that holds its weight in another form, such as 4 bits."""

    def dequantised(self, dtype: torch.dtype) -> Float[Tensor, "out features"]:
        """The weight's numbers, not to be changed."""


class Product(torch.autograd.Function):
    """y = x W^T + bias + s (drop(x) A^T) B^T, with gradients of x, A and B only; the latter two in ``terms.sums``.

    Saves x and s drop(x) A^T, and by reference W, A and B, so that a change in place before backward is an error. The
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
    ) -> Float[Tensor, "*batch out"]:
        """See above; ``a`` and ``b`` are what ``terms.shared`` gives of the two."""
        rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
        inner, samples = rows.to(terms.a.dtype), len(terms.a)
        if samples == 1:
            down = inner @ terms.a[0].t()
        else:
            down = torch.bmm(inner.view(samples, -1, x.shape[-1]), terms.a.mT).view(len(rows), -1)
        y = F.linear(rows, _numbers(weight, x.dtype), None if bias is None else bias.to(x.dtype))
        _add_product(y, down, terms.b)
        own = isinstance(weight, Tensor)
        ctx.save_for_backward(x, down, weight if own else None, a, b)
        ctx.terms, ctx.stored = terms, None if own else weight
        return y if x.dim() == 2 else y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of x in one pass; those of A and B are left where they are added up, and W has none."""
        kind = gradient.device.type
        if torch.is_autocast_enabled(kind):  # where backward is called inside it
            with torch.autocast(kind, enabled=False):
                return _gradients(ctx, gradient)
        return _gradients(ctx, gradient)


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    x, down, weight, *_ = ctx.saved_tensors
    terms: Terms = ctx.terms
    terms.spent = True
    of_y = gradient.reshape(-1, gradient.shape[-1])
    of_down = of_y.to(terms.b.dtype) @ terms.b.t()
    of_x = None
    # The large product comes last, since it leaves nothing of its input in the caches.
    if ctx.needs_input_grad[4]:
        # s is in the low ranks already; the smaller product of the two that give this gradient.
        terms.sums.add("b", down.t() @ of_y.to(down.dtype))
    if ctx.needs_input_grad[3]:
        terms.sums.add("a", _of_a(x, of_down, terms), terms.scale)
    if ctx.needs_input_grad[0]:
        through = of_y @ _numbers(ctx.stored if weight is None else weight, x.dtype)
        of_x = _of_x(through, of_down, terms).view(x.shape)
    return of_x, None, None, None, None, None


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


def _of_a(x: Tensor, of_down: Float[Tensor, "rows rank"], terms: Terms) -> Float[Tensor, "rank features"]:
    """The gradient of A, but for s: sums over samples of keep * (gradient at the product)^T x."""
    samples, rank, features = terms.a.shape
    if samples == 1:
        rows = x.reshape(-1, features).to(of_down.dtype)
        whole = of_down.t() @ rows
        return whole if terms.keep is None else whole * terms.keep
    rows = x.reshape(samples, -1, features).to(of_down.dtype)
    each = torch.bmm(of_down.view(samples, -1, rank).mT, rows)
    assert terms.keep is not None
    wide = torch.promote_types(each.dtype, torch.float32)
    return (each * terms.keep[:, None]).sum(dim=0, dtype=wide)


def _numbers(weight: Tensor | Stored, dtype: torch.dtype) -> Tensor:
    return weight.to(dtype) if isinstance(weight, Tensor) else weight.dequantised(dtype)


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
