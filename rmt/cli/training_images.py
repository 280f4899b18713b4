"""`rmt train model.kind=llava`: one stage of a LLaVA with a memory, from settings to a folder to read with."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

from rmt.cli.training_run import CurriculumSettings, DataSettings, LoraSettings, OptimSettings, Settings
from rmt.errors import InputError
from rmt.training.settings import keys

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


def check(settings: ImageSettings) -> None:
    """Refuse what cannot be trained with, before anything is read or drawn.

    Raises:
        InputError: with the dotted key.
    """
    from multimodal.training import STAGES
    from rmt.cli.training_cheap import OPTIMIZERS, QUANTIZATIONS
    from rmt.cli.training_checks import RANGES, require

    model, optim, data, lora = settings.model, settings.optim, settings.data, settings.lora
    values = keys(settings)
    own: dict[str, tuple[float, float]] = {"data.album": (1, inf), "model.num_memory_tokens": (0, inf)}
    for key, (least, most) in {**{k: r for k, r in RANGES.items() if k in values}, **own}.items():
        expected = f"at least {least}" if most == inf else f"{least} to {most}"
        require(values[key] is None or least <= values[key] <= most, key, expected, values[key])
    require(optim.lr is None or 0 < optim.lr < inf, "optim.lr", "a number above 0", optim.lr)
    require(settings.stage in STAGES, "stage", "1 or 2", settings.stage)
    for key, value, known in (
        ("model.quantization", model.quantization, QUANTIZATIONS),
        ("optim.name", optim.name, OPTIMIZERS),
    ):
        require(value in known, key, f"one of {', '.join(map(repr, known))}", repr(value))
    require(not (lora.r and settings.stage == 1), "lora.r", "0 in stage 1, which trains the projector alone", lora.r)
    if model.quantization and settings.stage == 2:
        require(lora.r, "lora.r", "adapters to train over 4-bit weights, lora.r above 0,", lora.r)
    fresh = model.backbone == "small" and not model.init
    require(not (lora.r and fresh), "lora.r", "0 for a small model from scratch, which has nothing to adapt", lora.r)
    width = model.hidden_size
    require(width >= 32 and width % 32 == 0, "model.hidden_size", "a multiple of 32", width)
    other = model.backbone != "small" and not model.init
    require(not (model.vision and other), "model.vision", "none with a backbone that has one", model.vision)
    if data.llava:
        for key, path in (("data.llava", data.llava), ("data.images", data.images)):
            require(not path or Path(path).expanduser().exists(), key, "something that is there", path)
        return
    require(not data.images, "data.images", "data.llava with it", "none")
    _check_albums(settings)


def _check_albums(settings: ImageSettings) -> None:
    from rmt.cli.training_checks import require
    from rmt.data.sources import iter_text

    require(settings.curriculum.stages, "curriculum.stages", "at least one stage", "none")
    for text in settings.curriculum.stages:
        made = album_stage(text)
        require(made.segment_size > 0, "curriculum.stages", "segments of at least a token", text)
    if not settings.data.captions:
        require(settings.data.text, "data.text", "at least one text", "none")
        for source in settings.data.text:
            iter_text(source)


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


def run(settings: ImageSettings, resume: bool = True) -> Path:
    """Train a stage, and leave the model in ``output``/model. A run that was killed goes on from its last checkpoint.

    Raises:
        InputError: settings that do not go together, or data that cannot be read.
    """
    import multimodal.training as stages
    from rmt.cli.training_cheap import masks_go_on, optimizer_of
    from rmt.cli.training_images_data import numbered, score
    from rmt.cli.training_images_model import base_name, build, inner, save
    from rmt.cli.training_run import arguments
    from rmt.training import Curriculum, CurriculumTrainer, NumberedBatches, last_checkpoint

    check(settings)
    c, output = settings.curriculum, Path(settings.output)
    model, processor = build(settings)
    rate = stages.rate(inner(model), settings.stage) if settings.optim.lr is None else settings.optim.lr
    stages.stage(model, settings.stage, vision=settings.model.train_vision)
    optim = replace(settings.optim, lr=rate)
    albums = not (settings.data.llava or settings.data.captions)
    count = len(c.stages) if albums else 1
    curriculum = Curriculum(count, c.advance_at, mix=c.mix, patience=c.patience, seed=settings.seed)
    trainer = CurriculumTrainer(
        batches=NumberedBatches(numbered(settings, inner(model), processor), curriculum),
        accuracy=score,
        model=model,
        args=arguments(replace(as_text(settings), optim=optim), output),
        optimizers=(optimizer_of(model, optim), None),
        callbacks=masks_go_on(model),
    )
    trainer.go_on(last_checkpoint(output) if resume else None)
    if albums and inner(model).config.eos_token_id is None:
        inner(model).generation_config.max_new_tokens = 1  # answers are one word, and no end was learned behind it
    if trainer.is_world_process_zero():  # processes that write one file each at once leave a mixture
        save(trainer.model, processor, output / "model", base_name(settings))
    return output / "model"
