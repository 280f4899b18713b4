"""What a causal language model of Hugging Face offers, and whether that is enough to read with it. Runs no model."""

from __future__ import annotations

import hashlib
import inspect
from typing import Any

import torch
from torch import nn

from evals.models.truncated import KEEP

WINDOWS = ("full", "sliding", "truncate")


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of every parameter and buffer of a model (rotary frequencies too): names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def arguments(model: nn.Module) -> set[str]:
    """What its forward takes."""
    return set(inspect.signature(model.forward).parameters)


def check_window(window: str, size: int | None, keep: str, chunk: int) -> None:
    """Refuse a way of reading that makes no sense. Raises ValueError."""
    if window not in WINDOWS:
        raise ValueError(f"window: expected one of {', '.join(WINDOWS)}, got {window!r}; name one")
    if keep not in KEEP:
        raise ValueError(f"keep: expected one of {', '.join(KEEP)}, got {keep!r}; name one")
    if window == "full" and size is not None:
        raise ValueError(f"size: expected none with window='full', got {size}; leave it out or name another window")
    if window != "full" and (size is None or size < 2):
        raise ValueError(f"size: expected at least 2 tokens with window={window!r}, got {size}; give it")
    if keep != "last" and window != "truncate":
        raise ValueError(f"keep: expected 'last' with window={window!r}, got {keep!r}; only 'truncate' keeps both ends")
    if chunk < 1:
        raise ValueError(f"chunk: expected at least 1 token, got {chunk}; 1024 is a good value")


def check_model(config: Any, takes: set[str], window: str) -> None:
    """Refuse a model that cannot be read so. Raises ValueError."""
    if "logits_to_keep" not in takes:
        raise ValueError("model: expected one that takes logits_to_keep, got one without; its logits would be too many")
    if window == "sliding":
        types = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
        own = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
        if types or (own and not getattr(config, "layer_types", None)):
            raise ValueError("window: expected a model without a window of its own, got one with it; use window='full'")
        if "position_ids" not in takes:
            raise ValueError(
                "window: expected a model that takes position_ids to slide, got one without; use 'truncate'"
            )


def learned_positions(model: nn.Module) -> int | None:
    """How many positions a model with a table of them has; None where they are computed."""
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(module, nn.Embedding) and (last == "wpe" or "position" in last):
            config: Any = model.config
            return int(getattr(config, "max_position_embeddings", module.num_embeddings))
    return None


def first_token(tokenizer: Any) -> int | None:
    """The token that the tokenizer puts before a text (BOS); None where it puts none."""
    bos = tokenizer.bos_token_id
    return bos if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else None


def ends(model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end a text."""
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    several = named if isinstance(named, list) else [named]
    return {i for i in [*several, tokenizer.eos_token_id] if i is not None}
