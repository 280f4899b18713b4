"""A layer of BERT as one call that runs without Python, where torch can script it.

Side by side, threads of one process take turns at Python's lock, and one that waits for it is woken late: with some
thirty operations a layer two threads cost each other an eighth of their time. TorchScript's interpreter holds no lock.
The functions here are plain Python too, and run as such, operation for operation the same, where TorchScript is gone
(it is deprecated) or lacks an operation.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def product(x: Tensor, weight: Tensor, bias: Tensor, plus: Tensor | None, packed: bool) -> Tensor:
    """x W^T + b, and ``plus`` of the same shape added to it.

    Args:
        x: (rows, inputs).
        packed: W is laid out for oneDNN.
    """
    if packed:
        if plus is None:
            return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return torch.ops.mkldnn._linear_pointwise(x, plus, weight, bias, "add")
    out = F.linear(x, weight, bias)
    return out if plus is None else out.add_(plus)


def padded(x: Tensor) -> Tensor:
    """Positions of all sequences (batch, width, hidden) one after another, and zeros up to a multiple of 16.

    A product with another number of rows may take twice as long.
    """
    count = x.shape[0] * x.shape[1]
    flat = x.new_zeros([-(-count // 16) * 16, x.shape[2]])
    flat[:count].view(x.shape).copy_(x)
    return flat


def attend(q: Tensor, k: Tensor, v: Tensor, whole: bool) -> tuple[Tensor, Tensor]:
    """Attention with weights 2^(q . k) over their sum, and that sum where no score is above what is taken from it.

    A softmax first takes from each row its greatest score, so that nothing overflows; to find it takes longer than the
    exponential. Here a row loses its score with its own position instead, as one more channel of the product: sums are
    then 1 at least, and overflow only where another score is above that one by 120 (in units of log 2). The caller
    looks at the sums.

    Args:
        q: (heads, rows, size), of the first positions.
        k, v: (heads, width, size).
        whole: take out the greatest score after all.

    Returns:
        (heads, rows, size), and (heads, rows, 1).
    """
    own = torch.linalg.vecdot(q, k[:, : q.shape[1]]).unsqueeze(-1)
    ones = k.new_ones([k.shape[0], k.shape[1], 1])
    scores = torch.bmm(torch.cat([q, -own], -1), torch.cat([k, ones], -1).transpose(1, 2))
    if whole:
        return torch.bmm(torch.softmax(scores * math.log(2), -1), v), torch.ones_like(own)
    weights = scores.exp2_()
    total = weights.sum(-1, keepdim=True)
    return torch.bmm(weights, v).div_(total), total


def mix(qkv: Tensor, mixed: Tensor, heads: int, batch: int, width: int, rows: int, whole: bool) -> Tensor:
    """Attention of the first ``rows`` positions, put into ``mixed`` (batch * rows, padded, hidden); sums of weights.

    Args:
        qkv: query, key and value side by side, (batch * width, padded, 3 * hidden).
    """
    qkv = qkv[: batch * width].view(batch, width, 3, heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = qkv[0][:, :, :rows].flatten(0, 1), qkv[1].flatten(0, 1), qkv[2].flatten(0, 1)
    seen, total = attend(q, k, v, whole)
    mixed[: batch * rows].view(batch, rows, heads, -1).copy_(seen.view(batch, heads, rows, -1).transpose(1, 2))
    return total


def layer(
    x: Tensor,
    weights: list[Tensor],
    packed: list[bool],
    epsilons: list[float],
    activation: str,
    heads: int,
    batch: int,
    width: int,
    rows: int,
    whole: bool,
) -> tuple[Tensor, Tensor]:
    """Hidden states after a layer, and the largest denominator of its softmax.

    Args:
        x: (batch * width, padded, hidden) from :func:`padded`.
        weights: weight and bias of query, key and value side by side, output, norm, up, down, norm. Scores come out in
            units of log 2, as :func:`attend` takes them.
        packed: of the four products, whether they are laid out for oneDNN.
        epsilons: of the two norms.
        activation: ``gelu`` or ``relu``.
        batch, width: sequences, and positions of each.
        rows: positions to give back of each, the first ones.
        whole: see :func:`attend`.
    """
    hidden = x.shape[1]
    qkv = product(x, weights[0], weights[1], None, packed[0])
    first = x if rows == width else padded(x[: batch * width].view(batch, width, hidden)[:, :rows])
    mixed = torch.zeros_like(first)
    total = mix(qkv, mixed, heads, batch, width, rows, whole)
    mixed = product(mixed, weights[2], weights[3], first, packed[1])
    x = F.layer_norm(mixed, [hidden], weights[4], weights[5], epsilons[0])
    up = product(x, weights[6], weights[7], None, packed[2])
    up = F.gelu(up) if activation == "gelu" else F.relu(up)
    x = F.layer_norm(product(up, weights[8], weights[9], x, packed[3]), [hidden], weights[10], weights[11], epsilons[1])
    return x, total.amax()


def eighth(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows as bytes, round(x / s) + 128 with s = max|x| / 127 of each row, and s of shape (rows, 1); x in float32.

    By way of int8: from float32 to uint8 a CPU converts numbers one by one, ten times slower.
    """
    scale = x.abs().amax(1, True).div_(127).clamp_(min=1.2e-38)
    return (x / scale).round_().to(torch.int8).to(torch.uint8).bitwise_xor_(128), scale


def product_of_bytes(x: Tensor, weight: Tensor, scale: Tensor, zeros: Tensor, bias: Tensor) -> Tensor:
    """x W^T + b with rows of x as bytes, in float32; oneDNN takes one scale for all rows, so theirs come after.

    Args:
        x: (rows, inputs), float32.
        weight: int8, laid out for oneDNN; its scales (outputs) and zero points beside it.
    """
    rows, own = eighth(x)
    out = torch.ops.onednn.qlinear_pointwise(
        rows, 1.0, 128, weight, scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return torch.addcmul(bias, out, own)


def layer_of_bytes(
    x: Tensor,
    weights: list[Tensor],
    low: bool,
    epsilons: list[float],
    activation: str,
    heads: int,
    batch: int,
    width: int,
    rows: int,
    whole: bool,
) -> tuple[Tensor, Tensor]:
    """As :func:`layer`, with 8-bit products.

    Between products all is float32: at the size of a segment that costs a CPU no more than bfloat16, and a cast less.

    Args:
        x: as there, in float32.
        weights: of each product weight, scales, zero points and bias; two norms behind the second and the last.
        low: whether attention is in bfloat16.
    """
    hidden = x.shape[1]
    qkv = product_of_bytes(x, weights[0], weights[1], weights[2], weights[3])
    if low:
        qkv = qkv.to(torch.bfloat16)
    first = x if rows == width else padded(x[: batch * width].view(batch, width, hidden)[:, :rows])
    mixed = torch.zeros_like(first)
    total = mix(qkv, mixed, heads, batch, width, rows, whole)
    mixed = product_of_bytes(mixed, weights[4], weights[5], weights[6], weights[7]).add_(first)
    x = F.layer_norm(mixed, [hidden], weights[8], weights[9], epsilons[0])
    up = product_of_bytes(x, weights[10], weights[11], weights[12], weights[13])
    up = F.gelu(up) if activation == "gelu" else F.relu(up)
    down = product_of_bytes(up, weights[14], weights[15], weights[16], weights[17]).add_(x)
    return F.layer_norm(down, [hidden], weights[18], weights[19], epsilons[1]), total.amax()


@cache
def fast_layer() -> Callable[..., Any]:
    """:func:`layer`, as TorchScript where that is to be had. Not for several threads at a time."""
    return _scripted(layer)


@cache
def fast_layer_of_bytes() -> Callable[..., Any]:
    """:func:`layer_of_bytes`, likewise."""
    return _scripted(layer_of_bytes)


def _scripted(function: Callable[..., Any]) -> Callable[..., Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return torch.jit.script(function)
        except Exception:  # TorchScript, an operation of oneDNN's, or the source of this file is not there
            return function
