"""The gradient of one weight, kept as what it is made of until it is wanted. Knows no modules and no optimizers.

A linear layer's weight gradient is the sum over its calls of ``dy^T x``. Autograd forms each product and adds it to a
buffer as large as the weight; where a layer is called once per segment, the buffers of all weights are alive at the
same time. Here the factors are kept instead, and the product is formed once, at the end, in pieces.

The rule: factors are kept as long as they take no more bytes than one gradient buffer of the weight,

    linear:     calls * rows * (in + out) * itemsize  <=  in * out * itemsize
    embedding:  calls * rows * (8 + dim * itemsize)   <=  vocabulary * dim * itemsize,

and the call that would pass that bound adds them all to such a buffer, which takes what comes after. So no weight ever
costs more than its plain gradient, and none needs to know how many calls will come. A total budget would not help: a
buffer put in the place of smaller factors makes memory larger.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import EllipsisType

import torch
from jaxtyping import Float, Int
from torch import Tensor

Pairs = list[tuple[Tensor, Tensor]]
Rows = slice | EllipsisType


class Stash:
    """What backward has left of one weight's gradient.

    Args:
        weight: ``(rows, columns)``; not changed here.

    Attributes:
        held: bytes of factors kept, each factor counted for each weight that keeps it.
        buffer: the sum so far, once factors would take more; None before.
    """

    __slots__ = ("buffer", "held", "linear", "looked_up", "weight")

    def __init__(self, weight: Float[Tensor, "rows columns"]) -> None:
        self.weight = weight
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.linear: Pairs = []
        self.looked_up: Pairs = []
        self.held = 0
        self.buffer: Tensor | None = None

    def __deepcopy__(self, memo: object) -> Stash:
        """Itself: a copied module has another weight, by which it sees that nothing of it is to be kept here."""
        return self

    def add_linear(self, x: Float[Tensor, "*batch columns"], dy: Float[Tensor, "*batch rows"]) -> None:
        """One call of a linear layer: its input and the gradient of its output. Gradient: ``dy^T x``."""
        x, dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
        self._add(self.linear, x, dy, x.nbytes + dy.nbytes)

    def add_lookup(self, ids: Int[Tensor, "*batch"], dy: Float[Tensor, "*batch columns"]) -> None:
        """One call of an embedding: its ids and the gradient of its output. Gradient: rows of ``dy`` summed by id."""
        ids, dy = ids.reshape(-1), dy.reshape(-1, dy.shape[-1])
        self._add(self.looked_up, ids, dy, ids.nbytes + dy.nbytes)

    def _add(self, pairs: Pairs, left: Tensor, right: Tensor, size: int) -> None:
        pairs.append((left, right))
        self.held += size
        if self.buffer is not None or self.held > self.weight.nbytes:
            if self.buffer is None:
                self.buffer = torch.zeros_like(self.weight)
            self._into(self.buffer)

    def _into(self, buffer: Tensor) -> None:
        """Add all factors to ``buffer`` in place, and let them go."""
        while self.linear:
            x, dy = self.linear.pop()
            if x.dtype == buffer.dtype:
                buffer.addmm_(dy.t(), x)
            else:
                buffer.add_(dy.t() @ x)
        while self.looked_up:
            ids, dy = self.looked_up.pop()
            buffer.index_add_(0, ids, dy.to(buffer.dtype))
        self.held = 0

    def gradient(self, left: Tensor | None = None) -> Gradient | None:
        """The whole gradient, or None if there is none. What it is made of stays here until :meth:`clear`.

        Args:
            left: what autograd left in ``weight.grad`` for uses that were not deferred; taken over, not to be given
                again.
        """
        if left is not None:
            left = left if left.layout == torch.strided else left.to_dense()
            self.buffer = left if self.buffer is None else self.buffer.add_(left)
        if self.buffer is not None:
            self._into(self.buffer)
            return Gradient(self.weight, dense=self.buffer)
        if not self.linear and not self.looked_up:
            return None
        return Gradient(self.weight, linear=together(self.linear), looked_up=together(self.looked_up))


def together(pairs: Pairs) -> tuple[Tensor, Tensor] | None:
    """All rows of all pairs as one pair: one large product is faster than many small ones."""
    if not pairs:
        return None
    if len(pairs) == 1:
        return pairs[0]
    return torch.cat([left for left, _ in pairs]), torch.cat([right for _, right in pairs])


class Gradient:
    """A gradient that can be formed again and again, a piece of its rows at a time.

    Args:
        weight: that it is the gradient of.
        dense: the gradient itself; or what it is made of:
        linear: inputs ``(n, columns)`` and gradients of outputs ``(n, rows)``.
        looked_up: ids ``(n,)`` and gradients of outputs ``(n, columns)``.
    """

    __slots__ = ("dense", "linear", "looked_up", "weight")

    def __init__(
        self,
        weight: Tensor,
        *,
        dense: Tensor | None = None,
        linear: tuple[Tensor, Tensor] | None = None,
        looked_up: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.weight, self.dense, self.linear, self.looked_up = weight, dense, linear, looked_up

    def add_to(self, param: Float[Tensor, "*shape"], alpha: float, beta: float) -> bool:
        """``param ← beta param + alpha gradient`` without forming the gradient, if it is a product in the same dtype.

        Returns:
            whether it was; otherwise nothing is changed.
        """
        if self.linear is None or self.looked_up is not None or self.linear[0].dtype != param.dtype:
            return False
        x, dy = self.linear
        param.addmm_(dy.t(), x, alpha=alpha, beta=beta)
        return True

    def pieces(self, most: int) -> Iterator[tuple[Rows, Tensor]]:
        """Rows and their gradient, in order, each made when it is asked for; a single piece is made once and kept.

        Args:
            most: bytes of a piece in the weight's dtype, if a row takes no more. What has not two dimensions is one
                piece.
        """
        if self.weight.dim() != 2:
            assert self.dense is not None
            yield ..., self.dense
            return
        rows = len(self.weight)
        step = max(1, most // max(1, self.weight[:1].nbytes))
        if self.dense is not None:
            # So that what is computed from a piece is no larger than one.
            for start in range(0, rows, step):
                at = slice(start, min(rows, start + step))
                yield at, self.dense[at]
            return
        if step >= rows:
            self.dense = self._rows(slice(0, rows))
            self.linear = self.looked_up = None
            yield ..., self.dense
            return
        for start in range(0, rows, step):
            at = slice(start, min(rows, start + step))
            yield at, self._rows(at)

    def _rows(self, at: slice) -> Tensor:
        found = None
        if self.linear is not None:
            x, dy = self.linear
            found = dy[:, at].t() @ x
        if self.looked_up is not None:
            ids, dy = self.looked_up
            if found is None:
                # Many rows may fall on one: they are summed in float32, as on a GPU, and not in half precision.
                wide = torch.float32 if dy.element_size() < 4 else dy.dtype
                found = dy.new_zeros(at.stop - at.start, dy.shape[1], dtype=wide)
            if len(found) < len(self.weight):
                here = (ids >= at.start) & (ids < at.stop)
                ids, dy = ids[here] - at.start, dy[here]
            found.index_add_(0, ids, dy.to(found.dtype))
        assert found is not None
        return found
