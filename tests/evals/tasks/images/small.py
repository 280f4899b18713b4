"""What the tests of the offline world share: a tokenizer of words, text whose tokens name their place, and eyes."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from evals.tasks.images.world import COLOURS, NAMES

IMAGE = 5  # id of the image token
FIRST = 100_000  # background ids begin here and count up: each names its own place


class Words:
    """A token a word or a sign, from 10 on."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.numbers: dict[str, int] = {}

    def encode(self, text: str) -> np.ndarray:
        found = re.findall(r"\w+|[^\w\s]", text)
        for word in found:
            if word not in self.numbers:
                self.numbers[word] = 10 + len(self.names)
                self.names.append(word)
        return np.array([self.numbers[word] for word in found], dtype=np.int64)

    def decode(self, ids: Any) -> str:
        text = " ".join(self.names[int(i) - 10] for i in ids if 10 <= int(i) < FIRST)
        return re.sub(r" ([?.,:])", r"\1", text)


def background(length: int) -> np.ndarray:
    return np.arange(FIRST, FIRST + length)


def nearest(colour: np.ndarray) -> str:
    """The colour of the world that is closest to a mean of pixels."""
    return min(NAMES, key=lambda name: float(((np.array(COLOURS[name]) - colour) ** 2).sum()))


def frame_of(image: np.ndarray) -> str | None:
    """The colour of an image's border; None where it is as dark as the background."""
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]).astype(float)
    if border.mean(0).max() < 100 or border.std(0).max() > 20:
        return None
    return nearest(border.mean(0))


def ink_of(image: np.ndarray, margin: int = 4) -> str:
    """The colour of the brightest pixels inside an image's frame."""
    inner = image[margin:-margin, margin:-margin].reshape(-1, 3).astype(float)
    return nearest(inner[np.argsort(inner.max(1))[-12:]].mean(0))
