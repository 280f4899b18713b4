"""``rmt info``: what is installed, what a model is, what a memory holds."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer

PACKAGES = ("rmt-memory", "torch", "transformers", "peft", "datasets", "tokenizers", "safetensors", "numpy")
FEW_WORDS = 256  # a vocabulary that is shown as it is


def info(
    what: Annotated[str | None, typer.Argument(help="A model (name or folder) or a memory file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show versions and device; of a model its shape and how it reads; of a memory how it came to be.

    \b
    Examples:
      rmt info
      rmt info bundled
      rmt info peace.memory --json
    """
    if what is None:
        facts = machine()
    elif os.path.isfile(Path(os.path.expanduser(what))):
        facts = memory_facts(Path(os.path.expanduser(what)))
    else:
        facts = model_facts(what)
    if as_json:
        typer.echo(json.dumps(facts))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
        typer.echo(f"{name.replace('_', ' '):<{width}}  {text}")


def machine() -> dict[str, Any]:
    """Versions, and what this machine computes with."""
    import torch

    from rmt.executors import auto_dtype

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {_processor()}",
        "threads": torch.get_num_threads(),
        "reading_dtype": _name(auto_dtype(device)),
    }


def memory_facts(path: Path) -> dict[str, Any]:
    """How a memory came to be, and what it weighs."""
    from rmt.memory import Memory

    memory = Memory.load(path)
    meta = memory.meta
    return {
        "file": str(path),
        "file_bytes": path.stat().st_size,
        "memory_bytes": memory.nbytes,
        **{f"shape_{name}": list(tensor.shape) for name, tensor in memory.tensors.items()},
        "model": meta.model,
        "tokens_read": meta.tokens_read,
        "segments_read": meta.segments_read,
        "source": meta.source,
        "digest": meta.digest,
        **meta.extra,
    }


def model_facts(name: str) -> dict[str, Any]:
    """The shape of a model, and how it would read here."""
    from rmt.cli import models
    from rmt.executors import auto_dtype, choose

    model, processor = models.load(name)
    tokenizer = getattr(processor, "tokenizer", processor)
    config = model.config
    executor, why = choose(config, device=model.device.type)
    memory = model.initial_memory(1)
    few = len(tokenizer) <= FEW_WORDS
    return {
        "model": name,
        "class": type(model).__name__,
        "fingerprint": model.fingerprint(),
        "backbone": config.backbone_config.model_type,
        "parameters": sum(p.numel() for p in model.parameters()),
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "vocabulary": len(tokenizer),
        **({"words": " ".join(sorted(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)))} if few else {}),
        **(image_facts(config) if hasattr(processor, "image_processor") else {}),
        "segment_size": config.segment_size,
        "memory_tokens": config.num_memory_tokens,
        "memory": config.memory,
        "memory_update": config.memory_update,
        "gate_threshold": config.gate_threshold,
        "memory_bytes": memory.nbytes,
        "labels": ", ".join(str(label) for label in (config.id2label or {}).values())
        if model.layout == "encoder"
        else "",
        "dtype": _name(model.dtype),
        "reading_dtype": _name(auto_dtype(model.device)),
        "executor": executor.name,
        "why": why,
    }


def image_facts(config: Any) -> dict[str, Any]:
    """How a model sees, and what an image costs."""
    vision = config.llava_config.vision_config
    return {
        "vision": vision.model_type,
        "image_size": vision.image_size,
        "patches_per_image": config.patches,
        "projector": config.projector,
        "tokens_per_image": config.tokens_per_image,
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    import torch

    return str(torch.backends.cpu.get_cpu_capability())


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
