"""What `rmt train model.kind=llava` can be told, and its short forms. Knows nothing of models or data."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rmt.cli.training_run import CurriculumSettings, DataSettings, LoraSettings, OptimSettings, Settings
from rmt.errors import InputError

KIND = "llava"
BACKBONES = "small, or the folder or hub name of a LLaVA model"
# What an album's stage may say: letter, field of evals.tasks.images.training.Stage, and how it is read.
ALBUM: dict[str, tuple[str, type]] = {
    "t": ("tags", int),
    "d": ("distractors", float),
    "s": ("sentences", float),
    "u": ("unknown", float),
    "q": ("questions", int),
    "w": ("worded", float),
    "l": ("lead", int),
    "c": ("crowded", float),
}
STAGE = re.compile(r"(\d+)x(\d+)((?::[a-z]\d+(?:\.\d+)?)*)")


@dataclass(frozen=True)
class ImageModelSettings:
    """``backbone=small`` is a small model from scratch, whose vision tower ``vision`` may bring; any other is a LLaVA
    checkpoint of transformers. ``init`` goes on from a model with a memory, or from adapters that a run has left.
    ``copying`` is how strongly attention of a small one copies at first what it looks at.

    Of the memory and of segments, None is as ``init`` has it, and without one 16 tokens with gates (those of a small
    model are filed under the colours of frames), and segments of 128 tokens, of 1024 for a checkpoint. A
    ``gate_penalty`` and a ``gate_threshold`` of None are 0.3 and 0.6 for albums, which say what is worth remembering,
    and 0 and 0.1 where nothing says it: there a penalty would keep all gates shut.
    """

    kind: str = KIND
    backbone: str = "small"
    vision: str = ""
    train_vision: bool = False
    projector: str | None = None
    projector_pool: int = 2
    projector_queries: int = 16
    hidden_size: int = 128
    layers: int = 4
    copying: float = 1.0
    segment_size: int | None = None
    num_memory_tokens: int | None = None
    memory: str | None = None
    memory_update: str | None = None
    associative_key_size: int | None = None
    associative_heads: int | None = None
    associative_normalize: bool | None = None
    gate_penalty: float | None = None
    gate_threshold: float | None = None
    bptt_depth: int | None = None
    recurrence: str = "plain"
    quantization: str = ""
    init: str = ""


@dataclass(frozen=True)
class ImageDataSettings:
    """Albums of ``album`` drawn pictures within ``text``, or with ``captions`` each picture with its caption alone; or
    conversations of ``llava``, a file in LLaVA's JSON format, about ``images``, a folder."""

    album: int = 20_000
    captions: bool = False
    text: tuple[str, ...] = ("installed:",)
    cache: str = ""
    llava: str = ""
    images: str = ""
    skip_bad: bool = False


@dataclass(frozen=True)
class ImageCurriculumSettings(CurriculumSettings):
    """Stages of albums are SEGMENTSxSIZE:tTAGS:dDISTRACTORS:sSENTENCES:uUNKNOWN:qQUESTIONS:wWORDED:lLEAD:cCROWDED,
    as ``evals.tasks.images.training.Stage`` says; what is left out has its value there."""

    stages: tuple[str, ...] = ("2x20:t2:s0", "4x32:t3", "6x64:t4", "6x128:t4")
    advance_at: float = 0.9


@dataclass(frozen=True)
class ImageOptimSettings(OptimSettings):
    """As for text; ``lr`` None is LLaVA's own of a stage: 1e-3 (2e-3 for a linear projector), then 2e-5."""

    lr: float | None = None  # type: ignore[assignment]
    batch_size: int = 32


@dataclass(frozen=True)
class ImageSettings:
    """Everything `rmt train model.kind=llava` can be told. ``stage=1`` trains the projector, ``stage=2`` projector,
    language model and memory."""

    output: str = "runs/train"
    stage: int = 2
    seed: int = 0
    save_every: int = 100
    save_keep: int = 2
    log_every: int = 20
    model: ImageModelSettings = field(default_factory=ImageModelSettings)
    lora: LoraSettings = field(default_factory=lambda: LoraSettings(r=0))
    data: ImageDataSettings = field(default_factory=ImageDataSettings)
    curriculum: ImageCurriculumSettings = field(default_factory=ImageCurriculumSettings)
    optim: ImageOptimSettings = field(default_factory=ImageOptimSettings)


def wanted(changes: Iterable[str]) -> bool:
    """Whether these settings are asked for, by the last ``model.kind=`` among the changes."""
    kinds = [value.strip() for key, _, value in (c.partition("=") for c in changes) if key.strip() == "model.kind"]
    return kinds[-1:] == [KIND]


def album_stage(text: str) -> Any:
    """One stage of albums from its short form.

    Raises:
        InputError: it is none.
    """
    from evals.tasks.images.training import Stage

    match = STAGE.fullmatch(text)
    if match is None or any(part[0] not in ALBUM for part in match[3].split(":")[1:]):
        raise InputError(f"curriculum.stages: expected a stage such as 4x32:t3:d0.35:s0.2:w0.5, got {text!r}; mend it")
    parts = {part[0]: part[1:] for part in match[3].split(":")[1:]}
    try:
        given: dict[str, Any] = {ALBUM[letter][0]: ALBUM[letter][1](value) for letter, value in parts.items()}
        return Stage(int(match[1]), int(match[2]), **given)
    except ValueError as error:
        raise InputError(f"curriculum.stages: {text!r}: {error}; mend it") from error


def as_text(settings: ImageSettings) -> Settings:
    """The same of a run without images, as far as both have it: for what is done alike."""
    return Settings(
        output=settings.output,
        seed=settings.seed,
        save_every=settings.save_every,
        save_keep=settings.save_keep,
        log_every=settings.log_every,
        data=DataSettings(text=settings.data.text, cache=settings.data.cache),
        optim=settings.optim,
    )
