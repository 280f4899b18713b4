"""Needle in a haystack: facts hidden at a grid of depths in documents of any length, one of them asked.

After G. Kamradt (github.com/gkamradt/LLMTest_NeedleInAHaystack), who moved one sentence through depths and lengths.
Here there may be many needles, of which one is asked; the others stand at any token and distract. Depth is exact to
a token: no looking for the end of a sentence, so a needle may stand in the middle of one and a segment border may cut
it. Text is never tiled. ``evals.positions`` finds depth and distance again from ``Question.evidence``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from evals.tasks.base import Question, Source
from evals.tasks.documents import Document
from evals.tasks.haystack import around, begin, check, offset
from evals.tasks.memory import PEOPLE, PLACES, location

ADJECTIVES = (
    "amber", "brave", "calm", "clever", "cold", "copper", "distant", "early", "fancy", "gentle", "golden", "green",
    "happy", "heavy", "hidden", "honest", "humble", "icy", "jolly", "kind", "late", "little", "lonely", "lucky",
    "modest", "narrow", "noble", "odd", "pale", "proud", "quiet", "rapid", "rough", "silent", "silver", "simple",
    "sleepy", "stormy", "tall", "young",
)  # fmt: skip
NOUNS = (
    "anchor", "apple", "arrow", "basket", "beacon", "bridge", "candle", "canyon", "castle", "cloud", "desert", "eagle",
    "engine", "falcon", "feather", "forest", "fountain", "harbor", "island", "kettle", "ladder", "lantern", "lemon",
    "marble", "meadow", "mirror", "mountain", "needle", "ocean", "orchard", "paper", "pebble", "pillow", "planet",
    "raven", "river", "saddle", "shadow", "valley", "window",
)  # fmt: skip
# Kamradt's needle and question, as they are; behind them the parts that an answer must have.
SAN_FRANCISCO = (
    "\nThe best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny day.\n",
    "What is the best thing to do in San Francisco?",
    ("eat a sandwich", "sit in Dolores Park", "sunny day"),
)
# Ours, to distract from it: the same sentence of other cities.
CITIES = (
    ("Lisbon", "ride a tram up the hill and look at the river at dusk"),
    ("Oslo", "take the ferry to an island and swim before breakfast"),
    ("Kyoto", "walk along the canal and drink tea in the rain"),
    ("Chicago", "rent a bicycle and follow the lake to the north"),
    ("Vienna", "order a slice of cake and read all the newspapers"),
    ("Nairobi", "get up early and watch giraffes from the train"),
    ("Lima", "have lunch at the market and see the ocean from the cliffs"),
)
KINDS = ("numbers", "san_francisco", "places")
_MOST = {"numbers": len(ADJECTIVES) * len(NOUNS), "san_francisco": 1 + len(CITIES), "places": len(PEOPLE)}


@dataclass(frozen=True)
class _Needle:
    """What is hidden, and what would be asked of it."""

    text: str
    asked: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Needle:
    """Needles at a grid of depths.

    Attributes:
        needles: how many are hidden; one is asked, the others distract.
        depths: how many depths the grid has; document i is at depth (i mod depths) / (depths - 1), and at the start
            where there is but one. 0 is the first token, 1 leaves nothing behind the needle.
        kind: "numbers" gives each of some keys a number of seven digits; "san_francisco" is Kamradt's own sentence,
            whose answer is the same in all documents (so it has no swapped control); "places" says where people went,
            in the words of ``evals.tasks.memory``, and gives the places to choose from.
        name: as in the registry.
    """

    needles: int = 1
    depths: int = 11
    kind: str = "numbers"
    name: str = "needle"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {self.kind!r}; name one of these")
        if not 1 <= self.needles <= _MOST[self.kind]:
            raise ValueError(f"needles: expected 1 to {_MOST[self.kind]} of {self.kind}, got {self.needles}; hide less")
        if self.depths < 1:
            raise ValueError(f"depths: expected at least 1, got {self.depths}; 11 makes steps of a tenth")

    @property
    def chance(self) -> float | None:
        """One of the places; a number or a sentence cannot be guessed."""
        return 1 / len(PLACES) if self.kind == "places" else None

    def settings(self) -> Mapping[str, Any]:
        """The fields."""
        return asdict(self)

    def depth(self, index: int) -> float:
        """Depth of the asked needle in the document of this number, in [0, 1]."""
        return index % self.depths / max(1, self.depths - 1)

    def documents(self, source: Source, length: int, count: int, first: int = 0) -> Iterator[Document]:
        """``count`` documents from number ``first`` on; a multiple of ``depths`` fills the grid evenly.

        Raises ValueError where the background is shorter, or the needles do not fit at their depth.
        """
        check(source, length)
        return (self._document(source, length, index) for index in range(first, first + count))

    def _document(self, source: Source, length: int, index: int) -> Document:
        rng = np.random.default_rng((source.seed, index, length))
        make = {"numbers": self._numbers, "san_francisco": self._san_francisco, "places": self._places}[self.kind]
        hidden = make(rng)
        # A needle that brings no white space of its own gets the space that stands before a word.
        texts = [needle.text if needle.text[0].isspace() else " " + needle.text for needle in hidden]
        asked, *others = [(text, source.encode(text)) for text in texts]
        at = offset(self.depth(index), length, len(asked[1]))
        inserts = around(rng, length, asked, at, others, keep=True)
        question = self._question(source, hidden[0], (at, at + len(asked[1])))
        return Document(length, inserts, (question,), source.background, begin(rng, source, length), index)

    def _question(self, source: Source, needle: _Needle, evidence: tuple[int, int]) -> Question:
        text = needle.asked
        if source.bare:
            prompt = " " + text
        elif self.kind == "san_francisco":  # his words; the system message that goes with them stood before the text
            prompt = f"\n{text} Don't give information outside the document or repeat your findings\n"
        else:
            prompt = f"\nAnswer in one word from the text above.\nQuestion: {text}\nAnswer:"
        scorer, choices, most, stop = {
            "numbers": ("needle", (), 16, ("\n",)),
            "san_francisco": ("needle_phrases", (), 64, ()),
            "places": ("needle_place", PLACES, 16, ("\n",)),
        }[self.kind]
        return Question(
            self.name, text, source.encode(prompt), needle.answers, scorer=scorer, choices=choices, max_tokens=most,
            stop=stop, evidence=(evidence,),
        )  # fmt: skip

    # One function for each kind: all needles of a document, the asked one first.

    def _numbers(self, rng: np.random.Generator) -> list[_Needle]:
        numbers: dict[int, None] = {}
        while len(numbers) < self.needles:
            numbers.setdefault(int(rng.integers(1_000_000, 10_000_000)))
        keys = rng.permutation(len(ADJECTIVES) * len(NOUNS))[: self.needles]
        hidden = []
        for key, value in zip(keys, numbers, strict=True):
            word = f"{ADJECTIVES[key // len(NOUNS)]} {NOUNS[key % len(NOUNS)]}"
            fact = f"The special magic number for {word} is {value}."
            hidden.append(_Needle(fact, f"What is the special magic number for {word}?", (str(value),)))
        return hidden

    def _san_francisco(self, rng: np.random.Generator) -> list[_Needle]:
        others = [CITIES[i] for i in rng.permutation(len(CITIES))[: self.needles - 1]]
        facts = [f"\nThe best thing to do in {city} is {thing}.\n" for city, thing in others]
        return [_Needle(*SAN_FRANCISCO), *(_Needle(fact, "", ()) for fact in facts)]

    def _places(self, rng: np.random.Generator) -> list[_Needle]:
        hidden = []
        for person in rng.permutation(PEOPLE)[: self.needles]:
            where = int(rng.integers(len(PLACES)))
            fact, asked = location(rng, str(person), where)
            hidden.append(_Needle(fact, asked, (PLACES[where],)))
        return hidden
