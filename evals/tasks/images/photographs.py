"""Photographs that ship with scikit-image, cut into pieces: what distracts like the world outside.

Only those that lie in its wheel are used, so nothing is downloaded. Knows nothing of documents.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from jaxtyping import UInt8

# Names of functions of skimage.data whose files are part of its wheel, with what they show.
PHOTOGRAPHS = {
    "astronaut": "an astronaut",
    "camera": "a man with a camera",
    "chelsea": "a cat",
    "coffee": "a cup of coffee",
    "coins": "old coins",
    "rocket": "a rocket",
    "moon": "the moon",
    "page": "a page of text",
    "text": "handwriting",
    "hubble_deep_field": "galaxies",
}


def available() -> bool:
    """Whether scikit-image is installed."""
    return find_spec("skimage") is not None


@lru_cache(maxsize=1)
def shipped() -> tuple[str, ...]:
    """Names of the photographs whose files are there. Raises ValueError where scikit-image is missing."""
    if not available():
        raise ValueError(
            "photographs: expected scikit-image, got none; install it (pip install scikit-image) or leave them out"
        )
    found = []
    for name in PHOTOGRAPHS:
        try:
            _load(name)
        except (OSError, ValueError, AttributeError, ModuleNotFoundError):
            continue  # a version of scikit-image that would download this one
        found.append(name)
    if not found:
        raise ValueError("photographs: expected some in scikit-image's wheel, got none; install its full wheel")
    return tuple(found)


@lru_cache(maxsize=len(PHOTOGRAPHS))
def _load(name: str) -> np.ndarray:
    """A whole photograph, uint8 (height, width, 3), only from a file that is there already."""
    import os

    import skimage
    from PIL import Image

    folder = os.path.join(os.path.dirname(skimage.__file__), "data")
    for ending in (".png", ".jpg", ".tif", ".gif"):
        path = os.path.join(folder, name + ending)
        if os.path.exists(path):
            with Image.open(path) as image:
                return np.asarray(image.convert("RGB"))
    raise OSError(f"{name}: expected a file in {folder}, got none")


@dataclass(frozen=True)
class PhotoPicture:
    """A square piece of a photograph.

    Attributes:
        name: one of :func:`shipped`.
        box: left, top and side, as shares of the shorter side.
        size: pixels of both sides of the picture.
    """

    name: str
    box: tuple[float, float, float] = (0.0, 0.0, 1.0)
    size: int = 32

    def __call__(self) -> UInt8[np.ndarray, "height width 3"]:
        """The pixels."""
        from PIL import Image

        if self.name not in shipped():
            raise ValueError(f"photograph: expected one of {', '.join(shipped())}, got {self.name!r}")
        image = Image.fromarray(_load(self.name))
        left, top, side = (part * min(image.size) for part in self.box)
        box = (left, top, min(left + side, image.width), min(top + side, image.height))
        return np.asarray(image.resize((self.size, self.size), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0))

    @property
    def seen(self) -> dict[str, Any]:
        """Which photograph it is of."""
        return {"kind": "photograph", "of": self.name}

    @property
    def caption(self) -> str:
        """Such as "a photograph of a cat."."""
        return f"a photograph of {PHOTOGRAPHS.get(self.name, self.name)}."


def any_photograph(rng: np.random.Generator, size: int = 32) -> PhotoPicture:
    """A piece of one of them, at least four tenths of its shorter side."""
    names = shipped()
    side = float(rng.uniform(0.4, 1.0))
    left, top = (float(rng.uniform(0, 1 - side)) for _ in range(2))
    return PhotoPicture(names[int(rng.integers(len(names)))], (left, top, side), size)
