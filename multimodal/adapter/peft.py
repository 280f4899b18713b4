"""LLaMA-Adapter V1 from and to PEFT's adaption prompt (``peft.AdaptionPromptConfig``), where the maths agrees.

PEFT has one gate a layer, multiplied as it is: ours of all its heads is atanh of it, and goes back where all heads of a
layer have the same. It runs the output projection a second time for what prompts add, which is the same where that has
no bias; its heads make up the hidden size; it knows of the families here LLaMA and Mistral only.
Where one of these does not hold, the conversion is refused. Needs no PEFT but for the class of its configuration.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from multimodal.adapter.adapter import adapter_config, adapter_parameters, attached, core_of, projections_of
from multimodal.adapter.config import AdapterConfig
from multimodal.adapter.files import CONFIG, WEIGHTS, fill, read_weights
from rmt.backbone import family_of
from rmt.errors import InputError
from rmt.layers import layers_of

FAMILIES = ("llama", "mistral")
PROMPT, GATE = "adaption_prompt", "adaption_gate"
NAME = re.compile(rf"layers\.(\d+)\.self_attn\.({PROMPT}|{GATE})$")


def load_peft(model: nn.Module, folder: str | Path, *, freeze: bool = True) -> None:
    """Put an adaption prompt that PEFT saved on a model, in place.

    Args:
        model: the base model, without an adapter.
        folder: of PEFT's ``save_pretrained``.
        freeze: see :func:`multimodal.adapter.attach`.

    Raises:
        InputError: another kind of adapter, a gate of 1 or more in size, which no tanh gives, a model on which the two
            differ, or weights of another base model.
    """
    path = Path(folder) / CONFIG
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        kind = said.get("peft_type")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: expected a configuration of PEFT, got {type(error).__name__}; save it again"
        ) from error
    if kind != "ADAPTION_PROMPT":
        raise InputError(f"{path}: expected peft_type 'ADAPTION_PROMPT', got {kind!r}; load it with PEFT")
    from_peft(model, said, read_weights(folder), freeze=freeze)


def from_peft(model: nn.Module, config: Any, weights: dict[str, Tensor], *, freeze: bool = True) -> None:
    """The same from a live PEFT model: its configuration, and ``peft.get_peft_model_state_dict`` of it.

    Args:
        model: the base model, without an adapter.
        config: ``AdaptionPromptConfig``, or its dictionary.
        weights: names that end in ``layers.N.self_attn.adaption_prompt`` and ``adaption_gate``.

    Raises:
        InputError: see :func:`load_peft`.
    """
    check_base(model)
    facts = config if isinstance(config, dict) else vars(config)
    shape: dict[str, Any] = {name: facts.get(name) for name in ("adapter_len", "adapter_layers")}
    ours = AdapterConfig(**shape)
    heads = core_of(model).config.num_attention_heads
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if (match := NAME.search(name)) is None:
            raise InputError(f"peft: expected layers.N.self_attn.{PROMPT} or {GATE}, got {name}; convert these only")
        if match[2] == PROMPT:
            found[f"layers.{match[1]}.prompts"] = tensor[0]
            continue
        if not bool((tensor.abs() < 1).all()):
            raise InputError(
                f"peft: expected gates below 1 in size, as a tanh is, got {float(tensor):.3g} in {name}; "
                "keep this adapter in PEFT"
            )
        found[f"layers.{match[1]}.gate"] = tensor.double().atanh().float().expand(heads)
    with attached(model, ours, freeze=freeze):
        fill(model, found, "peft")


def to_peft(model: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A model's adapter as PEFT has it: fields of ``AdaptionPromptConfig``, and tensors as its files name them.

    ``peft.set_peft_model_state_dict`` takes the tensors; :func:`save_peft` writes a folder for ``PeftModel``.

    Raises:
        InputError: no adapter, LLaMA-Adapter V2, heads of a layer with different gates, or a model on which the two
            differ.
    """
    config = adapter_config(model)
    if config.variant != "v1":
        raise InputError(
            f"peft: expected variant 'v1', got {config.variant!r}, which PEFT does not have; use save_adapter"
        )
    check_base(model)
    tensors: dict[str, Tensor] = {}
    for name, parameter in adapter_parameters(model).items():
        if name.startswith("visual."):
            raise InputError("peft: expected an adapter without pictures, got one that projects them; use save_adapter")
        layer, _, what = name.rpartition(".")
        value = parameter.detach()
        if what == "gate" and not bool((value == value[0]).all()):
            raise InputError(
                f"peft: expected the same gate for all heads of a layer, as PEFT has one, got {len(value.unique())} "
                f"different ones in {layer}; use save_adapter"
            )
        key = f"base_model.model.model.{layer}.self_attn."
        if what == "gate":
            tensors[key + GATE] = value[:1].double().tanh().to(value.dtype)
        else:
            tensors[key + PROMPT] = value[None].clone()
    return {"adapter_len": config.adapter_len, "adapter_layers": config.adapter_layers}, tensors


def save_peft(model: nn.Module, folder: str | Path) -> None:
    """Write a model's adapter as PEFT reads it: ``PeftModel.from_pretrained(base, folder)``.

    Raises:
        InputError: see :func:`to_peft`.
    """
    fields, tensors = to_peft(model)
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    said = {"peft_type": "ADAPTION_PROMPT", "task_type": "CAUSAL_LM", "target_modules": "self_attn"} | fields
    (place / CONFIG).write_text(json.dumps(said | {"inference_mode": True}, indent=2) + "\n", encoding="utf-8")
    save_file(tensors, place / WEIGHTS, metadata={"format": "pt"})


@torch.no_grad()
def check_base(model: nn.Module) -> None:
    """Refuse a model on which PEFT's adaption prompt computes something else, or does not run.

    Raises:
        InputError: with the reason.
    """
    core = core_of(model)
    config, where = core.config, projections_of(model)
    if config.model_type not in FAMILIES:
        raise InputError(
            f"peft: expected a backbone among {', '.join(FAMILIES)}, got {config.model_type!r}; use save_adapter"
        )
    layer: Any = layers_of(core, family_of(config))[-1]
    own = layer.get_submodule(where.path)
    if own.o_proj.bias is not None:
        raise InputError("peft: expected attention without bias, got one, which PEFT would add twice; use save_adapter")
    if config.num_attention_heads * own.head_dim != config.hidden_size:
        raise InputError(
            f"peft: expected heads that make up the hidden size {config.hidden_size}, got "
            f"{config.num_attention_heads} of size {own.head_dim}; use save_adapter"
        )
