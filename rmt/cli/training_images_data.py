"""Batches of a training run with images: albums that are drawn, or conversations from files."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from rmt.cli.training_images_settings import ImageSettings

Batch = dict[str, Any]
CHUNK = 500  # images encoded at once


def numbered(settings: ImageSettings, model: Any, processor: Any) -> Callable[[int, int], Batch]:
    """What makes batch number n of a stage.

    Args:
        settings: of the run.
        model: without adapters around it.
        processor: of the model.
    """
    return conversations(settings, model, processor) if settings.data.llava else albums(settings, model, processor)


def albums(settings: ImageSettings, model: Any, processor: Any) -> Callable[[int, int], Batch]:
    """Batches of albums, or of captions; pictures are drawn once, and encoded once where the tower is frozen."""
    from evals.tasks.images.pool import draw_pool
    from evals.tasks.images.training import AlbumTraining
    from rmt.cli.training_images_settings import album_stage, as_text
    from rmt.cli.training_run import backgrounds

    config, tokenizer = model.config, processor.tokenizer
    side = config.llava_config.vision_config.image_size
    pool = draw_pool(settings.data.album, "train", settings.seed + 1, side)
    data = AlbumTraining(
        encode=lambda text: tokenizer(text, add_special_tokens=False)["input_ids"],
        backgrounds=[] if settings.data.captions else backgrounds(as_text(settings), tokenizer),
        image_token=config.image_token_id,
        tokens_per_image=config.tokens_per_image,
        pool=pool,
        batch_size=settings.optim.batch_size,
        pixels=False,
        seed=settings.seed,
    )
    given = _pictures(pool.images, model, processor, settings.model.train_vision)
    if settings.data.captions:
        return lambda number, stage: _with(data.captions(number), given)
    stages = [album_stage(text) for text in settings.curriculum.stages]

    def make(number: int, stage: int) -> Batch:
        batch = _with(data.batch(number, stages[stage]), given)
        filed = batch["memory_targets"].shape[1]
        if config.memory != "tokens" or config.num_memory_tokens != filed:
            del batch["memory_targets"]  # not each in a token of its own
        if config.num_memory_tokens != filed:
            batch["salient"] = batch["salient"].any(axis=2)
        return batch | {"segment_size": stages[stage].segment_size, "logits_to_keep": 2}

    return make


def _with(batch: Batch, given: Callable[[np.ndarray], Batch]) -> Batch:
    numbers = batch.pop("image_numbers")
    return batch | (given(numbers) if len(numbers) else {})


def _pictures(images: np.ndarray, model: Any, processor: Any, pixels: bool) -> Callable[[np.ndarray], Batch]:
    """From numbers of a pool to what the model is given of its pictures."""
    import torch

    chunks = [slice(at, at + CHUNK) for at in range(0, len(images), CHUNK)]
    if pixels:
        return lambda numbers: {"pixel_values": pixel_values(processor, list(images[numbers]))}
    device = model.backbone.device
    if torch.cuda.is_available():
        model, device = model.to("cuda"), torch.device("cuda")
    was = model.training
    model.eval()
    with torch.inference_mode():
        parts = [model.vision_features(pixel_values(processor, list(images[c])).to(device)).cpu() for c in chunks]
    model.train(was)
    features = torch.cat(parts).numpy()
    return lambda numbers: {"vision_features": features[numbers]}


def pixel_values(processor: Any, images: list[Any]) -> Any:
    """Images to what the tower takes, (images, channels, height, width), float32."""
    return processor.image_processor(images, return_tensors="pt")["pixel_values"]


def conversations(settings: ImageSettings, model: Any, processor: Any) -> Callable[[int, int], Batch]:
    """Batches of conversations, in an order of each epoch's own."""
    from functools import partial

    from multimodal.dataset import Conversations
    from multimodal.documents.llava_json import Skipped

    skip = Skipped() if settings.data.skip_bad else None
    data = Conversations.open(
        settings.data.llava,
        processor.tokenizer,
        images=settings.data.images or None,
        tokens_per_image=model.config.tokens_per_image,
        pixels=partial(pixel_values, processor),
        batch_size=settings.optim.batch_size,
        seed=settings.seed,
        skip=skip,
        image_token=getattr(processor, "image_token", None),
        chat_template=_template(processor),
    )
    if skip is not None and skip.count:
        warnings.warn(f"{skip.count} bad conversations are left out, such as {skip.reasons[0]}", stacklevel=2)
    return lambda number, stage: data.batch(number)


def _template(processor: Any) -> str | None:
    """The chat template of a processor, which older checkpoints have where the tokenizer has none."""
    template = getattr(processor, "chat_template", None)
    return template.get("default") if isinstance(template, dict) else template


def score(batch: Batch, out: Any) -> float:
    """Share of questions answered right; where there are none, the likelihood of a token (its geometric mean)."""
    from rmt.cli.training_run import accuracy

    return accuracy(batch, out) if "question_targets" in batch else float((-out.loss.detach().float()).exp())
