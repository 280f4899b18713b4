"""The two stages in which LLaVA is trained: which parameters learn, and how fast. Knows nothing of data or of a loop.

    stage 1   the projector alone, so that images come to speak the language model's words
    stage 2   projector and language model (2304.08485, section 4.2; 2310.03744, appendix A), and here the memory cell

The vision tower stays as it is in both, unless it is thawed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from rmt.errors import InputError

PARTS = ("projector", "language", "memory", "vision")
STAGES: dict[int, tuple[str, ...]] = {1: ("projector",), 2: ("projector", "language", "memory")}
# LLaVA-1.5's (2310.03744, table 9); LLaVA took 2e-3 for a linear projector (2304.08485, section 5).
RATES = {1: 1e-3, 2: 2e-5}
LINEAR_RATE = 2e-3
# What PEFT trains whole beside adapters, and where adapters go: nowhere in the vision tower or the projector.
WHOLE = ("cell", "multi_modal_projector")
# What a model over a base takes from there.
_OF_BASE = ("llava_config", "backbone_config", "model_type", "transformers_version", "architectures", "dtype")
_LAYERS = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj|gate_up_proj|qkv_proj"
TARGETS = rf".*language_model.*\.({_LAYERS})"
# Kept out of 4 bits: the projector learns, and what it learns is made for the features of this tower, bit for bit;
# a tower of CLIP's size is a twentieth of a 7B language model.
KEPT_WHOLE = ("cell", "lm_head", "vision_tower", "multi_modal_projector")


def part_of(name: str) -> str:
    """Which of :data:`PARTS` a parameter belongs to, by its dotted name, also within a ``PeftModel``."""
    pieces = name.split(".")
    if "vision_tower" in pieces:
        return "vision"
    if "multi_modal_projector" in pieces:
        return "projector"
    return "memory" if "cell" in pieces else "language"


def stage(
    model: nn.Module,
    number: int,
    *,
    vision: bool = False,
    lr: float | None = None,
    rates: dict[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Set ``requires_grad`` of every parameter as a stage asks; no parameter is left as it was.

    With LoRA the language model is its adapters: the weights under them, and the originals of what PEFT trains in
    copies (``modules_to_save``), stay frozen.

    Args:
        model: a :class:`multimodal.LlavaRMT`, or a ``PeftModel`` over one.
        number: 1 or 2.
        vision: whether the vision tower learns as well.
        lr: the learning rate; None for LLaVA's own, :func:`rate`.
        rates: what ``lr`` is multiplied with, for each of :data:`PARTS` that is to differ.

    Returns:
        groups for an optimizer, of which each has ``name``, ``params`` and ``lr``; parts without a parameter that
        learns have none.

    Raises:
        InputError: another stage, an unknown part, 4-bit weights that would have to learn, or nothing that learns.
    """
    if number not in STAGES:
        raise InputError(f"stage: expected one of {', '.join(map(str, STAGES))}, got {number!r}; name one of these")
    if unknown := sorted(set(rates or {}) - set(PARTS)):
        raise InputError(f"rates: expected some of {', '.join(PARTS)}, got {', '.join(unknown)}; leave it out")
    learning = (*STAGES[number], *(("vision",) if vision else ()))
    named = list(model.named_parameters())
    adapted = any("lora_" in name for name, _ in named)
    groups: dict[str, list[nn.Parameter]] = {part: [] for part in PARTS}
    for name, parameter in named:
        part = part_of(name)
        learns = part in learning and "original_module" not in name.split(".")
        if part == "language" and adapted:
            learns = learns and "lora_" in name
        if learns and not parameter.is_floating_point():
            raise InputError(f"{name}: expected adapters over 4-bit weights, got none; add LoRA (lora.r above 0)")
        parameter.requires_grad_(learns)
        if learns:
            groups[part].append(parameter)
    if not any(groups.values()):
        raise InputError(f"stage {number}: expected a model with a projector, got none; give a LlavaRMT")
    base = rate(model, number) if lr is None else lr
    return [
        {"name": part, "params": mine, "lr": base * (rates or {}).get(part, 1.0)}
        for part, mine in groups.items()
        if mine
    ]


def rate(model: nn.Module, number: int) -> float:
    """LLaVA's learning rate for a stage: 2e-5 in the second, 1e-3 in the first, 2e-3 there for a linear projector."""
    config = getattr(model, "config", None)
    return LINEAR_RATE if number == 1 and getattr(config, "projector", "mlp") == "linear" else RATES[number]


def with_lora(model: Any, *, r: int, lora_alpha: int = 32, lora_dropout: float = 0.0, folder: str = "") -> Any:
    """A ``PeftModel`` with LoRA on the language model; projector and memory cell learn whole and are saved with it.

    Args:
        model: a :class:`multimodal.LlavaRMT`, in 4 bits or not.
        r, lora_alpha, lora_dropout: PEFT's.
        folder: adapters to go on from.
    """
    from functools import partial

    from peft import LoraConfig, PeftModel, get_peft_model

    from rmt.models.building import load

    if folder:
        return load(partial(PeftModel.from_pretrained, model), folder, is_trainable=True)
    config = LoraConfig(
        r=r,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        target_modules=TARGETS,
        modules_to_save=list(WHOLE),
    )
    return get_peft_model(model, config)


def base_of(folder: str, **fields: Any) -> Any:
    """The :class:`multimodal.LlavaRMT` that adapters in a folder were trained over, without them.

    Args:
        folder: holds PEFT's files, which name the base, and a configuration with its memory.
        fields: of :class:`multimodal.LlavaRMTConfig`, in place of those there.

    Raises:
        InputError: no such folder, or no such base.
    """
    from functools import partial

    import torch
    from peft import PeftConfig
    from transformers import AutoConfig

    from multimodal import LlavaRMT, LlavaRMTConfig
    from rmt.models.building import load

    base = str(load(PeftConfig.from_pretrained, folder).base_model_name_or_path or "")
    config = load(LlavaRMTConfig.from_pretrained, folder)
    if not base:
        raise InputError(f"{folder}: expected adapters that name their base, got none; save them from a loaded model")
    if load(AutoConfig.from_pretrained, base).model_type == LlavaRMTConfig.model_type:
        return load(partial(LlavaRMT.from_pretrained, dtype=torch.float32), base, **fields)
    own = {name: value for name, value in config.to_diff_dict().items() if name not in _OF_BASE}
    return LlavaRMT.from_backbone(base, backbone_kwargs={"dtype": torch.float32}, **(own | fields))


def adapted(folder: str) -> Any:
    """The :class:`multimodal.LlavaRMT` of a folder of adapters, in float32 and eval mode, with them merged.

    Raises:
        InputError: no such folder, or no such base.
    """
    from functools import partial

    from peft import PeftModel

    from rmt.models.building import load

    both = load(partial(PeftModel.from_pretrained, base_of(folder)), folder)
    return both.merge_and_unload().eval()


def quantise(model: Any, *, bf16: bool = True) -> Any:
    """The language model's linear layers in NF4, in place; tower, projector, memory and head stay as they are.

    Raises:
        InputError: bitsandbytes is not installed.
    """
    import torch

    from efficiency.errors import InputError as Wrong

    try:
        from efficiency.qlora import quantize_model
        from efficiency.weight_cache import WeightCache

        return quantize_model(
            model, skip=KEPT_WHOLE, compute_dtype=torch.bfloat16 if bf16 else None, cache=WeightCache()
        )
    except Wrong as error:
        raise InputError(f"quantization: {error}") from error


def learning(model: nn.Module) -> Sequence[str]:
    """Names of the parameters that learn."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]
