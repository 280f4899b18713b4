"""LLaVA models from names, folders, models and configurations, and the parts of them that images pass through."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformers import LlavaForConditionalGeneration, PreTrainedModel

from multimodal.config import LlavaRMTConfig
from multimodal.encoders import patch_features
from multimodal.projector import build
from rmt.errors import InputError
from rmt.models.building import load


def llava_model(backbone: str | PreTrainedModel, kwargs: dict[str, Any] | None) -> LlavaForConditionalGeneration:
    """The LLaVA model behind a name or a folder, or the one given.

    Raises:
        InputError: a model of another kind.
    """
    if isinstance(backbone, str):
        from transformers import AutoConfig

        kind = load(AutoConfig.from_pretrained, backbone).model_type
        if kind != "llava":
            raise InputError(f"{backbone}: expected a LLaVA model, got model_type {kind!r}; name another")
        model: LlavaForConditionalGeneration = load(
            LlavaForConditionalGeneration.from_pretrained, backbone, **(kwargs or {})
        )
        return model
    if not isinstance(backbone, LlavaForConditionalGeneration):
        raise InputError(
            f"expected a LlavaForConditionalGeneration, got {type(backbone).__name__}; load it with "
            "AutoModelForImageTextToText"
        )
    return backbone


def new_llava(config: LlavaRMTConfig) -> LlavaForConditionalGeneration:
    """A LLaVA model of the configured shape, with fresh weights."""
    if config.llava_config is None:
        raise InputError("LlavaRMTConfig: expected llava_config, got None; build the model with from_backbone(...)")
    model = LlavaForConditionalGeneration._from_config(config.llava_config)
    put_projector(model, config)
    return model


def put_projector(model: LlavaForConditionalGeneration, config: LlavaRMTConfig) -> None:
    """Give a LLaVA model the configured projector; LLaVA-1.5's own stays, with its weights."""
    if config.projector != "mlp":
        own = next(model.model.multi_modal_projector.parameters())
        model.model.multi_modal_projector = build(config).to(dtype=own.dtype, device=own.device)


def vision_features(
    model: LlavaForConditionalGeneration, pixel_values: Float[Tensor, "images channels height width"]
) -> Float[Tensor, "images patches vision"]:
    """Features of patches, of the layers and positions that the model's configuration names."""
    config = model.config
    return patch_features(
        model.model.vision_tower,
        pixel_values.to(next(model.model.vision_tower.parameters()).dtype),
        config.vision_feature_layer,
        config.vision_feature_select_strategy,
    )
