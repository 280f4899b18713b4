"""What a training run will take of memory, for real model shapes, none of it made: ``rmt train --estimate``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rmt.cli.training_cheap import fuse
from rmt.cli.training_memory import FRESH
from rmt.cli.training_run import KEYS, Settings, lora_config, small_llama_config, stage, without_dropout
from rmt.errors import InputError

CARD_KEEPS = 1.0  # gigabytes, for its driver and for gaps between blocks; roughly
MINILM_VOCABULARY = 30_522


def estimate_run(settings: Settings) -> Any:
    """An ``efficiency.footprint.Footprint`` of a step of this run, at the longest and widest of its stages.

    ``model.backbone`` may be any model that a configuration is to be had of; ``lora.r`` then counts for decoders too.

    Raises:
        InputError: no such backbone, or of no known family.
    """
    import torch

    from efficiency.footprint import NF4_BITS, estimate, fake, give_fake

    stages = [stage(text) for text in settings.curriculum.stages]
    size, segments = max(s.segment_size for s in stages), max(s.segments for s in stages)
    with torch.device("meta"):
        model = empty(settings, size)
    inner = model.base_model.model if hasattr(model, "peft_config") else model
    checkpointed, rows = settings.model.recurrence == "checkpointed", settings.optim.batch_size
    # Every segment keeps its activations where each has a loss, of words or of gates.
    cut = settings.model.bptt_depth if settings.model.kind == "encoder" and not settings.model.gate_penalty else None

    def bits(name: str, parameter: Any) -> float | None:
        frozen = not parameter.requires_grad and parameter.dim() == 2 and "embed" not in name and "lm_head" not in name
        return NF4_BITS if settings.model.quantization and frozen else None

    with fake(), torch.autocast("cpu", torch.bfloat16, enabled=settings.optim.bf16):
        give_fake(model)
        model.train()
        if settings.lora.fused and hasattr(model, "peft_config"):
            fuse(model, settings.seed)
        memory = sum(tensor.nbytes for tensor in inner.cell.initial(rows).values())
        return estimate(
            model,
            one_segment(inner, rows, size),
            optimizer=settings.optim.name,
            times=min(segments, cut or segments),
            kept=1 if checkpointed else None,
            memory_bytes=memory,
            bits=bits,
        )


def empty(settings: Settings, size: int) -> Any:
    """The model of a run; weights are of whatever device is the default."""
    import torch
    from peft import get_peft_model

    from rmt import models
    from rmt.config import RMTConfig

    s = settings.model
    given = {name: getattr(s, name) for name in FRESH if getattr(s, name) is not None}
    fields: dict[str, Any] = {**FRESH, **given, "segment_size": size, "num_memory_tokens": len(KEYS)}
    kind: Any = models.RMTForCausalLM
    if s.kind == "encoder":
        kind, fields = models.RMTForSequenceClassification, fields | {"cls_token_id": 101, "sep_token_id": 102}
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if s.dtype == "bfloat16" else torch.float32)
    try:
        model = kind(RMTConfig(backbone_config=backbone_config(settings), **fields))
    finally:
        torch.set_default_dtype(before)
    without_dropout(model)
    if settings.lora.r and (s.kind == "encoder" or s.backbone != "minilm"):
        lora = lora_config(settings.lora)
        if s.kind == "decoder":
            lora.target_modules, lora.modules_to_save = "all-linear", ["cell"]
        model = get_peft_model(model, lora, low_cpu_mem_usage=True)
    return model


def backbone_config(settings: Settings) -> Any:
    """Of the backbone by name, or of what ``rmt train`` makes where none is named."""
    from transformers import AutoConfig

    from rmt.models.building import load
    from rmt.pretrained import minilm

    s = settings.model
    if s.backbone != "minilm":
        return load(AutoConfig.from_pretrained, s.backbone)
    if s.kind == "decoder":
        return small_llama_config(s, MINILM_VOCABULARY, 0)
    return load(AutoConfig.from_pretrained, minilm())


def one_segment(model: Any, rows: int, size: int) -> Callable[[], Any]:
    """A forward of one segment, with the loss of a decoder on every token of it."""
    import torch
    from torch.nn import functional as F

    from rmt.segments import Segment

    def loss() -> Any:
        ids = torch.zeros(rows, size, dtype=torch.long)
        segment = Segment(ids, torch.ones(rows, size, dtype=torch.bool), torch.arange(size).expand(rows, size))
        out = model.cell(model.core, segment, model.cell.initial(rows))
        passed = sum(tensor.float().sum() for tensor in out.state.values() if tensor.requires_grad)
        if model.layout == "encoder":
            return out.opening.float().sum() + passed
        logits = model.get_output_embeddings()(out.hidden)
        return F.cross_entropy(logits.float().flatten(0, 1), ids.flatten()) + 0 * passed

    return loss


def remarks(settings: Settings, footprint: Any) -> list[str]:
    """Lines that say what is not plain from the table.

    Args:
        settings: of the run.
        footprint: of :func:`estimate_run`.
    """
    if settings.optim.name == "adamw":
        return []
    trained = sum(part.gradients for name, part in footprint.parts.items() if name != "update")
    return [
        "gradients: of each weight the inputs and output gradients of all its calls, or one gradient if that is less "
        f"({trained / 1e6:,.1f} MB); update: what forming and applying them takes besides"
    ]


def verdict(footprint: Any, card: float | None) -> str:
    """A line that says whether it fits.

    Args:
        footprint: of :func:`estimate_run`.
        card: gigabytes (10^9 bytes) of the card, None where nothing is to be said.

    Raises:
        InputError: a card of no size.
    """
    if card is None:
        return "Give --card GB to see whether it fits."
    if not card > 0:
        raise InputError(f"--card: expected gigabytes above 0, got {card}; give what the card has, such as 24")
    needed = footprint.total / 1e9 + CARD_KEEPS
    fits = "Fits" if needed <= card else "Does not fit"
    return f"{fits} a card of {card:g} GB: {needed:.1f} GB, {CARD_KEEPS:g} GB of it for the card itself."
