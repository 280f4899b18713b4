"""Backbones from names, folders, models and configurations."""

from __future__ import annotations

from typing import Any

from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel

from rmt.backbone import check_segment_size, family_of, special_tokens
from rmt.config import RMTConfig
from rmt.errors import InputError


def new_backbone(config: RMTConfig) -> PreTrainedModel:
    """An encoder backbone of the configured shape, with fresh weights."""
    require_backbone(config)
    extra = {"add_pooling_layer": False} if family_of(config.backbone_config, "encoder").no_pooler else {}
    return AutoModel.from_config(config.backbone_config, **extra)


def new_decoder(config: RMTConfig) -> PreTrainedModel:
    """A causal language model of the configured shape, with fresh weights."""
    require_backbone(config)
    family_of(config.backbone_config, "decoder")
    return AutoModelForCausalLM.from_config(config.backbone_config)


def require_backbone(config: RMTConfig) -> None:
    """Refuse a configuration that names no backbone."""
    if config.backbone_config is None:
        raise InputError("RMTConfig: expected backbone_config, got None; build the model with from_backbone(...)")


def encoder_backbone(backbone: str | PreTrainedModel, kwargs: dict[str, Any] | None) -> tuple[str, PreTrainedModel]:
    """The base model behind a name, a folder or a model, without pooler, and where it came from."""
    if isinstance(backbone, PreTrainedModel):
        model: Any = backbone.base_model
        family_of(model.config, "encoder")
        if getattr(model, "pooler", None) is not None:
            model.pooler = None
        return str(model.config._name_or_path or ""), model
    from transformers import AutoConfig

    kwargs = dict(kwargs or {})
    family = family_of(load(AutoConfig.from_pretrained, backbone), "encoder")
    extra = {"add_pooling_layer": False} if family.no_pooler else {}
    return backbone, load(AutoModel.from_pretrained, backbone, **extra, **kwargs)


def decoder_backbone(backbone: str | PreTrainedModel, kwargs: dict[str, Any] | None) -> PreTrainedModel:
    """The causal language model behind a name, a folder or a model."""
    if isinstance(backbone, PreTrainedModel):
        family_of(backbone.config, "decoder")
        if backbone.get_output_embeddings() is None:
            raise InputError(
                f"expected a causal language model with a head, got {type(backbone).__name__}; load it with "
                "AutoModelForCausalLM"
            )
        return backbone
    from transformers import AutoConfig

    family_of(load(AutoConfig.from_pretrained, backbone), "decoder")
    return load(AutoModelForCausalLM.from_pretrained, backbone, **(kwargs or {}))


def load(function: Any, name: str, **kwargs: Any) -> Any:
    """Call a ``from_pretrained``; a name that leads nowhere, or to half a file, becomes one clear line."""
    from safetensors import SafetensorError

    try:
        return function(name, **kwargs)
    except SafetensorError as error:
        raise InputError(f"{name}: expected whole weights, got a file cut short; copy it again") from error
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{name}: expected a model on the hub or in a folder, got: {reason}") from error


def encoder_config(model: PreTrainedModel, name: str, **fields: Any) -> RMTConfig:
    """A full configuration for an encoder, its opening and closing tokens found, its segment size checked first."""
    check_segment_size(
        model.config, fields["segment_size"], fields["num_memory_tokens"], fields.get("memory", "tokens")
    )
    given = (fields.pop("cls_token_id", None), fields.pop("sep_token_id", None))
    opening, closing = special_tokens(model.config, given, name)
    return RMTConfig(
        backbone_config=model.config,
        cls_token_id=opening,
        sep_token_id=closing,
        pad_token_id=model.config.pad_token_id,
        **fields,
    )


def word_spread(model: PreTrainedModel) -> float:
    """Standard deviation of a backbone's word embeddings, which new memory tokens are given too."""
    embeddings: Any = model.get_input_embeddings()
    return float(embeddings.weight.detach().float().std())


def decoder_config(model: PreTrainedModel, **fields: Any) -> RMTConfig:
    """A full configuration for a decoder, its segment size checked first; special tokens are the backbone's."""
    check_segment_size(
        model.config, fields["segment_size"], fields["num_memory_tokens"], fields.get("memory", "tokens")
    )
    special: dict[str, Any] = {
        k: getattr(model.config, k, None) for k in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    return RMTConfig(backbone_config=model.config, **(special | fields))
