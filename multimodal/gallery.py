"""Images on their way into a model that reads: looked at as they come, encoded a few at a time, held for one group.

Knows pixels and features; nothing of text, segments or files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from multimodal.images import open_image
from multimodal.llava import LlavaRMT
from rmt.errors import InputError

AT_ONCE = 16
"""Images that go through the vision tower as one batch, counted from the first of a group: what bits depend on."""

SPAN = 1 << 40
"""Rows that a table of a shelf may have."""


class Shelf:
    """Tables of features, one for each group of segments that is being read now.

    A view of a model is made once, as executors keep what they know of a model with it; it looks here for what a
    group's virtual ids mean. Reading several documents at a time, from several threads, is one table each.
    """

    def __init__(self) -> None:
        self._tables: dict[int, Tensor] = {}
        self._numbers = count()

    @contextmanager
    def holding(self, features: Float[Tensor, "images tokens hidden"] | None) -> Iterator[int]:
        """Inside, rows from the number that this gives lead to these features."""
        if features is None:
            yield 0
            return
        number = next(self._numbers)
        self._tables[number] = features.flatten(0, 1)
        try:
            yield number * SPAN
        finally:
            del self._tables[number]

    def lookup(self, rows: Int[Tensor, " rows"]) -> Float[Tensor, "rows hidden"]:
        """Features by row (:data:`multimodal.spliced.Lookup`); all rows of a call are of one table."""
        table = self._tables[int(rows[0]) // SPAN]
        return table[rows % SPAN]


class Gallery:
    """The images of one reading, a group of segments at a time.

    Args:
        model: that encodes, in evaluation mode.
        image_processor: of transformers: PIL images to ``pixel_values``.
        features: a :class:`multimodal.feature_cache.FeatureCache`, None for none.
        begin: images that begin before this token of the document were read before: only their names count.
    """

    def __init__(self, model: LlavaRMT, image_processor: Any, features: Any = None, begin: int = 0) -> None:
        self._model, self._processor, self._cache, self._begin = model, image_processor, features, begin
        self._waiting: list[Tensor] = []
        self._encoded: list[Tensor] = []
        self._names: list[bytes] = []
        self._count = 0

    def look(self, image: Any, at: int) -> None:
        """Take an image: a PIL image, a uint8 array (height, width, 3), a file, or what gives one when called.

        Args:
            image: as it is; it is loaded now and not kept.
            at: the token of the document that it begins at.

        Raises:
            InputError: it cannot be read, or becomes pixels of another size than the tower's; with its number from 1.
        """
        self._count += 1
        try:
            picture = open_image(image() if callable(image) else image)
            self._names.append(_name_of(picture))
            if at < self._begin:
                return
            self._waiting.append(self._pixels(picture))
        except InputError as error:
            raise InputError(f"image {self._count}, at token {at:,}: {error}") from error
        if len(self._waiting) == AT_ONCE:
            self._encode()

    def take(self) -> tuple[Float[Tensor, "images tokens hidden"] | None, list[bytes]]:
        """What the images since the last call have become, None where there were none, and their names."""
        self._encode()
        features = torch.cat(self._encoded) if self._encoded else None
        names, self._encoded, self._names = self._names, [], []
        return features, names

    def _pixels(self, picture: Any) -> Float[Tensor, "1 channels height width"]:
        values = self._processor(images=[picture], return_tensors="pt")["pixel_values"]
        side = self._model.config.llava_config.vision_config.image_size
        if tuple(values.shape) != (1, 3, side, side):
            raise InputError(
                f"image processor: expected one image of 3 × {side} × {side}, got {tuple(values.shape)}; use the "
                "processor that was saved with the vision tower"
            )
        pixels: Tensor = values.float()
        return pixels

    def _encode(self) -> None:
        if not self._waiting:
            return
        pixels, self._waiting = torch.cat(self._waiting).to(self._model.device), []
        # Not in inference mode: what a cache keeps may enter a training step.
        with torch.no_grad():
            self._encoded.append(self._model.project(self._features(pixels)))

    def _features(self, pixels: Tensor) -> Tensor:
        if self._cache is None:
            return self._model.vision_features(pixels)
        llava = self._model.config.llava_config
        layer, strategy = llava.vision_feature_layer, llava.vision_feature_select_strategy
        tower = self._model.backbone.model.vision_tower
        pixels = pixels.to(next(tower.parameters()).dtype)
        features: Tensor = self._cache.features(tower, pixels, layer, strategy)
        return features


def _name_of(picture: Any) -> bytes:
    """SHA-256 of an RGB image, whatever file it came from."""
    pixels = np.ascontiguousarray(np.asarray(picture))
    digest = hashlib.sha256(str(pixels.shape).encode())
    digest.update(pixels.data)
    return digest.digest()
