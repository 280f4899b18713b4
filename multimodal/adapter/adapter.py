"""LLaMA-Adapter on a model: put there, switched, counted.

Knows of bare Hugging Face models, of PEFT models and of recurrent models over them; nothing of images or files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from multimodal.adapter.attention import ATTENTIONS, Projections, Prompts, adapt, is_adapted, restore
from multimodal.adapter.config import AdapterConfig
from multimodal.adapter.v2 import ScaledLinear, linears_of, norms_of, scale_linear, unscale_linear
from multimodal.adapter.vision import PictureProjection
from rmt.backbone import base_model, family_of
from rmt.errors import InputError
from rmt.layers import layers_of
from rmt.models.base import RMTPreTrainedModel

# What is trained on which data: disjoint (LLaMA-Adapter V2, section 4.2).
GROUPS = ("images", "text")
KINDS = (*GROUPS, "all", "none")


def attach(model: nn.Module, config: AdapterConfig, *, freeze: bool = True) -> None:
    """Put an adapter on a model, in place; it changes no output until it is trained.

    Save it by :func:`multimodal.adapter.save_adapter`: in a folder of the model's own ``save_pretrained`` it lies too,
    but ``from_pretrained`` makes a model without it (:class:`multimodal.adapter.LlamaAdapterRMT` excepted).

    Args:
        model: of a family in :data:`multimodal.adapter.attention.ATTENTIONS`: a Hugging Face model, the same wrapped by
            PEFT, or a recurrent model over one.
        config: what to put there.
        freeze: let nothing of the backbone train but the adapter. A memory cell is no part of it and stays as it is.
            False where another adapter (LoRA) is there already and is to train too.

    Raises:
        InputError: a family without attention of a known form, too many layers, a second adapter, or with ``v2``
            layers that are not plain linear ones.
    """
    core, where = core_of(model), projections_of(model)
    layers = layers_of(core, family_of(core.config))
    config.check(len(layers))
    if any(is_adapted(layer.get_submodule(where.path)) for layer in layers):
        raise InputError("adapter: expected a model without one, got one that has it; load the base model again")
    scaled = [linear for layer in layers for linear in linears_of(layer).values()] if config.variant == "v2" else []
    if freeze:
        backbone: Any = model.backbone if isinstance(model, RMTPreTrainedModel) else model
        backbone.requires_grad_(False)
    for linear in scaled:
        scale_linear(linear)
    for number, layer in enumerate(layers):
        count = config.adapter_len if number >= len(layers) - config.adapter_layers else 0
        visual = number < config.visual_layers
        if not count and not visual:
            continue
        attention: Any = layer.get_submodule(where.path)
        prompts = Prompts(
            where,
            core.config.hidden_size,
            core.config.num_attention_heads,
            count=count,
            visual=visual,
            adds=config.variant == "v1",
            std=config.prompt_std,
        )
        adapt(attention, prompts.to(_device(attention)))
    core.adapter_config = config
    trainable(model, "all")


def detach(model: nn.Module) -> None:
    """Take an adapter off a model, in place, which then computes what it did before; save the adapter first.

    Norms, which are the model's own, stay as ``"v2"`` has trained them, and what was frozen stays frozen.

    Raises:
        InputError: the model has none.
    """
    adapter_config(model)
    core, where = core_of(model), projections_of(model)
    for layer in layers_of(core, family_of(core.config)):
        if is_adapted(attention := layer.get_submodule(where.path)):
            restore(attention)
        for module in layer.modules():
            if isinstance(module, ScaledLinear):
                unscale_linear(module)
    del core.adapter_config


@contextmanager
def attached(model: nn.Module, config: AdapterConfig, *, freeze: bool) -> Iterator[None]:
    """Put an adapter on a model, and take it off again where what is done inside raises; arguments of :func:`attach`.

    Raises:
        InputError: see :func:`attach`.
    """
    trained = {name: p.requires_grad for name, p in model.named_parameters()}
    attach(model, config, freeze=freeze)
    try:
        yield
    except InputError:
        detach(model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trained[name])
        raise


def core_of(model: Any) -> Any:
    """The base model that has the layers, whatever it is wrapped in."""
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    return model.core if isinstance(model, RMTPreTrainedModel) else base_model(model)


def projections_of(model: nn.Module) -> Projections:
    """Where a model's layers keep their attention.

    Raises:
        InputError: a family whose attention is not known here.
    """
    kind = getattr(core_of(model).config, "model_type", "")
    if kind not in ATTENTIONS:
        raise InputError(
            f"adapter: expected a backbone among {', '.join(ATTENTIONS)}, got {kind!r}; take one of these, or enter "
            "its attention in multimodal.adapter.attention.ATTENTIONS"
        )
    return ATTENTIONS[kind]


def adapter_config(model: nn.Module) -> AdapterConfig:
    """Of a model's adapter.

    Raises:
        InputError: it has none.
    """
    found = getattr(core_of(model), "adapter_config", None)
    if not isinstance(found, AdapterConfig):
        raise InputError("adapter: expected a model with one, got none; call attach(model, AdapterConfig(...)) first")
    return found


def parameter_groups(model: nn.Module) -> dict[str, dict[str, nn.Parameter]]:
    """The adapter's parameters by group (:data:`GROUPS`) and by a name that does not depend on what wraps the model.

    ``images``: what projects pictures, and gates of pictures; ``text``: prompts, their gates, scale, bias and norms.

    Raises:
        InputError: the model has no adapter.
    """
    config, core, where = adapter_config(model), core_of(model), projections_of(model)
    images: dict[str, nn.Parameter] = {}
    text: dict[str, nn.Parameter] = {}
    for number, layer in enumerate(layers_of(core, family_of(core.config))):
        if is_adapted(attention := layer.get_submodule(where.path)):
            for name, parameter in attention.get_submodule("adapter").named_parameters():
                group = images if name.startswith("visual") else text
                group[f"layers.{number}.{name}"] = parameter
        for name, linear in linears_of(layer).items() if config.variant == "v2" else ():
            if isinstance(linear, ScaledLinear):
                text[f"layers.{number}.{name}.scale"] = linear.adapter_scale
                text[f"layers.{number}.{name}.bias"] = linear.adapter_bias
    if config.variant == "v2":
        for path, norm in norms_of(core).items():
            text |= {f"norms.{path}.{name}": p for name, p in norm.named_parameters(recurse=False)}
    visual = getattr(_unwrapped(model), "visual", None)
    if isinstance(visual, PictureProjection):
        images |= {f"visual.{name}": p for name, p in visual.named_parameters()}
    return {"images": images, "text": text}


def trainable(model: nn.Module, kind: str = "all") -> None:
    """Let one group of the adapter train and freeze the other; what is not the adapter's stays as it is.

    Args:
        kind: ``"images"`` for pairs of image and text, ``"text"`` for instructions in text, ``"all"``, ``"none"``.

    Raises:
        InputError: another kind, or a model without adapter.
    """
    if kind not in KINDS:
        raise InputError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}; choose one of these")
    for group, parameters in parameter_groups(model).items():
        for parameter in parameters.values():
            parameter.requires_grad_(kind in (group, "all"))


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """All of the adapter's parameters, trained or not, by name; see :func:`parameter_groups`."""
    groups = parameter_groups(model)
    return groups["images"] | groups["text"]


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Those of the adapter that train now."""
    return {name: p for name, p in adapter_parameters(model).items() if p.requires_grad}


def _unwrapped(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _device(attention: nn.Module) -> torch.device:
    return next(attention.parameters()).device
