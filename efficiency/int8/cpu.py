"""Products of 8-bit integers on a CPU, by whichever of torch's kernels is there and is not a slow reference.

oneDNN multiplies unsigned activations, at zero point 128, by signed weights that were laid out for it. It takes one
scale for all activations, so scales of rows come after. With signed activations it falls to a reference kernel,
hundreds of times slower; hence each kernel is tried once, on a small product, for its result and its time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Float32, Int8, Shaped
from torch import Tensor
from torch.nn import functional as F

ZERO = 128  # what an unsigned activation of 0 is stored as
LEVELS = 127
SMALLEST = 1e-30  # of a row's largest number: below it a row counts as zero
SLOWEST = 8.0  # times the product of the same numbers in float32, that a kernel may take
FEW = 16  # rows in bfloat16, up to which a product by 8-bit weights is faster than their cast
SMALL = 8192  # numbers, up to which fewer operations are faster than cheaper ones
# Numbers without their sign, as integers of their width: these are ordered as the numbers are, and compared faster.
UNSIGNED = {
    torch.bfloat16: (torch.int16, 0x7FFF),
    torch.float16: (torch.int16, 0x7FFF),
    torch.float32: (torch.int32, 0x7FFFFFFF),
}

_log = logging.getLogger(__name__)


def largest(x: Float[Tensor, "rows features"]) -> Float32[Tensor, "rows 1"]:
    """Of each row the largest absolute number, not below :data:`SMALLEST`; nan where a row has one."""
    if x.dtype in UNSIGNED and x.numel() > SMALL:
        integers, mask = UNSIGNED[x.dtype]
        most = (x.view(integers) & mask).amax(dim=1, keepdim=True).view(x.dtype)
    else:
        most = x.abs().amax(dim=1, keepdim=True)
    return most.to(torch.float32, copy=True).clamp_(min=SMALLEST)


def rounded_rows(
    x: Float[Tensor, "rows features"], kernel: str
) -> tuple[Shaped[Tensor, "rows features"], Float32[Tensor, "rows 1"]]:
    """Rows as 8-bit integers, as a kernel wants them, and the scale of each."""
    most = largest(x)
    large = LEVELS / most
    scaled = x * large if x.numel() <= SMALL else x.to(torch.float32, copy=True).mul_(large)
    return _given(scaled.round_().to(torch.int8), kernel), most / LEVELS


def rounded_whole(x: Float[Tensor, "rows features"], scale: float, kernel: str) -> Shaped[Tensor, "rows features"]:
    """All rows as 8-bit integers by one scale; what is beyond it becomes the largest there is, and nan anything."""
    scaled = x.to(torch.float32, copy=True).mul_(1 / scale).clamp_(-LEVELS, LEVELS)
    return _given(scaled.round_().to(torch.int8), kernel)


def rounded_samples(
    x: Float[Tensor, "rows features"], samples: int, kernel: str
) -> tuple[Shaped[Tensor, "rows features"], Float32[Tensor, "rows 1"]]:
    """Rows as 8-bit integers, and the scale of each: one for all rows of a sample, of which each has as many."""
    rows = len(x) // samples
    most = largest(x).view(samples, rows).amax(dim=1)[:, None, None].expand(-1, rows, 1).reshape(-1, 1)
    scaled = x.to(torch.float32, copy=True).mul_(LEVELS / most)
    return _given(scaled.round_().to(torch.int8), kernel), most / LEVELS


def _given(q: Int8[Tensor, "rows features"], kernel: str) -> Shaped[Tensor, "rows features"]:
    """In the same memory, oneDNN's at zero point :data:`ZERO`. Casts to unsigned integers take ten times as long."""
    return q.view(torch.uint8).bitwise_xor_(ZERO) if kernel == "onednn" else q


def one_row(q: Int8[Tensor, "1 in"], layer: Any) -> Float32[Tensor, "1 out"]:
    """The product of one signed row with the numbers of a layer's weight: as it lies, by ``torch._int_mm``."""
    return torch._int_mm(q, layer.weight.t()).float().mul_(layer.weight_scale.t())


def stamp(layer: Any) -> tuple[int, ...]:
    """What changes when a layer's weight or its scales are moved, given other data or written to.

    Not when they are written to by way of ``.data``, nor where they were made under inference mode.
    """
    found: list[int] = []
    for tensor in (layer._parameters["weight"], layer._parameters["weight_scale"]):
        found += tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version
    return tuple(found)


class Packed:
    """A weight as a kernel wants it.

    Args:
        weight: not copied where the kernel takes it as it is.
        scale: of each output channel.
        kernel: one of :func:`kernels`.
    """

    def __init__(self, weight: Int8[Tensor, "out in"], scale: Float32[Tensor, "out 1"], kernel: str) -> None:
        self.kernel, self.scale = kernel, scale.detach().flatten().contiguous()
        self.weight = weight.detach()
        self.made_of = self.weight, scale  # held, so that nothing else comes to lie where they did
        if kernel == "onednn":
            self.zeros = torch.zeros(len(self.scale), dtype=torch.int32)
            self.weight = torch.ops.onednn.qlinear_prepack(self.weight, None)

    def __call__(self, q: Shaped[Tensor, "rows in"]) -> Float32[Tensor, "rows out"]:
        """The product of integers as this kernel wants them with the weight's numbers."""
        if self.kernel == "onednn":
            return self.scaled(q, 1.0, None, torch.float32)
        if self.kernel == "int_mm":
            return torch._int_mm(q, self.weight.t()).float().mul_(self.scale)
        return (q.float() @ self.weight.float().t()).mul_(self.scale)

    def scaled(
        self, q: Shaped[Tensor, "rows in"], scale: float, bias: Float32[Tensor, " out"] | None, dtype: torch.dtype
    ) -> Float[Tensor, "rows out"]:
        """The product of q times one scale, and a bias."""
        if self.kernel != "onednn":
            y = self(q).mul_(scale)
            return (y if bias is None else y.add_(bias)).to(dtype)
        direct = dtype if dtype in (torch.float32, torch.bfloat16) else torch.float32
        weight = self.weight, self.scale, self.zeros
        made: Tensor = torch.ops.onednn.qlinear_pointwise(q, scale, ZERO, *weight, bias, 1.0, 0, direct, "none", [], "")
        return made.to(dtype)


def unrounded(
    x: Float[Tensor, "rows in"], weight: Int8[Tensor, "out in"], scale: Float32[Tensor, "out 1"]
) -> Float[Tensor, "rows out"]:
    """The product of activations as they are with the weight's numbers, in their format (W8A16)."""
    if x.dtype == torch.float16:  # sums of unscaled integers are beyond it
        return (F.linear(x.float(), weight.float()) * scale.flatten()).to(x.dtype)
    few = x.dtype == torch.bfloat16 and len(x) <= FEW and hasattr(torch, "_weight_int8pack_mm")
    if few and weight.shape[0] % 16 == 0 and weight.shape[1] % 16 == 0:
        y = torch._weight_int8pack_mm(x.contiguous(), weight, x.new_ones(len(weight)))
    else:
        y = F.linear(x, weight.to(x.dtype))
    return (y * scale.flatten()).to(x.dtype)  # in float32: a scale that is rounded moves its whole channel


@cache
def kernels() -> tuple[str, ...]:
    """Kernels that work here, the fastest first: ``onednn``, ``int_mm``, ``plain``. Tried once a process."""
    found = tuple(name for name in ("onednn", "int_mm") if _works(name))
    if not found:
        _log.warning(
            "8-bit products: expected oneDNN's or torch._int_mm, got neither on this machine with torch %s; products "
            "run on float32 numbers, slower than the model was before: use it on another machine, or in bfloat16",
            torch.__version__,
        )
    return (*found, "plain")


def _works(kernel: str) -> bool:
    """Whether a kernel multiplies rightly, and not hundreds of times slower than floats are."""
    maker = torch.Generator().manual_seed(0)
    weight = torch.randint(-LEVELS, LEVELS + 1, (256, 512), generator=maker).to(torch.int8)
    q = torch.randint(-LEVELS, LEVELS + 1, (64, 512), generator=maker).to(torch.int8)
    scale = torch.rand(256, 1, generator=maker)
    right = (q.double() @ weight.double().t()).mul_(scale.flatten()).float()
    try:
        packed, given = Packed(weight, scale, kernel), _given(q.clone(), kernel)
        if not torch.allclose(packed(given), right, rtol=1e-5):
            return False
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return _seconds(lambda: packed(given)) < SLOWEST * _seconds(lambda: q.float() @ weight.float().t())


def _seconds(run: Callable[[], object], times: int = 3) -> float:
    found = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return min(found)
