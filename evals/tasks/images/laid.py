"""How the image tasks lay out a document: what is asked about, what distracts from it, and the words of a question.

Every task has the same two kinds of distractors, pictures that nobody asks about and sentences that speak of frames,
colours and digits; how many of them there are follows from rates a thousand tokens. Knows no single task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evals.tasks.base import Question
from evals.tasks.haystack import begin, check
from evals.tasks.images.documents import (
    PHOTOGRAPH,
    SCENE,
    SENTENCE,
    ImageDocument,
    ImageSource,
    Items,
    digit_kind,
    scattered,
)
from evals.tasks.images.documents import recipe as recipe_of
from evals.tasks.images.photographs import shipped
from evals.tasks.images.pool import checked_kinds
from evals.tasks.images.world import ATTRIBUTES, DIGITS, NAMES, SENTENCES, Picture

ASK = ("both", *ATTRIBUTES)
PROMPT = "\nAnswer {how}.\nQuestion: {question}\nAnswer:"  # for models that were not trained to answer
CHANCE = {"digit": 1 / len(DIGITS), "color": 1 / len(NAMES)}


@dataclass(frozen=True)
class Distractors:
    """What stands around that nobody asks about.

    Attributes:
        pictures: images without a frame, a thousand tokens.
        sentences: sentences about frames, colours and digits, a thousand tokens.
        kinds: what the pictures are: some of digit, scene and photograph, joined by "+".
    """

    pictures: float
    sentences: float
    kinds: str

    def __post_init__(self) -> None:
        if not (0 <= self.pictures <= 1000 and 0 <= self.sentences <= 1000):  # each takes a token or more
            raise ValueError(
                f"distractors: expected rates from 0 to 1,000 a thousand tokens, got {self.pictures} and "
                f"{self.sentences}; 0 leaves them out"
            )
        if not checked_kinds(tuple(self.kinds.split("+"))) or not self.kinds:
            raise ValueError("kinds: expected some of digit, scene, photograph, got none; set distractors to 0")

    def drawn(self, rng: np.random.Generator, length: int) -> np.ndarray:
        """Kinds of the distractors of a document of ``length`` tokens, in random order."""
        pictures, sentences = (int(rng.poisson(rate * length / 1000)) for rate in (self.pictures, self.sentences))
        among = self.kinds.split("+")
        if "photograph" in among and pictures:
            shipped()  # says at once what is missing
        which = rng.integers(len(among), size=pictures)
        digits = rng.integers(SCENE // (len(NAMES) + 1), size=pictures) * (len(NAMES) + 1)
        codes = {"scene": SCENE, "photograph": PHOTOGRAPH}
        drawn = [digit if among[w] == "digit" else codes[among[w]] for w, digit in zip(which, digits, strict=True)]
        return rng.permutation(
            np.array([*drawn, *(SENTENCE + rng.integers(SENTENCES, size=sentences))], dtype=np.int64)
        )


@dataclass(frozen=True)
class Plan:
    """A document to be laid out: its task's name and settings, its source, length and number."""

    name: str
    settings: Mapping[str, Any]
    source: ImageSource
    length: int
    index: int

    @property
    def rng(self) -> np.random.Generator:
        """All its randomness but that of pixels."""
        return np.random.default_rng((self.source.seed, self.index, self.length, *self.name.encode()))

    def document(
        self,
        rng: np.random.Generator,
        wanted: Sequence[int],
        around: np.ndarray,
        labels: Sequence[str | None] = (),
        given: Sequence[Picture] = (),
        depth: float | None = None,
    ) -> tuple[ImageDocument, list[int]]:
        """The document without questions, and the numbers that the ``wanted`` items have in it, in their order.

        Args:
            rng: for places.
            wanted: kinds of items that must be there.
            around: kinds of the distractors; those that do not fit are left out.
            labels: text in front of the wanted ones, then of those around.
            given: pictures, for kinds from ``GIVEN`` on.
            depth: where the only one that is wanted stands, 0 the start and 1 the end; None for anywhere.

        Raises:
            ValueError: a background shorter than the document, or a length too small for what is wanted.
        """
        assert depth is None or len(wanted) == 1
        check(self.source, self.length)
        names = {place: text for place, text in enumerate(labels) if text is not None}
        loose = Items(self.source, np.array([*wanted, *around], dtype=np.int64), (), labels=names)
        sizes = loose.sizes
        needed = int(sizes[: len(wanted)].sum())
        if needed > self.length:
            raise ValueError(
                f"length: expected at least {needed:,} tokens for the {len(wanted)} pictures of {self.name}, got "
                f"{self.length:,}; ask for longer documents or fewer pictures"
            )
        fits = len(wanted) + int(np.searchsorted(np.cumsum(sizes[len(wanted) :]), self.length - needed, side="right"))
        if depth is None:
            order = rng.permutation(fits)
            offsets = scattered(rng, self.length, sizes[order])
        else:
            order, offsets = _at_depth(rng, depth, self.length, sizes[:fits])
        back = {int(old): new for new, old in enumerate(order)}
        seed = (self.source.seed, self.index, self.length, *self.name.encode())
        items = Items(
            self.source,
            loose.kinds[order],
            seed,
            labels={back[old]: text for old, text in names.items() if old in back},
            given=given,
        )
        said = recipe_of(self.name, self.settings, self.source, self.length, self.index)
        start = begin(rng, self.source, self.length)
        made = ImageDocument(self.length, items, offsets, (), start, self.index, said)
        return made, [back[place] for place in range(len(wanted))]

    def question(
        self,
        text: str,
        answers: Sequence[str],
        choices: Sequence[str],
        evidence: Sequence[tuple[int, int]] = (),
        scorer: str = "image",
        how: str = "in one word",
        about: Mapping[str, Any] | None = None,
    ) -> Question:
        """A question in the words of the world, with a request where the source is not bare.

        A model that was trained to answer has learned the answer alone, not to stop behind it. So where the source is
        bare and there are choices, it says no more tokens than the right one has, or one that only begins like it:
        that another choice is longer must not make it say a word more, which would be wrong.
        """
        encode, most = self.source.encode, 16
        ids = encode(" " + text if self.source.bare else PROMPT.format(question=text, how=how))
        if self.source.bare:
            right, spelled = ([encode(" " + word).tolist() for word in words] for words in (answers, choices))
            alike = [len(said) for said in spelled if any(said[: len(one)] == one for one in right)]
            most = max(alike, default=most)
        return Question(
            self.name, text, ids, tuple(answers), scorer, choices=tuple(choices), max_tokens=most,
            evidence=tuple(evidence), about=about or {},
        )  # fmt: skip


def _at_depth(rng: np.random.Generator, depth: float, length: int, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order and offsets of items, the first of which stands at a depth, to the nearest token, the others around it.

    What finds no room on its side of it is left out.
    """
    size = int(sizes[0])
    at = int(depth * (length - size) + 0.5)
    front = 1 + np.flatnonzero(rng.random(len(sizes) - 1) < at / max(1, length - size))
    behind = np.setdiff1d(np.arange(1, len(sizes)), front)
    sides = []
    for numbers, room in ((front, at), (behind, length - at - size)):
        numbers = rng.permutation(numbers)
        sides.append(numbers[: int(np.searchsorted(np.cumsum(sizes[numbers]), room, side="right"))])
    before = scattered(rng, at, sizes[sides[0]])
    after = scattered(rng, length - at - size, sizes[sides[1]]) + at + size
    return np.concatenate([sides[0], [0], sides[1]]).astype(np.int64), np.concatenate([before, [at], after])


def checked_ask(ask: str) -> tuple[str, ...]:
    """The attributes that are asked about. Raises ValueError on an unknown one."""
    if ask not in ASK:
        raise ValueError(f"ask: expected one of {', '.join(ASK)}, got {ask!r}; name one of these")
    return ATTRIBUTES if ask == "both" else (ask,)


def choices_of(attribute: str) -> tuple[str, ...]:
    """The answers there are."""
    return DIGITS if attribute == "digit" else NAMES


def random_kind(rng: np.random.Generator, frame: int) -> int:
    """A digit of any kind in a frame."""
    return digit_kind(int(rng.integers(len(DIGITS))), int(rng.integers(len(NAMES))), frame)
