"""A step of each of LLaVA's stages with a memory, for ``gpu_images.py``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import torch
import training_sides
from image_sides import LABEL, Pages, Place, Took, Turn, build, timed

import multimodal.training as stages
from efficiency.lora import fuse

STEPS = 3  # in a turn


def training(place: Place, number: int) -> dict[str, Callable[[], Turn]]:
    """A step of one of LLaVA's stages, over 4-bit weights and over those of 16 bits; to be made one at a time."""
    return {name: lambda name=name: step_of(place, number, name == "NF4") for name in ("NF4", "16 bit")}


def step_of(place: Place, number: int, four_bits: bool) -> Turn:
    """A turn of training: the whole step of AdamW, on 4 segments with an image each.

    What learns is in float32, all else as it is built; learning rates are zero, so that the work stays the same.
    """
    s, device = place.shape, place.device
    model = build(place)
    model.config.recurrence = "checkpointed"
    model.requires_grad_(False)
    if four_bits:
        stages.quantise(model)
    if number == 2:
        model = stages.with_lora(model, r=s.rank)
        fuse(model, seed=0)
    model.train()
    groups = stages.stage(model, number, lr=0.0)
    for parameter in (p for group in groups for p in group["params"]):
        parameter.data = parameter.data.float()
    optimizer = torch.optim.AdamW([{"params": group["params"], "lr": 0.0} for group in groups], fused=device == "cuda")
    batch = lesson(place, model.config.tokens_per_image)
    training_sides.free()

    def step() -> None:
        with torch.autocast(device, torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def turn() -> Took:
        took = [timed(device, step) for _ in range(STEPS)]
        most = {name: max(t[name] for t in took) for name in took[0]}
        return {**most, "seconds": median(t["seconds"] for t in took), "tokens": batch["input_ids"].numel()}

    step()  # makes the optimizer's state
    return turn


def lesson(place: Place, tokens_per_image: int) -> dict[str, Any]:
    """Four full segments, each with a label, an image and words, to be predicted."""
    shape = place.shape
    full = replace(shape, words=shape.segment - LABEL - tokens_per_image)
    ids = torch.from_numpy(Pages(full, tokens_per_image, 4).tokens(0, 4 * shape.segment))[None].to(place.device)
    side = shape.vision["image_size"]
    pixels = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(3)).to(place.device)
    return {"input_ids": ids, "labels": ids, "pixel_values": pixels}
