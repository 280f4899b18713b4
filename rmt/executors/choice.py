"""Which executor reads with a model, and why. The rules are data: a name, what it asks for, how it is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from rmt.backbone import family_of
from rmt.config import RMTConfig
from rmt.errors import InputError
from rmt.executors.base import Executor
from rmt.executors.captured import FAMILIES, Captured, cuda_graph
from rmt.executors.compiled import Compiled, not_compiled
from rmt.executors.packed import Packed
from rmt.executors.sequential import Sequential
from rmt.executors.speculative import Speculative
from rmt.executors.wavefront import Wavefront

CPU_PART = 4  # segments; fewer, and a matrix product is too small to be fast, unless weights are laid out for it
COMPILED_TRY = 8  # segments; on a GPU, where each size of a batch would be compiled by itself (a rule unmeasured)
WAVEFRONT_DEPTHS = 8  # segments handed to a wavefront, as a multiple of the layers: at most an eighth of them idle
GPU_LEAST = 3  # layers' worth of segments from which a GPU reads them as a wavefront (a rule unmeasured)


@dataclass(frozen=True)
class Rule:
    """An executor by name.

    Attributes:
        unfit: what it asks of model and device, as "expected, got"; empty where they have it.
        make: the executor for a model, a number of segments and a device.
        why: what speaks for it; of sequential, what speaks against all others.
    """

    unfit: Callable[[RMTConfig, str], str]
    make: Callable[[RMTConfig, int, str], Executor]
    why: Callable[[RMTConfig], str]


def choose(
    config: RMTConfig, name: str = "auto", batch_segments: int = 32, device: str = "cpu"
) -> tuple[Executor, str]:
    """The executor of this name, and why it is the right one, in words.

    Args:
        config: of the model that will read.
        name: one of :data:`EXECUTORS`; ``auto`` takes the first of :data:`AUTO` that suits model and device.
        batch_segments: segments handed over at a time, at least 1.
        device: type of the device that reads; a CPU reads a batch in parts, side by side.

    Raises:
        InputError: an unknown name, one that the model does not allow, or a batch below 1.
    """
    if name not in EXECUTORS:
        raise InputError(f"executor: expected one of {', '.join(EXECUTORS)}, got {name!r}; choose one of these")
    if batch_segments < 1:
        raise InputError(f"batch_segments: expected at least 1, got {batch_segments}; 32 is a good value")
    if name == "auto":
        rule = next(rule for rule in map(RULES.__getitem__, AUTO[device == "cuda"]) if not rule.unfit(config, device))
        return rule.make(config, batch_segments, device), rule.why(config)
    rule = RULES[name]
    if unfit := rule.unfit(config, device):
        raise InputError(f"executor: expected {unfit}; use 'auto'")
    return rule.make(config, batch_segments, device), "; ".join(filter(None, ("asked for", rule.why(config))))


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


def _not_plain(config: RMTConfig) -> str:
    if config.memory != "tokens" or config.retrieval_every:
        return f"memory tokens without retrieval, got {config.memory} and retrieval_every={config.retrieval_every}"
    return ""


def _not_captured(config: RMTConfig, device: str) -> str:
    kind = config.backbone_config.model_type
    if device != "cuda":
        return f"a CUDA device to record graphs on, got {device}"
    if kind not in FAMILIES:
        return f"a backbone that can be recorded ({', '.join(FAMILIES)}), got {kind}"
    return "" if config.memory == "associative" else _not_plain(config)


def _not_layered(config: RMTConfig, device: str) -> str:
    return "" if config.memory == "associative" else f"associative memory, local to a layer, got {config.memory}"


def _part(config: RMTConfig) -> int:
    """Segments of a part on a CPU."""
    return 1 if family_of(config.backbone_config).like_bert and config.memory == "tokens" else CPU_PART


def _speculative(config: RMTConfig, batch: int, device: str) -> Executor:
    return Speculative(batch, part=_part(config)) if device == "cpu" else Speculative(batch, most=batch)


def _compiled(config: RMTConfig, batch: int, device: str) -> Executor:
    """Compiled, in the order that the model allows."""
    if not_speculative(config):
        return Compiled(Sequential(batch))
    if device == "cpu":
        return Compiled(Speculative(batch, part=_part(config)), rows=_part(config))
    return Compiled(Speculative(batch, first=COMPILED_TRY, most=COMPILED_TRY), rows=COMPILED_TRY)


def _wavefront(config: RMTConfig, batch: int, device: str) -> Wavefront:
    depth = config.num_hidden_layers
    least = GPU_LEAST * depth if device == "cuda" else 2
    return Wavefront(max(batch, WAVEFRONT_DEPTHS * depth), batched=device == "cuda", least=least)


RULES: dict[str, Rule] = {
    "speculative": Rule(
        lambda c, device: (reason := not_speculative(c)) and f"a model whose gates can close, got {reason}",
        _speculative,
        lambda c: f"slot gates below {c.gate_threshold} leave the memory unchanged, so segments can be read ahead",
    ),
    "wavefront": Rule(
        _not_layered,
        _wavefront,
        lambda c: f"each layer has its own memory, so {c.num_hidden_layers} segments can be on their way at once",
    ),
    "captured": Rule(
        _not_captured,
        lambda c, batch, device: (
            Captured(batch) if c.memory == "tokens" else replace(_wavefront(c, batch, device), record=cuda_graph)
        ),
        lambda c: (
            f"a segment's step is recorded once and replayed, from {Captured.least} segments on (a rule unmeasured)"
        ),
    ),
    "compiled": Rule(
        lambda c, device: not_compiled(device) or _not_plain(c),
        _compiled,
        lambda c: f"compiled from segment {Compiled.least} of a document on",
    ),
    "packed": Rule(
        lambda c, device: "",
        lambda c, batch, device: Packed(batch),
        lambda c: "one document is read as by 'sequential', many of them side by side",
    ),
    "sequential": Rule(
        lambda c, device: "",
        lambda c, batch, device: Sequential(batch),
        not_speculative,
    ),
}
EXECUTORS = ("auto", *RULES)
# What auto takes, best first, on a CPU and on a GPU.
AUTO = {False: ("speculative", "sequential"), True: ("speculative", "wavefront", "captured", "sequential")}
