"""Models for the tests of image tasks: one that sees all there is to see, and one that reads only the text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evals.tasks.images.counting import PLURALS
from evals.tasks.images.documents import ImageSource
from evals.tasks.images.scoring import NUMBERS
from evals.tasks.images.world import DIGITS

from .small import IMAGE, Words, background, frame_of, ink_of

PER = 4


def source(words: Words, length: int = 6000, **settings: Any) -> ImageSource:
    return ImageSource(
        words.encode, words.decode, background(length), **{"image_token": IMAGE, "tokens_per_image": PER, **settings}
    )


@dataclass
class Seeing:
    """Remembers what every picture of a document shows, and the words in front of it; reads in segments.

    With ``eyes`` colours come from pixels, and only which digit it is from what the picture says of itself.
    """

    words: Words
    eyes: bool = False
    name: str = "seeing"
    segment: int | None = None
    answers: tuple[str, ...] | None = None
    controls: tuple[str, ...] = ("zeroed", "swapped")
    pictures: int = 0
    read_documents: list[Any] = field(default_factory=list)

    def fingerprint(self) -> str:
        return self.name

    def encode(self, text: str) -> np.ndarray:
        return self.words.encode(text)

    def decode(self, ids: np.ndarray) -> str:
        return self.words.decode(ids)

    def initial(self) -> tuple[dict[str, Any], ...]:
        return ()

    def read(self, documents: Sequence[Any]) -> list[tuple[dict[str, Any], ...]]:
        return [self._read(document) for document in documents]

    def _read(self, document: Any) -> tuple[dict[str, Any], ...]:
        self.read_documents.append(document)
        known = []
        for figure in document.figures(0, document.length):
            seen = {**figure.image.seen, "label": self.decode(document.tokens(figure.start, figure.at))}
            self.pictures += 1
            if self.eyes:
                image = figure.image()
                frame = frame_of(image)
                assert frame == seen.get("frame")
                if seen["kind"] == "digit":
                    seen |= {"frame": frame, "color": ink_of(image)}
            known.append(seen)
        return tuple(known)

    def score(self, state: Any, prompt: np.ndarray, continuations: Sequence[np.ndarray]) -> Any:
        raise NotImplementedError

    def generate(
        self, state: Any, prompts: Sequence[np.ndarray], max_tokens: int, stop: Sequence[str] = (), sampling: Any = None
    ) -> list[str]:
        return [self.solve(state, self.decode(prompt)) for prompt in prompts]

    def shuffled(self, state: Any, seed: int) -> Any:
        raise NotImplementedError

    def solve(self, state: Sequence[dict[str, Any]], asked: str) -> str:
        """The answer that the pictures give."""
        digits = [seen for seen in state if seen["kind"] == "digit"]
        if found := re.search(r"how many (\w+)( digits)? were there", asked):
            if found[2]:
                return NUMBERS[sum(seen["color"] == found[1] for seen in digits)]
            return NUMBERS[sum(seen["digit"] == DIGITS[PLURALS.index(found[1])] for seen in digits)]
        attribute = "digit" if "what digit" in asked else "color"
        if found := re.search(r"in the (\w+) frame", asked):
            right = [seen for seen in digits if seen["frame"] == found[1]]
        else:
            tag = re.search(r"in the picture of the (\w+)", asked)[1]
            right = [seen for seen in digits if seen["label"] == f"Picture of the {tag}:"]
        assert len(right) <= 1, "a question with two answers"
        return right[0][attribute] if right else "unknown"
