"""Drawn scenes: shapes of some colour and number at known places, or a short text, with captions and questions.

Each is a value (what stands where) from which pixels, caption and questions follow. Knows nothing of documents.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from evals.tasks.images.digits import checked_size
from evals.tasks.images.world import COLOURS, DIGITS, NAMES

SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")
PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
LETTERS = "ABCDEFGHKLMNPRSTUVXYZ"  # without those that a small font confuses
_FINE = 4  # drawn so many times larger, then reduced: smooth edges

# Corners of each shape in a circle of radius 1, x to the right, y down.
_CORNERS: dict[str, list[tuple[float, float]]] = {
    "square": [(-0.75, -0.75), (0.75, -0.75), (0.75, 0.75), (-0.75, 0.75)],
    "triangle": [(0, -0.95), (0.9, 0.75), (-0.9, 0.75)],
    "diamond": [(0, -1), (0.7, 0), (0, 1), (-0.7, 0)],
    "star": [
        (r * math.sin(math.pi * i / 5), -r * math.cos(math.pi * i / 5)) for i, r in enumerate((1.0, 0.42) * 5)
    ],
    "cross": [
        (-0.3, -0.9), (0.3, -0.9), (0.3, -0.3), (0.9, -0.3), (0.9, 0.3), (0.3, 0.3), (0.3, 0.9), (-0.3, 0.9),
        (-0.3, 0.3), (-0.9, 0.3), (-0.9, -0.3), (-0.3, -0.3),
    ],
}  # fmt: skip


@dataclass(frozen=True)
class Thing:
    """A shape (or "text", with what it says) of a colour at one of nine places."""

    shape: str
    colour: int
    place: int
    text: str = ""


@dataclass(frozen=True)
class ScenePicture:
    """A scene.

    Attributes:
        things: what is in it, each at a place of its own.
        seed: of background and jitter.
        size: pixels of both sides.
    """

    things: tuple[Thing, ...]
    seed: tuple[int, ...] = (0,)
    size: int = 32

    def __call__(self) -> UInt8[np.ndarray, "height width 3"]:
        """The pixels."""
        from PIL import Image, ImageDraw

        rng, fine = np.random.default_rng(self.seed), checked_size(self.size) * _FINE
        image = Image.new("RGB", (fine, fine), (int(rng.integers(5, 60)),) * 3)
        pen, alone = ImageDraw.Draw(image), len(self.things) == 1
        cell = fine / 3
        for thing in self.things:
            row, column = divmod(thing.place, 3)
            x, y = ((part + 0.5) * cell + rng.uniform(-0.06, 0.06) * cell for part in (column, row))
            radius = cell * (0.46 if alone else rng.uniform(0.36, 0.44))
            colour = tuple(
                int(c) for c in np.clip(np.array(COLOURS[NAMES[thing.colour]]) + rng.normal(0, 8, 3), 0, 255)
            )
            if thing.shape == "text":
                _write(pen, thing.text, (x, y), fine, colour)
            elif thing.shape == "circle":
                pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
            else:
                pen.polygon([(x + radius * a, y + radius * b) for a, b in _CORNERS[thing.shape]], fill=colour)
        small = np.asarray(image.resize((self.size, self.size), Image.Resampling.BOX), dtype=np.float64)
        return np.clip(small + rng.normal(0, 4, small.shape), 0, 255).astype(np.uint8)

    @property
    def seen(self) -> dict[str, Any]:
        """Every thing with its shape, color, place and text."""
        return {
            "kind": "scene",
            "things": [
                {"shape": t.shape, "color": NAMES[t.colour], "place": PLACES[t.place], "text": t.text}
                for t in self.things
            ],
        }

    @property
    def caption(self) -> str:
        """Such as "one red circle and two blue squares.", in the order of the places."""
        if not self.things:
            return "an empty scene."
        if self.things[0].shape == "text":
            return f"the text {self.things[0].text} in {NAMES[self.things[0].colour]}."
        parts = [
            f"{DIGITS[n]} {NAMES[colour]} {_plural(shape, n)}"
            for (shape, colour), n in Counter((t.shape, t.colour) for t in self.things).items()
        ]
        return (", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]) + "."

    def questions(self) -> tuple[tuple[str, str], ...]:
        """Every question that has one right answer, with it."""
        if self.things and self.things[0].shape == "text":
            (thing,) = self.things
            return ("what text was there?", thing.text.lower()), ("what color was the text?", NAMES[thing.colour])
        asks = []
        for shape in dict.fromkeys(t.shape for t in self.things):
            same = [t for t in self.things if t.shape == shape]
            asks.append((f"how many {_plural(shape, 2)} were there?", DIGITS[len(same)]))
            if len(same) == 1:
                asks.append((f"what color was the {shape}?", NAMES[same[0].colour]))
                asks.append((f"where was the {shape}?", PLACES[same[0].place]))
        for thing in self.things:
            asks.append((f"what shape was at the {PLACES[thing.place]}?", thing.shape))
        return tuple(asks)


def any_scene(rng: np.random.Generator, size: int = 32, most: int = 4, numerals: bool = False) -> ScenePicture:
    """A scene with up to ``most`` things (at most 9) of up to two shapes and colours, or (one in six) a short text.

    Texts hold letters, and numerals too where these cannot be taken for the digits that are asked about.
    """
    seed = (int(rng.integers(1 << 62)),)
    if rng.random() < 1 / 6:
        signs = LETTERS + "0123456789" * numerals
        text = "".join(signs[int(rng.integers(len(signs)))] for _ in range(int(rng.integers(1, 4))))
        return ScenePicture((Thing("text", int(rng.integers(len(NAMES))), 4, text),), seed, size)
    kinds = [(SHAPES[int(rng.integers(len(SHAPES)))], int(rng.integers(len(NAMES)))) for _ in range(2)]
    places = sorted(rng.permutation(len(PLACES))[: int(rng.integers(1, most + 1))].tolist())
    return ScenePicture(tuple(Thing(*kinds[int(rng.integers(2))], place) for place in places), seed, size)


def _write(pen: Any, text: str, at: tuple[float, float], fine: int, colour: Any) -> None:
    """Text as large as fits, in Pillow's own font."""
    from PIL import ImageFont

    font = ImageFont.load_default(size=0.8 * fine / max(1.4, 0.75 * len(text)))
    pen.text(at, text, fill=colour, font=font, anchor="mm")


def _plural(shape: str, count: int) -> str:
    return shape if count == 1 else shape + ("es" if shape.endswith("s") else "s")
