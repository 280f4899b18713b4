"""Weights in 4 bits: the NF4 data type with double quantisation, stored and read back by bitsandbytes.

NF4 (QLoRA, arXiv 2305.14314, section 3, eq. 4): the 16 quantiles of a normal distribution, scaled to [-1, 1]. A block
of 64 weights is divided by its absolute maximum and each weight stored as the nearest of the 16. Double quantisation
(eq. 6) stores the maxima in turn as 8 bits each, 256 of them a block with one float32: 4 + 8/64 + 32/(64*256) = 4.127
bits a weight, and two tables a tensor.

A stored weight is bitsandbytes' own ``Params4bit``: packed bytes with a ``quant_state`` beside them, so 4-bit
checkpoints of the hub are read and written as they are. Knows nothing of modules.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from efficiency.errors import InputError

BLOCK = 64  # weights that share a maximum
FORMATS = (torch.float32, torch.bfloat16, torch.float16)


def bitsandbytes() -> Any:
    """The module of that name, imported when first needed.

    Raises:
        InputError: it is not installed.
    """
    try:
        import bitsandbytes
    except ImportError as error:
        raise InputError(
            "4-bit weights: expected the package bitsandbytes, got none; install it: pip install 'bitsandbytes>=0.50'"
        ) from error
    return bitsandbytes


def quantize(weight: Float[Tensor, "out in"], *, double: bool = True, block: int = BLOCK) -> Any:
    """A weight in NF4.

    Args:
        weight: float32, bfloat16 or float16; it says too in which format others read the weight back.
        double: whether the maxima of blocks are quantised too.
        block: weights that share a maximum, a power of two from 32 to 4096.

    Returns:
        a frozen ``Params4bit`` on the same device: uint8 of shape (out * in / 2, 1), two weights a byte.

    Raises:
        InputError: bitsandbytes is missing, a format or block size that it does not know, or a weight without numbers.
    """
    bnb = bitsandbytes()
    if weight.dtype not in FORMATS:
        raise InputError(f"weight: expected float32, bfloat16 or float16, got {weight.dtype}; convert it first")
    if weight.device.type == "meta":
        raise InputError("weight: expected numbers, got a tensor on the meta device; load the weights first")
    if block not in (allowed := [2**n for n in range(5, 13)]):
        raise InputError(f"block: expected one of {allowed}, got {block}")
    packed, state = bnb.functional.quantize_4bit(
        weight.detach().contiguous(), blocksize=block, compress_statistics=double, quant_type="nf4"
    )
    return stored(packed, state)


def stored(packed: Tensor, state: Any) -> Any:
    """Packed bytes and their ``QuantState`` as a frozen ``Params4bit``."""
    return bitsandbytes().nn.Params4bit(
        packed,
        requires_grad=False,
        quant_state=state,
        blocksize=state.blocksize,
        compress_statistics=state.nested,
        quant_type=state.quant_type,
        quant_storage=packed.dtype,
        bnb_quantized=True,
    )


def state_of(weight: Any) -> Any:
    """The ``QuantState`` that belongs to a stored weight.

    Raises:
        InputError: there is none, as when another tensor was put in the weight's place.
    """
    state = getattr(weight, "quant_state", None)
    if state is None:
        raise InputError(
            f"weight: expected 4-bit storage with its quant_state, got a bare {type(weight).__name__} of "
            f"{tuple(weight.shape)}; quantised layers cannot be stacked or called with other parameters"
        )
    if getattr(state, "packing_format_for_cpu", False):
        raise InputError(
            "weight: expected the storage format of checkpoints, got one repacked by an evaluation pass of "
            "bitsandbytes' Linear4bit on CPU, through which no gradient passes; quantise or load the model again"
        )
    return state


def dequantize(weight: Any, dtype: torch.dtype | None = None) -> Float[Tensor, "out in"]:
    """The numbers that a stored weight stands for, as bitsandbytes reads them.

    Args:
        weight: from :func:`quantize` or a checkpoint.
        dtype: of the result; the format that the weight was quantised from where None.

    A weight quantised from 16 bits is read in those 16 bits and then converted, as bitsandbytes does, so that float32
    computes with the same numbers as everyone else.
    """
    state = state_of(weight)
    dtype = dtype or state.dtype
    if state.dtype == torch.float32 and dtype in FORMATS:
        # Rounds once either way, and spares a pass over float32.
        state = copy.copy(state)
        state.dtype = dtype
    with torch.no_grad():
        read: Tensor = bitsandbytes().functional.dequantize_4bit(weight.data, state)
        return read.to(dtype)


def to_tensors(weight: Any) -> dict[str, Tensor]:
    """A stored weight as bitsandbytes writes it to files: under ``weight``, ``weight.absmax`` and so on."""
    state = state_of(weight).as_dict(packed=True)
    return {"weight": weight.data} | {f"weight.{name}": tensor for name, tensor in state.items()}


def from_tensors(tensors: dict[str, Tensor], device: torch.device | str) -> Any:
    """The stored weight behind what :func:`to_tensors` gives, moved to ``device``.

    Raises:
        InputError: a part is missing.
    """
    parts = {name.removeprefix("weight."): t for name, t in tensors.items() if name != "weight"}
    kinds = [name for name in parts if name.startswith("quant_state.bitsandbytes__")]
    nested = {"nested_absmax", "nested_quant_map"}
    needed = {"absmax", "quant_map"} | (nested if nested & parts.keys() else set())
    if "weight" not in tensors or len(kinds) != 1 or (missing := needed - parts.keys()):
        lacking = sorted(missing) if "weight" in tensors and len(kinds) == 1 else "weight or weight.quant_state"
        raise InputError(f"4-bit weight: expected all its tensors, got {sorted(tensors)}, without {lacking}")
    state = bitsandbytes().functional.QuantState.from_dict(dict(parts), device=torch.device(device))
    return stored(tensors["weight"].to(device), state)


def storage_bytes(weight: Any) -> int:
    """Bytes of everything that is written to a file for a stored weight, tables included."""
    return sum(t.numel() * t.element_size() for t in to_tensors(weight).values())


def bits_per_weight(weight: Any) -> float:
    """Bits stored for each weight, tables included: 4.135 at 1024 x 1024 with double quantisation, 4.5 without."""
    return 8 * storage_bytes(weight) / state_of(weight).shape.numel()
