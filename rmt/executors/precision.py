"""A model made ready for reading: number format, attention. The memory itself stays float32."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import nn

from rmt.errors import InputError
from rmt.models.base import RMTPreTrainedModel

Model = TypeVar("Model", bound=RMTPreTrainedModel)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def auto_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it in hardware (CUDA, AVX512-BF16, AMX), else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu":
        # Two private names: where a release has renamed them, float32 is slower and still right.
        checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
        return torch.bfloat16 if any(check is not None and check() for check in checks) else torch.float32
    return torch.float32


def as_dtype(name: str | torch.dtype, device: torch.device) -> torch.dtype:
    """A number format by name; ``auto`` looks at the device.

    Raises:
        InputError: an unknown name.
    """
    if isinstance(name, torch.dtype):
        return name
    if name == "auto":
        return auto_dtype(device)
    if name not in DTYPES:
        raise InputError(f"dtype: expected auto, {', '.join(DTYPES)}, got {name!r}; choose one of these")
    return DTYPES[name]


def for_reading(model: Model, dtype: str | torch.dtype = "auto") -> Model:
    """A copy of ``model`` that reads fast; the given one is left as it is.

    The copy is in evaluation mode, its backbone and head in ``dtype``, its memory cell in float32: gates
    decide what is kept for good, and they cost next to nothing. In bfloat16 on a CPU attention is written out
    (``eager``): for segments of 128 tokens that is a few percent faster there than the fused kernel, which
    is the faster one in float32.

    Args:
        model: on the device it is to read on.
        dtype: ``auto`` for :func:`auto_dtype`, or a name or a dtype.
    """
    wanted = as_dtype(dtype, model.device)
    twin = copy.deepcopy(model).eval().requires_grad_(False)
    exact = {id(p) for p in twin.cell.parameters()} | {id(p) for p in _scales(twin)}
    for parameter in twin.parameters():
        # Not buffers: rotary frequencies in bfloat16 would turn far positions by tenths of a radian. Nor bytes, which
        # quantised layers read themselves.
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(torch.float32 if id(parameter) in exact else wanted)
    twin.cell.float()
    if model.device.type == "cpu" and wanted == torch.bfloat16:
        _set_attention(twin, "eager")
    return twin


def _scales(model: nn.Module) -> Iterator[nn.Parameter]:
    """Scales of 8-bit weights and of what they multiply: in bfloat16 they would be wrong by as much as the bytes."""
    for module in model.modules():
        if getattr(getattr(module, "weight", None), "dtype", None) == torch.int8:
            yield from (p for name, p in module.named_parameters(recurse=False) if name.endswith("_scale"))


def _set_attention(model: RMTPreTrainedModel, name: str) -> None:
    """Ask for an attention; families that have only one keep it, without the warning."""
    log = logging.getLogger("transformers.modeling_utils")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        model.set_attn_implementation(name)
    finally:
        log.setLevel(level)
