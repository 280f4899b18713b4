"""A stream of images, and how many of them showed a digit or a colour: what no single picture holds.

Right is the exact number; by how much an answer is wrong is kept beside it (``evals.tasks.images.tables``).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from evals.tasks.images.documents import ImageDocument, ImageSource, digit_kind
from evals.tasks.images.laid import Distractors, Plan, checked_ask
from evals.tasks.images.numbered import ImageTask
from evals.tasks.images.scoring import NUMBERS
from evals.tasks.images.world import DIGITS, NAMES, UNFRAMED

PLURALS = ("zeros", "ones", "twos", "threes", "fours", "fives", "sixes", "sevens", "eights", "nines")


def counted(attribute: str, value: int) -> str:
    """The question of how many there were: of a digit, or of a colour."""
    return (
        f"how many {PLURALS[value]} were there?"
        if attribute == "digit"
        else f"how many {NAMES[value]} digits were there?"
    )


@dataclass(frozen=True)
class ImageCounting(ImageTask):
    """Digits of which some number, every one as likely, is of the asked kind.

    Attributes:
        images: digits in each document.
        most: the greatest right answer; at most ``images``, and 20.
        ask: "digit" ("how many sevens were there?"), "color" ("how many red digits were there?") or "both".
        framed: share of the digits in a frame of any colour, which does not count.
        distractors, sentences: scenes, and sentences about frames, colours and digits, a thousand tokens.
        kinds: what the distracting pictures are, scene or photograph or both ("scene+photograph").
        name: as in the registry.
    """

    images: int = 12
    most: int = 6
    ask: str = "both"
    framed: float = 0.5
    distractors: float = 2.0
    sentences: float = 4.0
    kinds: str = "scene"
    name: str = "image_counting"

    def __post_init__(self) -> None:
        checked_ask(self.ask)
        Distractors(self.distractors, self.sentences, self.kinds)
        if "digit" in self.kinds:
            raise ValueError("kinds: expected scene or photograph, got digit, which would count; leave it out")
        if not 1 <= self.most <= min(self.images, len(NUMBERS) - 1):
            raise ValueError(
                f"most: expected 1 to {min(self.images, len(NUMBERS) - 1)}, got {self.most}; take fewer, or more images"
            )
        if not 0 <= self.framed <= 1:
            raise ValueError(f"framed: expected a share from 0 to 1, got {self.framed}; 0.5 frames half of them")

    @property
    def chance(self) -> float:
        """One of the numbers from 0 to ``most``."""
        return 1 / (self.most + 1)

    def _document(self, source: ImageSource, length: int, index: int) -> ImageDocument:
        plan = Plan(self.name, self.settings(), source, length, index)
        rng = plan.rng
        wanted = {attribute: int(rng.integers(n)) for attribute, n in (("digit", len(DIGITS)), ("color", len(NAMES)))}
        digits = self._with(rng, wanted["digit"], len(DIGITS))
        inks = self._with(rng, wanted["color"], len(NAMES))
        frames = np.where(rng.random(self.images) < self.framed, rng.integers(len(NAMES), size=self.images), UNFRAMED)
        kinds = [digit_kind(*map(int, shows)) for shows in zip(digits, inks, frames, strict=True)]
        around = Distractors(self.distractors, self.sentences, self.kinds).drawn(rng, length)
        document, places = plan.document(rng, kinds, around)
        told = {"digit": Counter(digits.tolist()), "color": Counter(inks.tolist())}
        said = {
            counted(attribute, value): NUMBERS[told[attribute][value]]
            for attribute, among in (("digit", DIGITS), ("color", NAMES))
            for value in range(len(among))
        }
        questions = []
        for attribute in checked_ask(self.ask):
            text = counted(attribute, wanted[attribute])
            shown = digits if attribute == "digit" else inks
            counts = [place for place, value in zip(places, shown, strict=True) if value == wanted[attribute]]
            evidence = [document.evidence(place) for place in sorted(counts)]
            about = {"attribute": attribute, "count": len(counts)}
            choices = NUMBERS[: self.most + 1]
            questions.append(plan.question(text, (said[text],), choices, evidence, "image_count", about=about))
        return replace(document, questions=tuple(questions), said=said)

    def _with(self, rng: np.random.Generator, value: int, among: int) -> np.ndarray:
        """A value for each image: the asked one for some number of them, any other for the rest."""
        others = (value + 1 + rng.integers(among - 1, size=self.images)) % among
        chosen = rng.permutation(self.images) < rng.integers(self.most + 1)
        return np.where(chosen, value, others)
