"""Tiny readers of albums, and documents with images for them."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from multimodal import LlavaRMT
from multimodal.pieces import Figure
from multimodal.reader import AlbumReader
from rmt.pretrained import minilm
from tests.multimodal.llava_kit import SIDE, tiny_llava

TOKENS = 4  # of an image
WORDS = (
    "the red frame holds a seven and nobody looked at the small green house behind it".split()  # noqa: SIM905
)


@cache
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(minilm())


@cache
def processor() -> Any:
    """Tokenizer and image processor, as transformers' LlavaProcessor has them."""
    size = {"height": SIDE, "width": SIDE}
    return SimpleNamespace(
        tokenizer=tokenizer(), image_processor=CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=size)
    )


def model(memory: str = "gated", **fields: Any) -> LlavaRMT:
    """A tiny model whose gates close for some segments and open for others."""
    llava = tiny_llava(vocab_size=len(tokenizer()) + 1)
    llava.config.image_token_index = len(tokenizer())
    given: dict[str, Any] = {"segment_size": 16, "num_memory_tokens": 3, **fields}
    if memory == "associative":
        given["memory"] = "associative"
    elif memory == "gated":
        given["memory_update"] = "gated"
    made = LlavaRMT.from_backbone(llava, **given)
    torch.manual_seed(5)
    if memory == "gated":
        torch.nn.init.normal_(made.cell.slot_gate.weight, std=0.6)
        torch.nn.init.constant_(made.cell.slot_gate.bias, -4.0)
    if memory == "associative":
        for p in made.cell.parameters():
            p.data.normal_(0, 0.2)
    return made.eval()


def reader(made: LlavaRMT | None = None, **fields: Any) -> AlbumReader:
    return AlbumReader(model() if made is None else made, processor(), **{"dtype": "float32", **fields})


def picture(number: int, side: int = 20) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (side, side + 3, 3), dtype=np.uint8)


def album(count: int = 12, seed: int = 0) -> list[str | Figure]:
    """Text and labelled images in turn; runs of text of many lengths, some of them none."""
    draw = np.random.default_rng(seed)
    pieces: list[str | Figure] = []
    for number in range(count):
        pieces.append(" ".join(draw.choice(WORDS, draw.integers(0, 30))) + " ")
        label = " ".join(draw.choice(WORDS, draw.integers(0, 5)))
        pieces.append(Figure(picture(number), label, "end" if number % 3 == 0 else ""))
    return [*pieces, "and that is all there was to see."]


def in_pieces(document: list[str | Figure], sizes: list[int]) -> list[str | Figure]:
    """The same document with its text cut after so many characters, again and again."""
    out: list[str | Figure] = []
    number = 0
    for piece in document:
        if not isinstance(piece, str):
            out.append(piece)
            continue
        while piece:
            size = sizes[number % len(sizes)]
            out.append(piece[:size])
            piece, number = piece[size:], number + 1
    return out
