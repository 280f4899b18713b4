"""PEFT's LoRA over 4-bit weights as one operation. Importing this module needs bitsandbytes."""

from __future__ import annotations

from typing import Any

from peft.tuners.lora.bnb import Linear4bit

from efficiency.fused import Fused
from efficiency.qlora import NF4Linear


class FusedLinear4bit(Fused, Linear4bit):  # type: ignore[misc]
    """PEFT's ``Linear4bit`` over an ``NF4Linear`` as :func:`efficiency.lora.fuse` makes it run, never built anew."""


def fusable(layer: Any) -> bool:
    """Whether a LoRA layer is PEFT's over a 4-bit layer of ours; bitsandbytes' own layers dequantise at every call."""
    return type(layer) in (Linear4bit, FusedLinear4bit) and isinstance(layer.get_base_layer(), NF4Linear)
