"""Which executor reads with a model, and why."""

from __future__ import annotations

from rmt.backbone import family_of
from rmt.config import RMTConfig
from rmt.errors import InputError
from rmt.executors.base import Executor
from rmt.executors.captured import FAMILIES, Captured
from rmt.executors.compiled import Compiled, not_compiled
from rmt.executors.packed import Packed
from rmt.executors.sequential import Sequential
from rmt.executors.speculative import Speculative

CPU_PART = 4  # segments; fewer, and a matrix product is too small to be fast, unless weights are laid out for it
COMPILED_TRY = 8  # segments; on a GPU, where each size of a batch would be compiled by itself (a rule unmeasured)
EXECUTORS = ("auto", "sequential", "speculative", "packed", "captured", "compiled")


def choose(
    config: RMTConfig, name: str = "auto", batch_segments: int = 32, device: str = "cpu"
) -> tuple[Executor, str]:
    """The executor of this name, and why it is the right one, in words.

    Args:
        config: of the model that will read.
        name: one of :data:`EXECUTORS`; ``auto`` takes speculative where it applies, on a GPU else captured.
        batch_segments: segments read as one batch (speculative), at least 1.
        device: type of the device that reads; a CPU reads a batch in parts, side by side.

    Raises:
        InputError: an unknown name, one that the model does not allow, or a batch below 1.
    """
    if name not in EXECUTORS:
        raise InputError(f"executor: expected one of {', '.join(EXECUTORS)}, got {name!r}; choose one of these")
    if batch_segments < 1:
        raise InputError(f"batch_segments: expected at least 1, got {batch_segments}; 32 is a good value")
    reason = not_speculative(config)
    if name == "speculative" and reason:
        raise InputError(f"executor: expected a model whose gates can close, got {reason}; use 'sequential'")
    if name == "captured":
        if unfit := not_captured(config, device):
            raise InputError(f"executor: expected {unfit}; use 'sequential'")
        return Captured(batch_segments), "asked for"
    if name == "compiled":
        if unfit := not_compiled(device) or _not_plain(config):
            raise InputError(f"executor: expected {unfit}; use 'auto'")
        return _compiled(config, batch_segments, device)
    if name == "packed":
        return Packed(batch_segments), "one document is read as by 'sequential', many of them side by side"
    if name == "auto" and reason and not not_captured(config, device):
        least = Captured.least
        return Captured(batch_segments), f"{reason}; a GPU replays it, from {least} segments on (a rule unmeasured)"
    if name == "sequential" or reason:
        return Sequential(batch_segments), reason or "asked for"
    why = f"slot gates below {config.gate_threshold} leave the memory unchanged, so segments can be read ahead"
    if device == "cpu":
        return Speculative(batch_segments, part=_part(config)), why
    return Speculative(batch_segments, most=batch_segments), why


def _part(config: RMTConfig) -> int:
    """Segments of a part on a CPU."""
    return 1 if family_of(config.backbone_config).like_bert and config.memory == "tokens" else CPU_PART


def _compiled(config: RMTConfig, batch_segments: int, device: str) -> tuple[Executor, str]:
    """Compiled, in the order that the model allows."""
    why = f"asked for; compiled from segment {Compiled.least} of a document on"
    if not_speculative(config):
        return Compiled(Sequential(batch_segments)), why
    if device == "cpu":
        return Compiled(Speculative(batch_segments, part=_part(config)), rows=_part(config)), why
    ahead = Speculative(batch_segments, first=COMPILED_TRY, most=COMPILED_TRY)
    return Compiled(ahead, rows=COMPILED_TRY), why


def _not_plain(config: RMTConfig) -> str:
    """Why the memory of this model is more than tokens, as expected and got; empty where it is not."""
    if config.memory != "tokens" or config.retrieval_every:
        return f"memory tokens without retrieval, got {config.memory} and retrieval_every={config.retrieval_every}"
    return ""


def not_captured(config: RMTConfig, device: str) -> str:
    """Why a segment of this model cannot be recorded, as expected and got; empty where it can."""
    kind = config.backbone_config.model_type
    if device != "cuda":
        return f"a CUDA device to record graphs on, got {device}"
    if unfit := _not_plain(config):
        return unfit
    if kind not in FAMILIES:
        return f"a backbone that can be recorded ({', '.join(FAMILIES)}), got {kind}"
    return ""


def not_speculative(config: RMTConfig) -> str:
    """Why segments of this model cannot be read ahead; empty where they can."""
    if config.memory_update != "gated":
        return f"memory_update={config.memory_update!r}: each segment needs the memory that the one before wrote"
    if not config.gate_threshold:
        return "gate_threshold=0: no gate ever closes"
    if not config.num_memory_tokens:
        return "num_memory_tokens=0: there is no memory"
    if config.retrieval_every:
        return f"retrieval_every={config.retrieval_every}: each segment changes what is kept of old memories"
    return ""
