"""Pictures drawn once and used often: what training draws from, with what is to be seen in each.

Drawing a digit takes half a millisecond, taking one from a pool a microsecond; and what an encoder says of a picture
can be kept beside the pool, by number. Knows nothing of documents.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int, UInt8

from evals.tasks.images.digits import any_digit, checked_size
from evals.tasks.images.photographs import any_photograph
from evals.tasks.images.scenes import any_scene
from evals.tasks.images.world import NAMES, UNFRAMED, Picture

KINDS = ("digit", "scene", "photograph")  # of a picture without a frame; also the number kept for each
FRAMED = 0.7  # share of the pictures that have a frame, where nothing else is asked for


@dataclass(frozen=True)
class Pool:
    """Pictures by number.

    Attributes:
        images: pixels.
        digit, ink, frame: what is to be seen; -1 where there is none.
        captions: the same in words.
    """

    images: UInt8[np.ndarray, "pictures height width 3"]
    digit: Int[np.ndarray, " pictures"]
    ink: Int[np.ndarray, " pictures"]
    frame: Int[np.ndarray, " pictures"]
    captions: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def framed(self) -> tuple[Int[np.ndarray, " found"], ...]:
        """Numbers of the pictures with each colour of frame."""
        return tuple(np.flatnonzero(self.frame == frame) for frame in range(len(NAMES)))

    @cached_property
    def unframed(self) -> Int[np.ndarray, " found"]:
        """Numbers of the pictures without a frame, digits or not."""
        return np.flatnonzero(self.frame == UNFRAMED)


def checked_kinds(kinds: tuple[str, ...]) -> tuple[str, ...]:
    """``kinds``, if all are known. Raises ValueError where not."""
    if unknown := sorted(set(kinds) - set(KINDS)):
        raise ValueError(f"kinds: expected some of {', '.join(KINDS)}, got {', '.join(unknown)}; leave it out")
    return kinds


def any_unframed(rng: np.random.Generator, which: str, kind: str, size: int) -> Picture:
    """A picture without a frame, of one of :data:`KINDS`."""
    if kind == "digit":
        return any_digit(rng, which, UNFRAMED, size)
    return any_scene(rng, size) if kind == "scene" else any_photograph(rng, size)


def draw_pool(
    count: int,
    which: str = "train",
    seed: int = 0,
    size: int = 32,
    kinds: tuple[str, ...] = ("digit", "scene"),
    framed: float = FRAMED,
) -> Pool:
    """``count`` pictures of a split of the written digits; about half a millisecond each.

    Args:
        count: pictures, at least 1.
        which: "train" (bent and sheared as well) or "test".
        seed: all the randomness there is.
        size: pixels of both sides.
        kinds: what there is without a frame, each as often as the others.
        framed: share of framed digits; each colour of frame is as often there as the others, to within one.
    """
    if count < 1:
        raise ValueError(f"pool: expected at least 1 picture, got {count}; thousands are usual")
    checked_size(size)
    if not checked_kinds(kinds) and framed < 1:
        raise ValueError(f"kinds: expected some of {', '.join(KINDS)}, got none; name one, or frame all")
    rng = np.random.default_rng((seed, count, size))
    images = np.zeros((count, size, size, 3), dtype=np.uint8)
    labels = np.full((count, 3), -1, dtype=np.int64)
    captions = []
    for number in range(count):
        # In turn, so that no colour of frame is missing from a small pool; the order means nothing.
        picture: Picture
        if int((number + 1) * framed) > int(number * framed):
            picture = any_digit(rng, which, int(number * framed) % len(NAMES), size)
        else:
            picture = any_unframed(rng, which, kinds[int(rng.integers(len(kinds)))], size)
        images[number] = picture()
        captions.append(picture.caption)
        labels[number] = [getattr(picture, name, -1) for name in ("digit", "ink", "frame")]
    return Pool(images, labels[:, 0], labels[:, 1], labels[:, 2], tuple(captions))
