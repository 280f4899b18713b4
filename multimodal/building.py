"""LLaVA models from names, folders, models and configurations, and the parts of them that images pass through."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Shaped
from torch import Tensor
from transformers import LlavaForConditionalGeneration, PreTrainedModel

from multimodal.config import LlavaRMTConfig
from multimodal.encoders import patch_features
from multimodal.projector import build
from rmt.errors import InputError
from rmt.models.building import decoder_config, load


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


def full_config(
    model: LlavaForConditionalGeneration, *, segment_size: int, num_memory_tokens: int, **config: Any
) -> LlavaRMTConfig:
    """A full configuration for a LLaVA model, its segment size checked first; special tokens are the language model's.

    Args:
        model: whose configuration it takes.
        segment_size, num_memory_tokens: see :class:`rmt.RMTConfig`.
        config: further fields of :class:`multimodal.LlavaRMTConfig`.

    Raises:
        InputError: a segment that the language model has no positions for, or that no image fits into.
    """
    language: Any = model.model.language_model
    shape: dict[str, Any] = {"segment_size": segment_size, "num_memory_tokens": num_memory_tokens}
    special = decoder_config(language, **shape, **{k: v for k, v in config.items() if k == "memory"})
    ends = {name: getattr(special, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    full = LlavaRMTConfig(llava_config=model.config, **(ends | shape | config))
    if full.tokens_per_image > segment_size:
        raise InputError(
            f"segment_size: expected at least {full.tokens_per_image}, the tokens of an image, got {segment_size}; "
            "take larger segments, or pool the image: projector='pooled' or 'resampler'"
        )
    return full


def put_projector(model: LlavaForConditionalGeneration, config: LlavaRMTConfig) -> None:
    """Give a LLaVA model the configured projector; LLaVA-1.5's own stays, with its weights."""
    if config.projector != "mlp":
        own = next(model.model.multi_modal_projector.parameters())
        model.model.multi_modal_projector = build(config).to(dtype=own.dtype, device=own.device)


def vision_features(
    model: LlavaForConditionalGeneration, pixel_values: Shaped[Tensor, "images ..."]
) -> Float[Tensor, "images patches vision"]:
    """Features of patches, of the layers and positions that the model's configuration names.

    Raises:
        InputError: pixels of another form than the vision tower reads.
    """
    refuse_pixels(model.config, pixel_values)
    config = model.config
    return patch_features(
        model.model.vision_tower,
        pixel_values.to(next(model.model.vision_tower.parameters()).dtype),
        config.vision_feature_layer,
        config.vision_feature_select_strategy,
    )


def refuse_pixels(config: Any, pixel_values: Shaped[Tensor, ...], name: str = "pixel_values") -> None:
    """Refuse what the vision tower of a LLaVA configuration cannot read.

    Raises:
        InputError: saying what it reads.
    """
    vision = config.vision_config
    expected = (getattr(vision, "num_channels", 3), vision.image_size, vision.image_size)
    if pixel_values.dim() != 4 or tuple(pixel_values.shape[1:]) != expected or not pixel_values.is_floating_point():
        raise InputError(
            f"{name}: expected floats of shape (images, {', '.join(map(str, expected))}), got "
            f"{pixel_values.dtype} of shape {tuple(pixel_values.shape)}; take the model's own image processor"
        )


def refuse_features(features: Shaped[Tensor, ...], patches: int, width: int) -> None:
    """Refuse what cannot be features of patches.

    Raises:
        InputError: saying what is expected.
    """
    if features.dim() != 3 or tuple(features.shape[1:]) != (patches, width) or not features.is_floating_point():
        raise InputError(
            f"vision_features: expected floats of shape (images, {patches}, {width}), got {features.dtype} of shape "
            f"{tuple(features.shape)}; make them with model.vision_features(pixel_values)"
        )
