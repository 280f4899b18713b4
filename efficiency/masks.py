"""Dropout masks that are counted, not drawn: any one can be made again from its numbers, on any device.

Knows nothing of layers. The same numbers give the same mask whatever the order, the batch and the device, so that
nothing has to be stored for backward or for recomputation.
"""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Bool
from torch import Tensor

LOW = 0xFFFFFFFF  # 32 bits


def kept(
    seed: int, step: int, layer: int, *, samples: int, features: int, p: float, device: torch.device | str = "cpu"
) -> Bool[Tensor, "samples features"]:
    """True where a feature of a sample is kept, each with probability 1 - p.

    Each is a hash of (seed, step, layer, sample, feature) against a threshold; the hash is two rounds of ``lowbias32``
    (C. Wellons, "Prospecting for hash functions", 2018), on 32 bits held in int64.

    Args:
        seed, step, layer: any integers.
        samples, features: how many; a sample's mask does not depend on how many there are.
        p: probability to be dropped, 0 to 1.
        device: of the result.
    """
    word = hashlib.blake2b(f"{seed} {step} {layer}".encode(), digest_size=8).digest()
    first, second = int.from_bytes(word[:4], "little"), int.from_bytes(word[4:], "little")
    columns = _mixed(torch.arange(features, device=device) + first)
    rows = torch.arange(samples, device=device) * 0x9E3779B1 + second
    return _mixed(columns + rows[:, None]) >= round(p * 2**32)


def _mixed(x: Tensor) -> Tensor:
    """A permutation of 32-bit integers that spreads each bit over all."""
    x = x & LOW
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & LOW
    x = ((x ^ (x >> 15)) * 0x846CA68B) & LOW
    return x ^ (x >> 16)
