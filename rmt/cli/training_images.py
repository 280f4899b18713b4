"""`rmt train model.kind=llava`: one stage of a LLaVA with a memory, from settings to a folder to read with."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from pathlib import Path

from rmt.cli.training_images_settings import ImageSettings, album_stage, as_text
from rmt.training.settings import keys


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
