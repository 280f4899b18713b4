"""Questions about a picture that never came, among questions about pictures that did: does a model know what it saw?

Half of the documents are asked for a frame that none of their pictures has; there "unknown" is right. So a model that
always says so, and one that never does, is right in at most half of the questions; both rates are in the tables
(``evals.tasks.images.tables``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from evals.tasks.images.documents import ImageDocument, ImageSource, shown
from evals.tasks.images.laid import CHANCE, Distractors, Plan, checked_ask, choices_of, random_kind
from evals.tasks.images.numbered import ImageTask
from evals.tasks.images.world import NAMES, UNKNOWN, asked, told

HOW = f'in one word, "{UNKNOWN}" if there was no such frame'


@dataclass(frozen=True)
class ImageUnanswerable(ImageTask):
    """One question a document, of a frame that was there or of one that was not.

    Attributes:
        images: framed digits in each document, 1 to 7, so that some frame is missing.
        absent: share of documents that are asked for a frame that is not there, evenly spread over their numbers.
        ask: "digit", "color" or "both" (one or the other, at random).
        distractors, sentences, kinds: as in ``evals.tasks.images.needle``.
        name: as in the registry.
    """

    images: int = 2
    absent: float = 0.5
    ask: str = "both"
    distractors: float = 4.0
    sentences: float = 4.0
    kinds: str = "digit+scene"
    name: str = "image_unanswerable"

    def __post_init__(self) -> None:
        checked_ask(self.ask)
        Distractors(self.distractors, self.sentences, self.kinds)
        if not 1 <= self.images < len(NAMES):
            raise ValueError(f"images: expected 1 to {len(NAMES) - 1}, got {self.images}; a frame must be missing")
        if not 0 <= self.absent <= 1:
            raise ValueError(f"absent: expected a share from 0 to 1, got {self.absent}; 0.5 balances the score")

    @property
    def chance(self) -> float:
        """The better of always saying "unknown" and of guessing what was seen."""
        asks = checked_ask(self.ask)
        return max(self.absent, (1 - self.absent) * sum(CHANCE[attribute] for attribute in asks) / len(asks))

    def _document(self, source: ImageSource, length: int, index: int) -> ImageDocument:
        plan = Plan(self.name, self.settings(), source, length, index)
        rng = plan.rng
        frames = [int(frame) for frame in rng.permutation(len(NAMES))]
        kinds = [random_kind(rng, frame) for frame in frames[: self.images]]
        around = Distractors(self.distractors, self.sentences, self.kinds).drawn(rng, length)
        document, places = plan.document(rng, kinds, around)
        said: dict[str, str] = {}
        for frame, kind in zip(frames, kinds, strict=False):
            digit, ink, _ = shown(kind)
            said |= {asked(a, frame): told(a, digit, ink) for a in checked_ask(self.ask)}
        asks = checked_ask(self.ask)
        attribute = asks[int(rng.integers(len(asks)))]
        absent = int((index + 1) * self.absent) > int(index * self.absent)
        frame = frames[self.images] if absent else frames[0]
        text = asked(attribute, frame)
        evidence = [] if absent else [document.evidence(places[0])]
        choices = (*choices_of(attribute), UNKNOWN)
        about = {"attribute": attribute, "answerable": not absent}
        answers = (said.get(text, UNKNOWN),)
        question = plan.question(text, answers, choices, evidence, how=HOW, about=about)
        return replace(document, questions=(question,), said=said, otherwise=UNKNOWN)
