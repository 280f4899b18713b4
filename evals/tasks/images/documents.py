"""Documents of an exact number of tokens with images in them, made as they are read: real text, never tiled.

In token ids an image is a run of ``tokens_per_image`` copies of one id, as Hugging Face's LLaVA has it. Of an item
(a picture with its label, or a sentence) a document holds two numbers, where it stands and which kind it is; pixels
and words follow from these and its seed. So a million tokens with thousands of pictures cost kilobytes until they are
read. Knows nothing of models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from evals.tasks.base import Question, Source
from evals.tasks.images.digits import DigitPicture, by_digit, checked_size
from evals.tasks.images.photographs import any_photograph
from evals.tasks.images.scenes import any_scene
from evals.tasks.images.world import DIGITS, NAMES, SENTENCES, UNFRAMED, Picture, sentence

# Kinds of items. Below SCENE: a digit, by what it shows; from GIVEN on: a picture that was made elsewhere.
SCENE = len(DIGITS) * len(NAMES) * (len(NAMES) + 1)
PHOTOGRAPH = SCENE + 1
SENTENCE = 1000
GIVEN = SENTENCE + SENTENCES


def digit_kind(digit: int, ink: int, frame: int = UNFRAMED) -> int:
    """The kind of an item that shows this digit in this ink and frame."""
    return (digit * len(NAMES) + ink) * (len(NAMES) + 1) + frame + 1


def shown(kind: int) -> tuple[int, int, int]:
    """Digit, ink and frame of the kind of a digit."""
    rest, frame = divmod(kind, len(NAMES) + 1)
    return (*divmod(rest, len(NAMES)), frame - 1)


@dataclass(frozen=True)
class ImageSource(Source):
    """What documents with images are made of.

    Attributes:
        image_token: id that stands for a part of an image; no text has it.
        tokens_per_image: how many of them an image is.
        size: pixels of both sides of drawn images, at least 16.
    """

    image_token: int = -1
    tokens_per_image: int = 0
    size: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_token < 0 or self.tokens_per_image < 1:
            raise ValueError(
                f"source: expected an image_token from 0 and tokens_per_image from 1, got {self.image_token} and "
                f"{self.tokens_per_image}; take those of the model"
            )
        checked_size(self.size)
        object.__setattr__(
            self,
            "digest",
            f"{self.digest}, images of {self.size} pixels as {self.tokens_per_image} x {self.image_token}",
        )

    @property
    def run(self) -> Int[np.ndarray, " tokens"]:
        """The tokens of an image."""
        return np.full(self.tokens_per_image, self.image_token, dtype=np.int64)


def with_images(source: Source, name: str) -> ImageSource:
    """``source``, if images can be put into its documents. Raises ValueError where not."""
    if not isinstance(source, ImageSource):
        raise ValueError(f"{name}: expected an ImageSource, for a model that sees, got text alone; take such a model")
    return source


class Placed(NamedTuple):
    """An image in a document.

    Attributes:
        start, stop: the tokens that must not be cut apart: the image with its label.
        at: where the run of its image tokens begins.
        image: gives the pixels when called, uint8 (height, width, 3); knows what is to be seen (see ``Picture``).
    """

    start: int
    stop: int
    at: int
    image: Picture


@dataclass(frozen=True)
class Items:
    """What is put into a document, by number.

    Attributes:
        source: tokenizer and shape of an image.
        kinds: of each item.
        seed: with an item's number, the randomness of its pixels.
        split: of the written digits, "train" or "test".
        labels: text in front of an image, by number of the item.
        given: pictures of the kinds from ``GIVEN`` on.
    """

    source: ImageSource
    kinds: Int[np.ndarray, " items"]
    seed: tuple[int, ...]
    split: str = "test"
    labels: Mapping[int, str] = field(default_factory=dict)
    given: Sequence[Picture] = ()

    def is_image(self, number: int) -> bool:
        """Whether the item is an image, not a sentence."""
        return not SENTENCE <= self.kinds[number] < GIVEN

    def label(self, number: int) -> Int[np.ndarray, " tokens"]:
        """Tokens of the label in front of an image; none where it has none."""
        text = self.labels.get(number)
        return np.zeros(0, dtype=np.int64) if text is None else self.source.encode(" " + text)

    def ids(self, number: int) -> Int[np.ndarray, " tokens"]:
        """All tokens of an item."""
        if self.is_image(number):
            return np.concatenate([self.label(number), self.source.run])
        return self.source.encode(" " + sentence(int(self.kinds[number]) - SENTENCE))

    def picture(self, number: int) -> Picture:
        """The picture of an item that is an image."""
        kind = int(self.kinds[number])
        if kind >= GIVEN:
            return self.given[kind - GIVEN]
        seed = (*self.seed, number)
        rng = np.random.default_rng(seed)
        if kind == SCENE:
            return any_scene(rng, self.source.size)
        if kind == PHOTOGRAPH:
            return any_photograph(rng, self.source.size)
        digit, ink, frame = shown(kind)
        written = int(rng.choice(by_digit(self.split)[digit]))
        return DigitPicture(written, ink, frame, (*seed, 1), self.source.size, self.split == "train")

    @cached_property
    def sizes(self) -> Int[np.ndarray, " items"]:
        """Tokens of each item."""
        known: dict[int, int] = {}
        sizes = np.full(len(self.kinds), self.source.tokens_per_image, dtype=np.int64)
        for number in np.flatnonzero((self.kinds >= SENTENCE) & (self.kinds < GIVEN)).tolist():
            kind = int(self.kinds[number])
            if kind not in known:
                known[kind] = len(self.ids(number))
            sizes[number] = known[kind]
        for labelled in self.labels:
            sizes[labelled] += len(self.label(labelled))
        return sizes


@dataclass(frozen=True)
class ImageDocument:
    """A document of exactly ``length`` tokens with images, made as it is read.

    Attributes:
        length: tokens in all, those of images included.
        items: pictures and sentences in it.
        offsets: where each item begins, rising, none inside another.
        questions: what to ask at the end.
        start: where in the background the text around the items begins.
        index: its number under its seed.
        recipe: text from which, for one tokenizer, all tokens and pixels follow.
        said: what this document answers to a question, by its words; ``otherwise`` to all other questions.
    """

    length: int
    items: Items
    offsets: Int[np.ndarray, " items"]
    questions: tuple[Question, ...]
    start: int
    index: int
    recipe: str
    said: Mapping[str, str] = field(default_factory=dict)
    otherwise: str = ""

    @cached_property
    def _ends(self) -> Int[np.ndarray, " items"]:
        """The token behind each item."""
        return self.offsets + self.items.sizes

    @cached_property
    def _text_before(self) -> Int[np.ndarray, " items"]:
        """Tokens of background in front of each item."""
        return self._ends - np.cumsum(self.items.sizes)

    def tokens(self, begin: int = 0, end: int | None = None) -> Int[np.ndarray, " tokens"]:
        """Token ids from ``begin`` to ``end``, int64."""
        end = self.length if end is None else min(end, self.length)
        if begin >= end:
            return np.zeros(0, dtype=np.int64)
        first, last = self._overlapping(begin, end)
        parts, at = [], begin
        for number in range(first, last):
            offset, stop = self.evidence(number)
            if offset > at:
                parts.append(self._text(at, offset, number))
            begins = max(at, offset)
            parts.append(self.items.ids(number)[begins - offset : min(stop, end) - offset])
            at = min(stop, end)
        if at < end:
            parts.append(self._text(at, end, last))
        return np.concatenate(parts)

    def figures(self, begin: int = 0, end: int | None = None) -> tuple[Placed, ...]:
        """The images of which a token, or one of the label, is between ``begin`` and ``end``, in order."""
        end = self.length if end is None else min(end, self.length)
        found = []
        for number in range(*self._overlapping(begin, end)) if begin < end else ():
            if self.items.is_image(number):
                start, stop = self.evidence(number)
                at = stop - self.items.source.tokens_per_image
                found.append(Placed(start, stop, at, self.items.picture(number)))
        return tuple(found)

    def gives_away(self, other: Any) -> bool:
        """Whether this document answers a question of ``other`` as that one does: then it is no control for it."""
        return any(self.said.get(asked.text, self.otherwise) in asked.answers for asked in other.questions)

    def evidence(self, number: int) -> tuple[int, int]:
        """The tokens of an item."""
        return int(self.offsets[number]), int(self._ends[number])

    def _overlapping(self, begin: int, end: int) -> tuple[int, int]:
        """Numbers of the first item that ends behind ``begin`` and of the first that begins at ``end`` or later."""
        first = int(np.searchsorted(self._ends, begin, side="right"))
        return first, max(first, int(np.searchsorted(self.offsets, end, side="left")))

    def _text(self, begin: int, end: int, number: int) -> np.ndarray:
        """Background between two items, of which the second one is ``number``."""
        if number < len(self.offsets):
            first = int(self._text_before[number]) - (int(self.offsets[number]) - begin)
        else:
            first = begin - int(self.items.sizes.sum())
        source = self.start + first
        return np.asarray(self.items.source.background[source : source + end - begin], dtype=np.int64)


def recipe(name: str, settings: Mapping[str, Any], source: ImageSource, length: int, index: int) -> str:
    """Text from which, for one tokenizer, a document follows."""
    whole = {**settings, "task": name, "seed": source.seed, "index": index, "length": length, "text": source.digest}
    return f"images {json.dumps({**whole, 'bare': source.bare}, sort_keys=True)}"


def scattered(rng: np.random.Generator, length: int, sizes: Int[np.ndarray, " items"]) -> Int[np.ndarray, " items"]:
    """Offsets for items in their order, anywhere among ``length`` tokens, none inside another.

    Raises ValueError where they do not fit.
    """
    room = length - int(sizes.sum())
    if room < 0:
        raise ValueError(
            f"length: expected room for {len(sizes)} images and sentences ({sizes.sum():,} tokens), got {length:,}; "
            "ask for longer documents or fewer of them"
        )
    return np.sort(rng.integers(room + 1, size=len(sizes))) + np.cumsum(sizes) - sizes
