"""Triton kernels of 8-bit products: rows to integers, alone or behind a norm or a gate; the product; what follows it.

Imported only by ``triton_launch.py``, where Triton is there. Knows nothing of modules, devices or choices. Triton
compiles these functions from their source: their annotations are its own, so shapes stand in the docstrings.

A row that holds a number that is not finite gets the scale nan, and zeros for integers: all that comes of it is nan.
"""

from __future__ import annotations

import triton
import triton.language as tl

TINY = tl.constexpr(1.1754943508222875e-38)  # the least normal number: the scale of a row of zeros, which stay zeros
INFINITY = tl.constexpr(float("inf"))
NAN = tl.constexpr(float("nan"))


@triton.jit
def activated(v, ACTIVATION: tl.constexpr):
    """An activation of float32 numbers; "gelu" by the error function, "gelu_tanh" by its approximation."""
    if ACTIVATION == "relu":
        v = tl.where(v < 0.0, 0.0, v)  # keeps nan
    elif ACTIVATION == "silu":
        v = v * tl.sigmoid(v)
    elif ACTIVATION == "gelu":
        v = 0.5 * v * (1.0 + tl.erf(v * 0.7071067811865476))
    elif ACTIVATION == "gelu_tanh":
        # (1 + tanh(u)) / 2 = sigmoid(2 u)
        v = v * tl.sigmoid(1.5957691216057308 * (v + 0.044715 * v * v * v))
    return v


@triton.jit
def store_row(v, q, scales, given, row, q_stride, at, inside, GIVEN: tl.constexpr):
    """A row of float32 numbers as integers, q = round(v / s) half to even, with s = max|v| / 127, or a given one.

    Numbers past the range of a given scale are clipped to -127 and 127.
    """
    magnitude = tl.where(inside, tl.abs(v), 0.0)
    # Greater ones of a pair with nan differ between machines, so nan is looked for by itself.
    bad = tl.max(tl.where(magnitude < INFINITY, 0, 1), axis=0)
    if GIVEN:
        scale = tl.load(given)
    else:
        scale = tl.div_rn(tl.max(tl.where(magnitude < INFINITY, magnitude, 0.0), axis=0), 127.0)
        scale = tl.maximum(scale, TINY)
    scale = tl.where(bad > 0, NAN, scale)
    scaled = tl.div_rn(v, scale)
    scaled = tl.where(scaled == scaled, scaled, 0.0)
    scaled = tl.minimum(tl.maximum(scaled, -127.0), 127.0)
    # 1.5 * 2^23: what is added to it is rounded half to even to integers. The interpreter knows no rint.
    scaled = (scaled + 12582912.0) - 12582912.0
    tl.store(q + row * q_stride + at, scaled.to(tl.int8), mask=inside)
    tl.store(scales + row, scale)


@triton.jit
def quantise_rows(x, q, scales, given, features, x_stride, q_stride, GIVEN: tl.constexpr, BLOCK: tl.constexpr):
    """Rows of x (rows, features) to q int8 of that shape and scales (rows,) in float32, a program each.

    Args:
        given: where GIVEN, one scale in float32 for all rows.
        BLOCK: at least ``features``.
    """
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < features
    v = tl.load(x + row * x_stride + at, mask=inside, other=0.0).to(tl.float32)
    store_row(v, q, scales, given, row, q_stride, at, inside, GIVEN)


@triton.jit
def norm_quantise(
    x, weight, bias, q, scales, given, features, x_stride, q_stride, eps,
    LAYER: tl.constexpr, PLUS_ONE: tl.constexpr, BIAS: tl.constexpr, GIVEN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """:func:`quantise_rows` of x behind its norm, which is never written.

    Args:
        weight, bias: of the norm, (features,).
        LAYER: LayerNorm, (x - mean) / sqrt(var + eps); else RMSNorm, x / sqrt(mean(x^2) + eps).
        PLUS_ONE: times 1 + weight.
    """
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < features
    v = tl.load(x + row * x_stride + at, mask=inside, other=0.0).to(tl.float32)
    if LAYER:
        v = tl.where(inside, v - tl.sum(v, axis=0) / features, 0.0)
    v = v / tl.sqrt(tl.sum(v * v, axis=0) / features + eps)
    w = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    if PLUS_ONE:
        w = w + 1.0
    v = v * w
    if BIAS:
        v = v + tl.load(bias + at, mask=inside, other=0.0).to(tl.float32)
    store_row(v, q, scales, given, row, q_stride, at, inside, GIVEN)


@triton.jit
def gated_quantise(
    gate, up, q, scales, given, features, gate_stride, up_stride, q_stride,
    ACTIVATION: tl.constexpr, GIVEN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """:func:`quantise_rows` of activation(gate) * up, which is never written."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < features
    g = tl.load(gate + row * gate_stride + at, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + row * up_stride + at, mask=inside, other=0.0).to(tl.float32)
    store_row(activated(g, ACTIVATION) * u, q, scales, given, row, q_stride, at, inside, GIVEN)


@triton.jit
def finished(
    total, y, scales, weight_scale, bias, residual, m, n, y_stride, residual_stride, inside,
    BIAS: tl.constexpr, RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """Store activation(total * s_row * s_column + bias) + residual for a tile of integer sums at rows m, columns n."""
    rows, columns = m[:, None].to(tl.int64), n[None, :]
    v = total.to(tl.float32) * tl.load(scales + rows, mask=inside, other=0.0)
    v = v * tl.load(weight_scale + columns, mask=inside, other=0.0)
    if BIAS:
        v = v + tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    v = activated(v, ACTIVATION)
    if RESIDUAL:
        v = v + tl.load(residual + rows * residual_stride + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + rows * y_stride + columns, v.to(y.dtype.element_ty), mask=inside)


@triton.jit
def product(
    q, weight, y, scales, weight_scale, bias, residual, M, N, K, q_stride, weight_stride, y_stride, residual_stride,
    BIAS: tl.constexpr, RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr, EVEN: tl.constexpr,
    TILE_M: tl.constexpr, TILE_N: tl.constexpr, TILE_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """y (M, N) of q (M, K) int8 and weight (N, K) int8, sums in int32, finished in the same kernel.

    Args:
        EVEN: K is a multiple of TILE_K.
        GROUP: tiles of rows that run through the columns together, so that both stay in the second cache.
    """
    program = tl.program_id(0)
    down, across = tl.cdiv(M, TILE_M), tl.cdiv(N, TILE_N)
    first = program // (GROUP * across) * GROUP
    height = min(down - first, GROUP)
    inner = program % (GROUP * across)
    m = (first + inner % height) * TILE_M + tl.arange(0, TILE_M)
    n = (inner // height) * TILE_N + tl.arange(0, TILE_N)
    k = tl.arange(0, TILE_K)
    # Rows and columns past the end load others instead, and are not stored: no mask in the loop.
    left = q + (m % M)[:, None].to(tl.int64) * q_stride + k[None, :]
    right = weight + (n % N)[None, :].to(tl.int64) * weight_stride + k[:, None]
    total = tl.zeros((TILE_M, TILE_N), dtype=tl.int32)
    for start in range(0, K, TILE_K):
        if EVEN:
            a, b = tl.load(left), tl.load(right)
        else:
            a = tl.load(left, mask=k[None, :] < K - start, other=0)
            b = tl.load(right, mask=k[:, None] < K - start, other=0)
        total = tl.dot(a, b, total, out_dtype=tl.int32)
        left += TILE_K
        right += TILE_K
    inside = (m < M)[:, None] & (n < N)[None, :]
    finished(
        total, y, scales, weight_scale, bias, residual, m, n, y_stride, residual_stride, inside,
        BIAS, RESIDUAL, ACTIVATION,
    )  # fmt: skip


@triton.jit
def finish(
    total, y, scales, weight_scale, bias, residual, M, N, total_stride, y_stride, residual_stride,
    BIAS: tl.constexpr, RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr, TILE_M: tl.constexpr, TILE_N: tl.constexpr,
):  # fmt: skip
    """What :func:`product` does behind its sums, for sums (M, N) in int32 that another product made."""
    m = tl.program_id(0) * TILE_M + tl.arange(0, TILE_M)
    n = tl.program_id(1) * TILE_N + tl.arange(0, TILE_N)
    inside = (m < M)[:, None] & (n < N)[None, :]
    sums = tl.load(total + m[:, None].to(tl.int64) * total_stride + n[None, :], mask=inside, other=0)
    finished(
        sums, y, scales, weight_scale, bias, residual, m, n, y_stride, residual_stride, inside,
        BIAS, RESIDUAL, ACTIVATION,
    )  # fmt: skip
