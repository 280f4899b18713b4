"""A tiny model that sees, with random weights, and documents with pictures that say what is in them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from multimodal import LlavaRMT

SIDE, TOKENS, SEGMENT = 16, 4, 24


def with_image_token(tokenizer: Any) -> Any:
    """The tokenizer with ``<image>`` as one more token."""
    import copy

    more = copy.deepcopy(tokenizer)
    more.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return more


def seeing_model(tokenizer: Any, seed: int = 0, **config: Any) -> LlavaRMT:
    """A model whose gates open at some segments; an image is 4 tokens."""
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=SIDE, patch_size=8
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.2, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    token = tokenizer.convert_tokens_to_ids("<image>")
    llava = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=token, image_seq_length=TOKENS)
    ).eval()
    given = {"segment_size": SEGMENT, "num_memory_tokens": 3, "memory_update": "gated", "gate_threshold": 0.5}
    model = LlavaRMT.from_backbone(llava, **(given | config))
    if model.cell.slot_gate is not None:
        torch.nn.init.normal_(model.cell.slot_gate.weight, std=0.6)
        torch.nn.init.constant_(model.cell.slot_gate.bias, 0.0)
    return model


def saved_seeing(tokenizer: Any, folder: Path, **config: Any) -> str:
    """The folder of such a model, with its processor."""
    more = with_image_token(tokenizer)
    seeing_model(more, **config).save_pretrained(folder)
    processor(more).save_pretrained(folder)
    return str(folder)


def processor(tokenizer: Any) -> LlavaProcessor:
    """For images of ``SIDE`` pixels."""
    size = {"height": SIDE, "width": SIDE}
    images = CLIPImageProcessor(size=size, crop_size=size, do_center_crop=False)
    return LlavaProcessor(images, tokenizer, patch_size=8, vision_feature_select_strategy="default")


@dataclass(frozen=True)
class Album:
    """Text with pictures at some tokens, all of it held: what a lazy document is compared with.

    Attributes:
        ids: token ids, with the image token where pictures are.
        pictures: (start, stop, at, pixels) of each.
    """

    ids: np.ndarray
    pictures: tuple[tuple[int, int, int, np.ndarray], ...] = ()
    questions: tuple[Any, ...] = field(default=())

    @property
    def length(self) -> int:
        return len(self.ids)

    def tokens(self, start: int, stop: int) -> np.ndarray:
        return self.ids[start:stop]

    def figures(self, start: int, stop: int) -> list[tuple[int, int, int, np.ndarray]]:
        return [p for p in self.pictures if p[0] < stop and p[1] > start]

    @property
    def glue(self) -> np.ndarray:
        """One number over each picture and its label."""
        numbers = np.zeros(len(self.ids), dtype=np.int64)
        for number, (start, stop, *_) in enumerate(self.pictures, start=1):
            numbers[start:stop] = number
        return numbers


def album(image_token: int, length: int, count: int, seed: int = 0, label: int = 2) -> Album:
    """Random words and pictures, each behind ``label`` words that belong to it."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(1000, 20_000, length)
    size = label + TOKENS
    places = np.sort(rng.integers(length - count * size + 1, size=count)) + size * np.arange(count)
    pictures = []
    for start in places.tolist():
        at, stop = start + label, start + size
        ids[at:stop] = image_token
        pictures.append((start, stop, at, rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)))
    return Album(ids, tuple(pictures))
