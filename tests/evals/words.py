"""A tokenizer of words, models of text that remember all or nothing, and a task, for the tests of the harness."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evals import Score
from evals.tasks.base import Question, Source
from evals.tasks.documents import Document, place


@dataclass
class Words:
    """A token a word; new words get new ids."""

    ids: dict[str, int] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    def encode(self, text: str) -> np.ndarray:
        for word in text.split():
            if word not in self.ids:
                self.ids[word] = len(self.names)
                self.names.append(word)
        return np.array([self.ids[word] for word in text.split()], dtype=np.int64)

    def decode(self, ids: Any) -> str:
        return " ".join(self.names[int(i)] for i in ids)


def source(words: Words, length: int = 5000, name: str = "w", **settings: Any) -> Source:
    """Background of made-up words, none of which says anything."""
    background = words.encode(" ".join(f"w{i}" for i in range(length)))
    return Source(words.encode, words.decode, background, digest=name, **settings)


@dataclass
class Remembers:
    """Its state is the text itself, of the last ``window`` tokens; it says the word behind the last "code" in it."""

    words: Words
    window: int | None = None
    name: str = "remembers"
    segment: int | None = None
    answers: tuple[str, ...] | None = None
    controls: tuple[str, ...] = ("zeroed", "swapped")
    reads: int = 0

    def fingerprint(self) -> str:
        return f"{self.name} {self.window}"

    def encode(self, text: str) -> np.ndarray:
        return self.words.encode(text)

    def decode(self, ids: np.ndarray) -> str:
        return self.words.decode(ids)

    def initial(self) -> str:
        return ""

    def read(self, documents: Sequence[Any]) -> list[str]:
        self.reads += len(documents)
        texts = [self.decode(document.tokens(0, document.length)[-(self.window or 0) :]) for document in documents]
        return texts

    def score(self, state: str, prompt: np.ndarray, continuations: Sequence[np.ndarray]) -> list[Score]:
        said = self._code(state)
        return [Score(0.0 if self.decode(ids) == said else -1.0, True, len(ids)) for ids in continuations]

    def generate(
        self, state: str, prompts: Sequence[np.ndarray], max_tokens: int, stop: Sequence[str] = (), sampling: Any = None
    ) -> list[str]:
        return [self._code(state) for _ in prompts]

    def shuffled(self, state: str, seed: int) -> str:
        raise NotImplementedError

    def _code(self, text: str) -> str:
        return text.rpartition("code")[2].split()[0] if "code" in text else "nothing"


@dataclass(frozen=True)
class Codes:
    """Hides "code N" somewhere in the text."""

    name: str = "codes"
    method: str = "generate"
    chance: float | None = None

    def settings(self) -> dict[str, Any]:
        return {"method": self.method}

    def documents(self, source: Source, length: int, count: int, first: int = 0) -> Iterator[Document]:
        for index in range(first, first + count):
            rng = np.random.default_rng((source.seed, index, length))
            answer = str(int(rng.integers(1000)))
            inserts = place(rng, length, [("code", source.encode(f"code {answer}"), True, False)])
            at = inserts[0].offset
            asked = Question(
                self.name, "Which code?", source.encode("Which code?"), (answer,), method=self.method,
                choices=("nothing", answer), evidence=((at, at + 2),),
            )  # fmt: skip
            yield Document(length, inserts, (asked,), source.background, int(rng.integers(1000)), index)
