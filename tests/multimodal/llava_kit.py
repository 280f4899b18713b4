"""Tiny LLaVA models with random weights, and prompts with images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

WORDS, IMAGE, SIDE = 60, 60, 16


def tiny_llava(tower: str = "clip", seed: int = 0, **text: Any) -> LlavaForConditionalGeneration:
    """A LLaVA model in evaluation mode; an image is 4 tokens."""
    torch.manual_seed(seed)
    shape: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
        "image_size": SIDE, "patch_size": 8,
    }  # fmt: skip
    vision = CLIPVisionConfig(**shape) if tower == "clip" else SiglipVisionConfig(**shape)
    language: dict[str, Any] = {
        "vocab_size": WORDS + 4, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2,
        "bos_token_id": None, "eos_token_id": None, "pad_token_id": 0, **text,
    }  # fmt: skip
    config = LlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(**language),
        image_token_index=IMAGE,
        image_seq_length=4,
        vision_feature_select_strategy="default" if tower == "clip" else "full",
    )
    return LlavaForConditionalGeneration(config).eval()


def prompt(
    llava: LlavaForConditionalGeneration, images: list[int], length: int = 20, pad: str = "right", seed: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and pixels of a row for each number of images; rows differ in length."""
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for row, count in enumerate(images):
        words = torch.randint(1, WORDS, (length + 3 * row,), generator=draw)
        places = sorted(torch.randint(1, len(words), (count,), generator=draw).tolist(), reverse=True)
        for place in places:
            words = torch.cat([words[:place], torch.full((4,), IMAGE), words[place:]])
        rows.append(words)
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, words in enumerate(rows):
        where = slice(0, len(words)) if pad == "right" else slice(ids.shape[1] - len(words), None)
        ids[row, where], mask[row, where] = words, 1
    pixels = torch.randn(sum(images), 3, SIDE, SIDE, generator=draw)
    return ids, mask, pixels
