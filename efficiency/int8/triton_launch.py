"""How the kernels of ``triton_kernels.py`` are launched: grids, tiles, and which tile a product takes.

Imported only where Triton is there. Tensors have two dimensions here, the last of them contiguous.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime.errors import TritonError

from efficiency.int8 import cuda_torch
from efficiency.int8 import triton_kernels as kernels

WIDEST = 65_536  # features of a row, which one program holds
MULTIPLE, LEAST_ROWS = cuda_torch.SIZES, cuda_torch.ROWS
WARM_MS, TIME_MS = 5, 20  # of each candidate


@dataclass(frozen=True)
class Tile:
    """Part of a product that one program makes.

    Attributes:
        m, n: rows and columns; 16 and more.
        k: of the inner size at a time; 32 and more.
        stages, warps: of the pipeline of loads, and of threads.
    """

    m: int
    n: int
    k: int
    stages: int
    warps: int


# For Hopper: 228 KB of shared memory, (m + n) k stages of them taken; four warps have 64 rows of a tile.
LARGE = (
    Tile(128, 256, 128, 3, 8),
    Tile(256, 128, 128, 3, 8),
    Tile(128, 128, 128, 4, 8),
    Tile(128, 256, 64, 4, 8),
    Tile(64, 256, 128, 4, 4),
    Tile(64, 128, 128, 4, 4),
)
# Few rows: the time is that of reading the weight, so columns are split finely enough to keep 132 processors loading.
SMALL = (
    Tile(16, 32, 256, 5, 4),
    Tile(16, 64, 256, 4, 4),
    Tile(16, 16, 512, 4, 4),
    Tile(16, 128, 128, 4, 4),
)
MIDDLE = (
    Tile(32, 64, 256, 4, 4),
    Tile(64, 64, 128, 5, 4),
    Tile(64, 128, 128, 4, 4),
    Tile(64, 256, 128, 4, 8),
)
SIMPLE = Tile(32, 32, 64, 1, 4)  # for the interpreter
LIBRARY = "library"  # torch._int_mm, and what follows in a kernel of its own

_chosen: dict[tuple[Any, ...], Tile | str] = {}


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on a CPU."""
    return not isinstance(kernels.quantise_rows, triton.JITFunction)


def _rowwise(features: int) -> dict[str, int]:
    block = max(16, triton.next_power_of_2(features))
    return {"BLOCK": block, "num_warps": min(32, max(1, block // 512)) if block > 1024 else 4}


def _room(x: Tensor) -> tuple[Tensor, Tensor]:
    rows, features = x.shape
    values = torch.empty((rows, features), dtype=torch.int8, device=x.device)
    return values, torch.empty(rows, dtype=torch.float32, device=x.device)


def quantise(x: Tensor, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """:func:`efficiency.int8.cuda_torch.quantise` in one kernel."""
    values, scales = _room(x)
    features, given = x.shape[1], scales if scale is None else scale
    sizes = (features, x.stride(0), values.stride(0))
    kernels.quantise_rows[(len(x),)](x, values, scales, given, *sizes, GIVEN=scale is not None, **_rowwise(features))
    return values, scales


def norm_quantise(
    x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, layer: bool, plus_one: bool, scale: Tensor | None
) -> tuple[Tensor, Tensor]:
    """:func:`efficiency.int8.cuda_torch.normed` and :func:`quantise` in one kernel."""
    values, scales = _room(x)
    features, given = x.shape[1], scales if scale is None else scale
    kernels.norm_quantise[(len(x),)](
        *(x, weight, weight if bias is None else bias, values, scales, given),
        *(features, x.stride(0), values.stride(0), eps),
        LAYER=layer,
        PLUS_ONE=plus_one,
        BIAS=bias is not None,
        GIVEN=scale is not None,
        **_rowwise(features),
    )
    return values, scales


def gated_quantise(gate: Tensor, up: Tensor, activation: str, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """:func:`efficiency.int8.cuda_torch.gated` and :func:`quantise` in one kernel."""
    values, scales = _room(gate)
    features, given = gate.shape[1], scales if scale is None else scale
    kernels.gated_quantise[(len(gate),)](
        *(gate, up, values, scales, given, features, gate.stride(0), up.stride(0), values.stride(0)),
        ACTIVATION=activation,
        GIVEN=scale is not None,
        **_rowwise(features),
    )
    return values, scales


@dataclass(frozen=True)
class Product:
    """A product of integers and what follows it; as :func:`efficiency.int8.cuda_torch.finish` has it.

    Attributes:
        values: int8 (rows, in). weight: int8 (out, in). scale: (rows,). weight_scale: (out,).
        bias: (out,) or none. activation: its name or none. residual: (rows, out) or none.
        dtype: of the result.
    """

    values: Tensor
    weight: Tensor
    scale: Tensor
    weight_scale: Tensor
    bias: Tensor | None
    activation: str | None
    residual: Tensor | None
    dtype: torch.dtype

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Rows, outputs, inputs."""
        return len(self.values), len(self.weight), self.values.shape[1]

    def _around(self) -> tuple[Tensor, tuple[Tensor, ...], int, dict[str, Any]]:
        """The result's room, what the kernels read beside the sums, a stride, and what is compiled in."""
        rows, out, _ = self.sizes
        y = torch.empty((rows, out), dtype=self.dtype, device=self.values.device)
        bias = self.weight_scale if self.bias is None else self.bias
        residual = y if self.residual is None else self.residual
        flags = {
            "BIAS": self.bias is not None,
            "RESIDUAL": self.residual is not None,
            "ACTIVATION": self.activation or "none",
        }
        return y, (y, self.scale, self.weight_scale, bias, residual), residual.stride(0), flags

    def fused(self, tile: Tile) -> Tensor:
        """All of it in one kernel."""
        rows, out, inner = self.sizes
        y, around, stride, flags = self._around()
        count = triton.cdiv(rows, tile.m) * triton.cdiv(out, tile.n)
        kernels.product[(count,)](
            *(self.values, self.weight, *around, rows, out, inner),
            *(self.values.stride(0), self.weight.stride(0), y.stride(0), stride),
            EVEN=inner % tile.k == 0,
            TILE_M=tile.m,
            TILE_N=tile.n,
            TILE_K=tile.k,
            GROUP=8,
            num_stages=tile.stages,
            num_warps=tile.warps,
            **flags,
        )
        return y

    def library(self) -> Tensor:
        """The sums from ``torch._int_mm``, and what follows in one kernel."""
        rows, out, _ = self.sizes
        total = cuda_torch.sums(self.values, self.weight)
        y, around, stride, flags = self._around()
        m, n = 16, 256
        kernels.finish[(triton.cdiv(rows, m), triton.cdiv(out, n))](
            *(total, *around, rows, out, total.stride(0), y.stride(0), stride),
            TILE_M=m,
            TILE_N=n,
            **flags,
        )
        return y

    def by(self, way: Tile | str) -> Tensor:
        """In one of the :func:`candidates`."""
        return self.fused(way) if isinstance(way, Tile) else self.library()


def candidates(rows: int, out: int, inner: int) -> tuple[Tile | str, ...]:
    """Ways of a product that may be the fastest, the one that is likely to be first.

    The library's needs more than 16 rows and sizes that are multiples of 8, else it would copy the weight; it writes
    and reads sums of four bytes each besides. With 16 rows and fewer there are small tiles only.
    """
    if rows < LEAST_ROWS:
        return SMALL
    tiles = MIDDLE if rows <= 128 else LARGE
    return tiles if out % MULTIPLE or inner % MULTIPLE else (*tiles, LIBRARY)


def choose(
    product: Product, way: str = "auto", time: Callable[[Callable[[], Tensor]], float] | None = None
) -> Tile | str:
    """The way of a product: the fastest of the :func:`candidates`, timed at first use of its sizes on this device.

    Rows count as the power of two at or above them, from 16 to 8,192, so that not every length of a text is timed anew.
    Where nothing can be timed, in the interpreter and while a CUDA graph is captured, it is the first of them.

    Args:
        way: ``triton`` or ``library`` to have only those, ``auto`` for all.
        time: seconds, or any other unit, that a call takes; Triton's own where None.
    """
    rows, out, inner = product.sizes
    if way == LIBRARY:
        return LIBRARY
    key = (product.values.device, bucket(rows), out, inner, way)
    if (known := _chosen.get(key)) is not None:
        return known
    some = [c for c in candidates(rows, out, inner) if way == "auto" or c != LIBRARY]
    if time is None:
        if interpreted():
            return SIMPLE
        if torch.cuda.is_current_stream_capturing():
            return some[0]
        time = _milliseconds
    best, least = None, float("inf")
    for one in some:
        try:
            took = time(partial(product.by, one))
        except (RuntimeError, TritonError):  # a tile that this device has no room for
            continue
        if took < least:
            best, least = one, took
    if best is None:
        raise RuntimeError(f"no way of a product of {rows} rows, {out} outputs and {inner} inputs runs on this device")
    _chosen[key] = best
    return best


def bucket(rows: int) -> int:
    """The power of two at or above a number of rows, from 16 to 8,192."""
    return int(min(8192, max(16, triton.next_power_of_2(rows))))


def _milliseconds(call: Callable[[], Tensor]) -> float:
    """Median of some runs, the second cache emptied before each."""
    return float(triton.testing.do_bench(call, warmup=WARM_MS, rep=TIME_MS, return_mode="median"))
