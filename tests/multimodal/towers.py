"""Tiny towers with random weights for tests of images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModel,
    CLIPVisionConfig,
    Dinov2Config,
    LlamaConfig,
    LlavaConfig,
    LlavaModel,
    PreTrainedConfig,
    SiglipVisionConfig,
)

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
TOWERS: dict[str, type[PreTrainedConfig]] = {"clip": CLIPVisionConfig, "siglip": SiglipVisionConfig}


def vision_config(kind: str = "clip", **changes: Any) -> PreTrainedConfig:
    """Of a tower that sees images of 12 pixels in patches of 3."""
    if kind == "dinov2":
        return Dinov2Config(**{**SIZES, "image_size": 12, "patch_size": 3, "mlp_ratio": 2, **changes})
    return TOWERS[kind](**{**SIZES, "image_size": 12, "patch_size": 3, **changes})


def tower(kind: str = "clip", **changes: Any) -> Any:
    """With weights large enough that layers differ."""
    model = AutoModel.from_config(vision_config(kind, **changes)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p), alpha=0.1)
    return model


def llava_config(kind: str = "clip", **changes: Any) -> LlavaConfig:
    """Around a tower of the kind; its language model has one layer of width 24."""
    text = LlamaConfig(
        vocab_size=50, hidden_size=24, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, pad_token_id=0
    )
    strategy = "default" if kind != "siglip" else "full"
    return LlavaConfig(
        **{
            "vision_config": vision_config(kind),
            "text_config": text,
            "image_token_index": 49,
            "vision_feature_select_strategy": strategy,
            **changes,
        }
    )


def llava(kind: str = "clip", **changes: Any) -> LlavaModel:
    """transformers' own, without a language head."""
    return LlavaModel(llava_config(kind, **changes)).eval()


def images(count: int = 3, size: int = 12, channels: int = 3) -> Tensor:
    """Random pixels, (images, channels, height, width)."""
    return torch.randn(count, channels, size, size)
