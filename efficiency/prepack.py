"""Frozen weights laid out for oneDNN once, where torch would do it again at every product. For bfloat16 on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

SIDES = ("back", "ahead")  # products by W, which gain more, then those by W^T


class Layouts:
    """A frozen weight W for x W^T (``ahead``) and for y W (``back``), laid out at first use and when W has changed.

    What version counters do not tell of, such as a write through ``weight.data``, calls for :meth:`clear`.

    Args:
        sides: those of :data:`SIDES` that may take memory, of W's size in bfloat16 each; others run on W itself.
    """

    def __init__(self, sides: Sequence[str] = ()) -> None:
        self.sides = frozenset(sides)
        self._made: dict[str, tuple[tuple[int, int], Tensor]] = {}

    @property
    def nbytes(self) -> int:
        """Of what has been laid out."""
        return sum(2 * laid.numel() for _, laid in self._made.values())

    def clear(self) -> None:
        """Forget all."""
        self._made.clear()

    def ahead(
        self,
        x: Float[Tensor, "rows features"],
        weight: Float[Tensor, "out features"],
        bias: Float[Tensor, " out"] | None,
    ) -> Float[Tensor, "rows out"]:
        """x W^T + bias, in the format of x."""
        bias = None if bias is None else bias.to(x.dtype)
        laid = self._laid("ahead", weight, x)
        return F.linear(x, weight.to(x.dtype), bias) if laid is None else _product(x, laid, bias)

    def back(
        self, y: Float[Tensor, "rows out"], weight: Float[Tensor, "out features"]
    ) -> Float[Tensor, "rows features"]:
        """y W, in the format of y."""
        laid = self._laid("back", weight, y)
        return y @ weight.to(y.dtype) if laid is None else _product(y, laid, None)

    def _laid(self, side: str, weight: Tensor, given: Tensor) -> Tensor | None:
        if side not in self.sides or given.dtype != torch.bfloat16:
            return None
        stamp = weight.data_ptr(), 0 if weight.is_inference() else weight._version
        known = self._made.get(side)
        if known is not None and known[0] == stamp:
            return known[1]
        if not prepacks(weight):
            self.clear()
            return None
        plain = weight.detach().to(torch.bfloat16)
        laid: Tensor = torch.ops.mkldnn._reorder_linear_weight(plain if side == "ahead" else plain.t().contiguous())
        self._made[side] = stamp, laid
        return laid


def prepacks(weight: Tensor) -> bool:
    """Whether oneDNN lays out a weight. By private names of torch: where a release has changed them, it does not."""
    if type(weight) not in (Tensor, nn.Parameter) or weight.device.type != "cpu" or not torch.backends.mkldnn.enabled:
        return False
    ops = torch.ops.mkldnn
    names = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    if not torch.backends.mkldnn.is_available() or not all(hasattr(ops, name) for name in names):
        return False
    return bool(ops._is_mkldnn_bf16_supported())


def share_out(sizes: Sequence[int], budget: int) -> list[tuple[str, ...]]:
    """Which sides of which weight may be laid out: all that go back before any that go ahead, first weights first.

    Args:
        sizes: bytes of each weight in bfloat16.
        budget: bytes that layouts may take in all.
    """
    given: list[tuple[str, ...]] = [() for _ in sizes]
    for side in SIDES:
        for number, size in enumerate(sizes):
            if size <= budget:
                given[number] += (side,)
                budget -= size
    return given


def _product(x: Tensor, laid: Tensor, bias: Tensor | None) -> Tensor:
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x, laid, bias, "none", [], "")
    return made
