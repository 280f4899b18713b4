"""Handwritten digits in ink of one of eight colours, with or without a coloured frame: real writing, drawn in a world.

The writing is scikit-learn's: 1,797 images of 8x8 pixels in 17 shades, the test part of the "Optical Recognition of
Handwritten Digits" data set of E. Alpaydin and C. Kaynak (UCI, 1998). A fixed permutation sets 500 of them apart for
tests; the 1,297 others are for training. No two of the 1,797 are equal. The set does not say who wrote what, so the
same hand may have written on both sides. Knows nothing of documents.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from evals.tasks.images.world import COLOURS, DIGITS, NAMES, UNFRAMED, captioned

TESTED = 500  # written digits set apart
SPLITS = ("train", "test")
_FRAME, _MARGIN, _HEIGHT = 3, 4, (18, 23)  # of an image of 32 pixels: frame, distance of ink, heights of a digit
_BASE = 32
SMALLEST = 16  # pixels; below, a frame and a digit are no longer to be told apart


@lru_cache(maxsize=1)
def written() -> tuple[Float[np.ndarray, "digits 8 8"], Int[np.ndarray, " digits"]]:
    """All written digits: shades in [0, 1], float32, and which digit each is.

    Raises ValueError where scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]
    except ImportError as error:
        raise ValueError(
            "digits: expected scikit-learn, got none; install it (pip install scikit-learn, or rmt-memory[offline])"
        ) from error
    found = load_digits()
    return (found.images / 16).astype(np.float32), found.target.astype(np.int64)


@lru_cache(maxsize=2)
def split(name: str) -> Int[np.ndarray, " digits"]:
    """Numbers of the written digits of "train" (1,297) or "test" (500). Raises ValueError on another name."""
    if name not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {name!r}; name one of these")
    # The legacy generator, because its stream is the one that numpy promises never to change (NEP 19).
    order = np.random.RandomState(0).permutation(len(written()[1]))
    return order[:TESTED] if name == "test" else order[TESTED:]


@lru_cache(maxsize=2)
def by_digit(name: str) -> tuple[Int[np.ndarray, " digits"], ...]:
    """The numbers of a split by which digit they are, 0 to 9."""
    labels = written()[1]
    return tuple(split(name)[labels[split(name)] == digit] for digit in range(len(DIGITS)))


def checked_size(size: int) -> int:
    """``size``, if an image of so many pixels can be drawn. Raises ValueError where not."""
    if size < SMALLEST:
        raise ValueError(f"size: expected at least {SMALLEST} pixels, got {size}; ask for larger images")
    return size


def draw(
    rng: np.random.Generator,
    glyph: Float[np.ndarray, "8 8"],
    ink: int,
    frame: int = UNFRAMED,
    size: int = _BASE,
    augment: bool = False,
) -> UInt8[np.ndarray, "size size 3"]:
    """One digit on a dark, noisy background, at a random place, of random size, aspect and rotation.

    Args:
        rng: all the randomness there is.
        glyph: shades of a written digit, in [0, 1].
        ink: index of its colour.
        frame: index of the frame's colour; -1 for none.
        size: pixels of both sides.
        augment: also bend, shear, and make strokes thinner or thicker; for training.
    """
    from PIL import Image

    scale = checked_size(size) / _BASE
    canvas = np.full((size, size, 3), float(rng.integers(5, 60))) + rng.normal(0, 4, (size, size, 3))
    margin = max(2, round(_MARGIN * scale))
    high = round(int(rng.integers(*_HEIGHT)) * scale)
    wide = int(np.clip(high * rng.uniform(0.85, 1.1), 14 * scale, size - 2 * margin - 1))
    high = min(high, size - 2 * margin - 1)
    stroke = Image.fromarray(np.uint8(np.round(glyph * 255))).resize((wide, high), Image.Resampling.BICUBIC)
    if augment:
        shear = float(rng.uniform(-0.2, 0.2))
        matrix = (1.0, shear, -shear * high / 2, 0.0, 1.0, 0.0)
        stroke = stroke.transform(stroke.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    stroke = stroke.rotate(float(rng.uniform(-10, 10)), Image.Resampling.BICUBIC)
    shades = np.asarray(stroke, dtype=np.float64) / 255
    if augment:
        shades = _bend(rng, shades) ** rng.uniform(0.7, 1.5)
    top = int(rng.integers(margin, size - margin - high + 1))
    left = int(rng.integers(margin, size - margin - wide + 1))
    colour = np.array(COLOURS[NAMES[ink]]) + rng.normal(0, 8, 3)
    part = canvas[top : top + high, left : left + wide]
    part += (colour - part) * shades[:, :, None]
    if frame != UNFRAMED:
        edge, thick = np.array(COLOURS[NAMES[frame]]) + rng.normal(0, 8, 3), max(1, round(_FRAME * scale))
        canvas[:thick] = canvas[-thick:] = canvas[:, :thick] = canvas[:, -thick:] = edge
    return np.clip(canvas, 0, 255).astype(np.uint8)


def _bend(rng: np.random.Generator, shades: np.ndarray) -> np.ndarray:
    """A mild elastic distortion: displacements of a coarse grid, smooth between its points."""
    from PIL import Image
    from scipy.ndimage import map_coordinates

    high, wide = shades.shape
    moved = rng.normal(0, 0.03 * high, (2, 3, 3)).astype(np.float32)
    fields = [np.asarray(Image.fromarray(part).resize((wide, high), Image.Resampling.BICUBIC)) for part in moved]
    rows, columns = np.mgrid[:high, :wide]
    return np.clip(map_coordinates(shades, [rows + fields[0], columns + fields[1]], order=1), 0, 1)


@dataclass(frozen=True)
class DigitPicture:
    """A drawn digit, by what it shows and the seed of how.

    Attributes:
        number: of the written digit, 0 to 1,796.
        ink, frame: indices of colours; frame -1 for none.
        seed: of everything random in it.
        size: pixels of both sides.
        augment: as for training.
    """

    number: int
    ink: int
    frame: int = UNFRAMED
    seed: tuple[int, ...] = (0,)
    size: int = _BASE
    augment: bool = False

    @property
    def digit(self) -> int:
        """Which digit it is."""
        return int(written()[1][self.number])

    def __call__(self) -> UInt8[np.ndarray, "height width 3"]:
        """The pixels."""
        rng = np.random.default_rng(self.seed)
        return draw(rng, written()[0][self.number], self.ink, self.frame, self.size, self.augment)

    @property
    def seen(self) -> dict[str, Any]:
        """Digit and colours in words; frame None where there is none."""
        frame = NAMES[self.frame] if self.frame != UNFRAMED else None
        return {"kind": "digit", "digit": DIGITS[self.digit], "color": NAMES[self.ink], "frame": frame}

    @property
    def caption(self) -> str:
        """Such as "a blue three in a red frame."."""
        return captioned(self.digit, self.ink, self.frame)


def any_digit(
    rng: np.random.Generator, which: str, frame: int = UNFRAMED, size: int = _BASE, digit: int | None = None
) -> DigitPicture:
    """A picture of a split: each digit and each ink as likely as the others."""
    digit = int(rng.integers(len(DIGITS))) if digit is None else digit
    seed = (int(rng.integers(1 << 62)),)
    return DigitPicture(
        int(rng.choice(by_digit(which)[digit])), int(rng.integers(len(NAMES))), frame, seed, size, which == "train"
    )
