"""Several images in a long text, each told from the others by a tag, and asked for by it.

The tag is the colour of a frame, which must be seen, or words in front of the image ("Picture of the otter:"), which
must be bound to what is seen behind them. How well K pictures are kept apart is the capacity of a memory, so documents
hold 2, 4 and 8 of them in turn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from evals.tasks.images.documents import ImageDocument, ImageSource, shown
from evals.tasks.images.laid import CHANCE, Distractors, Plan, checked_ask, choices_of, random_kind
from evals.tasks.images.numbered import ImageTask
from evals.tasks.images.world import ANIMALS, NAMES, UNFRAMED, UNKNOWN, asked, asked_of, told

MOST = {"frame": len(NAMES), "text": len(ANIMALS)}


@dataclass(frozen=True)
class ImageTagged(ImageTask):
    """K tagged digits a document.

    Attributes:
        images: how many, "2+4+8" for documents with so many in turn; at most 8 with frames and 16 with words.
        tag: "frame", a coloured one, or "text", words in front of the image (which then has no frame).
        ask: "digit", "color" or "both".
        asked: pictures that are asked about in each document; 0 for all.
        distractors, sentences, kinds: as in ``evals.tasks.images.needle``.
        name: as in the registry.
    """

    images: str = "2+4+8"
    tag: str = "frame"
    ask: str = "both"
    asked: int = 0
    distractors: float = 4.0
    sentences: float = 4.0
    kinds: str = "digit+scene"
    name: str = "image_tagged"

    def __post_init__(self) -> None:
        checked_ask(self.ask)
        Distractors(self.distractors, self.sentences, self.kinds)
        if self.tag not in MOST:
            raise ValueError(f"tag: expected one of {', '.join(MOST)}, got {self.tag!r}; name one of these")
        if not all(1 <= count <= MOST[self.tag] for count in self.counts):
            raise ValueError(
                f"images: expected 1 to {MOST[self.tag]} with a tag of {self.tag}, got {self.images}; take fewer"
            )
        if self.asked < 0:
            raise ValueError(f"asked: expected at least 0, got {self.asked}; 0 asks about all pictures")

    @property
    def counts(self) -> tuple[int, ...]:
        """How many pictures documents have, in turn. Raises ValueError where that is no list of numbers."""
        try:
            return tuple(int(part) for part in self.images.split("+"))
        except ValueError:
            raise ValueError(
                f"images: expected numbers joined by +, such as 2+4+8, got {self.images!r}; write it so"
            ) from None

    @property
    def chance(self) -> float:
        """One of ten digits, or of eight colours; the mean of both where both are asked."""
        asks = checked_ask(self.ask)
        return sum(CHANCE[attribute] for attribute in asks) / len(asks)

    def _document(self, source: ImageSource, length: int, index: int) -> ImageDocument:
        plan = Plan(self.name, self.settings(), source, length, index)
        rng = plan.rng
        count = self.counts[index % len(self.counts)]
        tags = [int(tag) for tag in rng.permutation(MOST[self.tag])[:count]]
        kinds = [random_kind(rng, tag if self.tag == "frame" else UNFRAMED) for tag in tags]
        labels = [label(tag) if self.tag == "text" else None for tag in tags]
        around = Distractors(self.distractors, self.sentences, self.kinds).drawn(rng, length)
        document, places = plan.document(rng, kinds, around, labels)
        questions, said = [], {}
        chosen = rng.permutation(count)[: self.asked or count]
        for which, (tag, kind, place) in enumerate(zip(tags, kinds, places, strict=True)):
            digit, ink, _ = shown(kind)
            for attribute in checked_ask(self.ask):
                text = asked(attribute, tag) if self.tag == "frame" else asked_of(attribute, ANIMALS[tag])
                answer = told(attribute, digit, ink)
                said[text] = answer
                if np.isin(which, chosen):
                    about = {"attribute": attribute, "images": count}
                    evidence = [document.evidence(place)]
                    questions.append(plan.question(text, (answer,), choices_of(attribute), evidence, about=about))
        return replace(document, questions=tuple(questions), said=said, otherwise=UNKNOWN)


def label(tag: int) -> str:
    """The words in front of a picture."""
    return f"Picture of the {ANIMALS[tag]}:"
