"""An adapter as a small folder: ``adapter_config.json`` and ``adapter_model.safetensors``.

Names in it do not depend on what wraps the model, so one that was trained under a recurrent model loads onto the bare
one. Knows nothing of how an adapter works.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from multimodal.adapter.adapter import adapter_config, adapter_parameters, attached, core_of
from multimodal.adapter.config import AdapterConfig
from rmt.errors import InputError

FORMAT = "llama-adapter/1"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# What an adapter fits to.
BASE = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads")


def save_adapter(model: nn.Module, folder: str | Path) -> None:
    """Write a model's adapter, and nothing of the model.

    Args:
        model: with an adapter.
        folder: made where it is missing.

    Raises:
        InputError: the model has no adapter.
    """
    config, weights = adapter_config(model), adapter_parameters(model)
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    said = {"format": FORMAT, "base_model": base_facts(model), "adapter": config.to_dict()}
    (place / CONFIG).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    save_file({name: p.detach().contiguous() for name, p in weights.items()}, place / WEIGHTS)


def load_adapter(model: nn.Module, folder: str | Path, *, freeze: bool = True) -> None:
    """Put a saved adapter on a model, in place; one that is there already is overwritten if it is of the same shape.

    Where it is refused, the model is left as it was.

    Args:
        model: of the shape that the adapter was trained on.
        folder: from :func:`save_adapter`.
        freeze: see :func:`multimodal.adapter.attach`.

    Raises:
        InputError: no such folder, a broken file, another base model, or another adapter on it.
    """
    (config, base), weights = read_config(folder), read_weights(folder)
    if (got := base_facts(model)) != base:
        unlike = ", ".join(
            f"{name} {base.get(name)} (the model has {got[name]})" for name in BASE if got[name] != base.get(name)
        )
        raise InputError(f"{folder}: expected the base model that it was trained on, with {unlike}; load that one")
    if getattr(core_of(model), "adapter_config", None) is None:
        with attached(model, config, freeze=freeze):
            fill(model, weights, str(folder))
        return
    if adapter_config(model) != config:
        raise InputError(f"{folder}: expected a model without another adapter, got one; detach(model) that first")
    fill(model, weights, str(folder))


def read_config(folder: str | Path) -> tuple[AdapterConfig, dict[str, Any]]:
    """What a folder says of its adapter, and of the model that it fits to.

    Raises:
        InputError: no file, or one of another kind.
    """
    path = Path(folder) / CONFIG
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: expected an adapter's configuration, got {type(error).__name__}; save it again"
        ) from error
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        kind = said.get("format") or said.get("peft_type") if isinstance(said, dict) else type(said).__name__
        raise InputError(f"{path}: expected format {FORMAT!r}, got {kind!r}; for one of PEFT's see load_peft")
    if not all(isinstance(said.get(part), dict) for part in ("adapter", "base_model")):
        raise InputError(f"{path}: expected adapter and base_model in it, got one without; save it again")
    return AdapterConfig.from_dict(said["adapter"]), dict(said["base_model"])


def read_weights(folder: str | Path) -> dict[str, Tensor]:
    """The tensors of a folder.

    Raises:
        InputError: no file, or one cut short.
    """
    path = Path(folder) / WEIGHTS
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: expected whole weights, got {type(error).__name__}; copy the file again") from error


@torch.no_grad()
def fill(model: nn.Module, weights: dict[str, Tensor], said: str) -> None:
    """Copy tensors into a model's adapter, all or none.

    Projections of pictures (``visual.``) are left out where the model has none: it reads text only.

    Args:
        weights: by the names of :func:`multimodal.adapter.adapter_parameters`.
        said: where they are from, for errors.

    Raises:
        InputError: names or shapes of another adapter.
    """
    own = adapter_parameters(model)
    seeing = any(name.startswith("visual.") for name in own)
    given = {n: t for n, t in weights.items() if seeing or not n.startswith("visual.")}
    shapes = {n: tuple(t.shape) for n, t in given.items()}
    wanted = {n: tuple(p.shape) for n, p in own.items()}
    if unlike := sorted(n for n in shapes.keys() | wanted.keys() if shapes.get(n) != wanted.get(n)):
        first = unlike[0]
        raise InputError(
            f"{said}: expected {first} of shape {wanted.get(first)}, got {shapes.get(first)} ({len(unlike)} do not "
            "fit); load it onto the base model that it was trained on"
        )
    for name, parameter in own.items():
        parameter.copy_(given[name])


def base_facts(model: nn.Module) -> dict[str, Any]:
    """What an adapter asks of a base model."""
    config = core_of(model).config
    return {name: getattr(config, name, None) for name in BASE}
