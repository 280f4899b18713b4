"""An image in a haystack: one framed digit at a depth of a long text, its digit and its color asked at the end.

Around it stand pictures without a frame and sentences about frames, colours and digits. Documents and depths are as in
``evals.tasks.needle``; digits are of the test split.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from evals.tasks.images.documents import ImageDocument, ImageSource, shown
from evals.tasks.images.laid import CHANCE, Distractors, Plan, checked_ask, choices_of, random_kind
from evals.tasks.images.numbered import ImageTask
from evals.tasks.images.world import NAMES, UNKNOWN, asked, told


@dataclass(frozen=True)
class ImageNeedle(ImageTask):
    """One framed digit at a grid of depths.

    Attributes:
        depths: how many depths the grid has; document i is at depth (i mod depths) / (depths - 1), and at the start
            where there is but one.
        ask: "digit", "color" or "both" (two questions a document).
        distractors: pictures without a frame, a thousand tokens.
        sentences: sentences about frames, colours and digits, a thousand tokens.
        kinds: what the distracting pictures are: some of digit, scene and photograph, joined by "+".
        name: as in the registry.
    """

    depths: int = 11
    ask: str = "both"
    distractors: float = 4.0
    sentences: float = 4.0
    kinds: str = "digit+scene"
    name: str = "image_needle"

    def __post_init__(self) -> None:
        checked_ask(self.ask)
        Distractors(self.distractors, self.sentences, self.kinds)
        if self.depths < 1:
            raise ValueError(f"depths: expected at least 1, got {self.depths}; 11 makes steps of a tenth")

    @property
    def chance(self) -> float:
        """One of ten digits, or of eight colours; the mean of both where both are asked."""
        asks = checked_ask(self.ask)
        return sum(CHANCE[attribute] for attribute in asks) / len(asks)

    def depth(self, index: int) -> float:
        """Depth of the picture in the document of this number, in [0, 1]."""
        return index % self.depths / max(1, self.depths - 1)

    def _document(self, source: ImageSource, length: int, index: int) -> ImageDocument:
        plan = Plan(self.name, self.settings(), source, length, index)
        rng = plan.rng
        frame = int(rng.integers(len(NAMES)))
        kind = random_kind(rng, frame)
        around = Distractors(self.distractors, self.sentences, self.kinds).drawn(rng, length)
        document, (place,) = plan.document(rng, [kind], around, depth=self.depth(index))
        digit, ink, _ = shown(kind)
        questions, said = [], {}
        for attribute in checked_ask(self.ask):
            text, answer = asked(attribute, frame), told(attribute, digit, ink)
            said[text] = answer
            about = {"attribute": attribute, "depth": self.depth(index), "frame": NAMES[frame]}
            choices = choices_of(attribute)
            questions.append(plan.question(text, (answer,), choices, [document.evidence(place)], about=about))
        return replace(document, questions=tuple(questions), said=said, otherwise=UNKNOWN)
