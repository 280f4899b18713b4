"""Settings of a training run that no run can be made of, found before any text is read."""

from __future__ import annotations

from math import inf
from typing import Any

from rmt.cli.training_cheap import check_cheap, check_names
from rmt.cli.training_run import Settings, stage
from rmt.errors import InputError
from rmt.training.settings import keys

# The least and the most that each may be; None is passed over. Others are checked where they are used.
RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**32 - 1),
    "save_every": (1, inf),
    "save_keep": (1, inf),
    "log_every": (1, inf),
    "model.layers": (1, inf),
    "model.segment_size": (1, inf),
    "model.gate_penalty": (0, inf),
    "model.gate_threshold": (0, 1),
    "model.bptt_depth": (1, inf),
    "lora.r": (0, inf),
    "lora.lora_alpha": (1, inf),
    "lora.lora_dropout": (0, 1),
    "data.predicted": (0, 1),
    "curriculum.advance_at": (0, inf),  # above 1: only patience advances
    "curriculum.mix": (0, 1),
    "curriculum.patience": (1, inf),
    "optim.steps": (1, inf),
    "optim.batch_size": (1, inf),
    "optim.warmup": (0, inf),
    "optim.max_grad_norm": (0, inf),
}


def check(settings: Settings) -> None:
    """Refuse what cannot be trained with.

    Raises:
        InputError: a number out of its range, no stage or one without facts, or a text that is not there; with the
            dotted key.
    """
    from rmt.data.sources import iter_text

    check_estimate(settings)
    check_cheap(settings.model, settings.lora)
    require(settings.model.dtype == "float32", "model.dtype", "float32 to train in", settings.model.dtype)
    require(settings.data.text, "data.text", "at least one text", "none")
    for source in settings.data.text:
        iter_text(source)  # one that is not there should not wait for others to be read


def check_estimate(settings: Settings) -> None:
    """Refuse numbers out of their range, and stages that are none.

    Raises:
        InputError: with the dotted key.
    """
    check_names(settings.model, settings.optim)
    values = keys(settings)
    for key, (least, most) in RANGES.items():
        expected = f"at least {least}" if most == inf else f"{least} to {most}"
        require(values[key] is None or least <= values[key] <= most, key, expected, values[key])
    require(0 < settings.optim.lr < inf, "optim.lr", "a number above 0", settings.optim.lr)
    require(settings.model.dtype in ("float32", "bfloat16"), "model.dtype", "float32 or bfloat16", settings.model.dtype)
    width = settings.model.hidden_size
    if settings.model.kind == "decoder":
        require(width >= 32 and width % 32 == 0, "model.hidden_size", "a multiple of 32", width)
    require(settings.curriculum.stages, "curriculum.stages", "at least one stage", "none")
    for text in settings.curriculum.stages:
        made = stage(text)
        tells = made.people or (made.rooms >= 1 and not (made.spread and made.segments < made.relations))
        right = made.segments and made.segment_size and made.rooms <= 1 and made.cut <= 1 and made.relations in (1, 2)
        require(
            right and tells,
            "curriculum.stages",
            "segments, tokens and people above 0, rooms and cuts up to 1, and 1 or 2 relations",
            text,
        )


def require(holds: Any, key: str, expected: str, got: object) -> None:
    """One line where something does not hold."""
    if not holds:
        raise InputError(f"{key}: expected {expected}, got {got}; change it")
