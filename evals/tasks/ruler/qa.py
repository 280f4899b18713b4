"""RULER's question answering (scripts/data/synthetic/qa.py of NVIDIA/RULER): ``qa_1`` on SQuAD, ``qa_2`` on HotpotQA.

The paragraphs that answer a question stand among others of the same file, in a random order. Files are the user's:
SQuAD's dev-v2.0.json (or 1.1) and HotpotQA's hotpot_dev_distractor_v1.json, as their sites offer them. Paragraphs are
not repeated where a file is short (the benchmark repeats them), and the last is cut where the length ends.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from evals.tasks.base import Source
from evals.tasks.documents import Insert
from evals.tasks.ruler.layout import VERSION, Plan, RulerDocument
from evals.tasks.ruler.tables import piece

INSTRUCTION = (
    "Answer the question based on the given documents. Only give me the answer and do not output any other words.\n\n"
)
HEADER = INSTRUCTION + "The following are given documents.\n\n"
LEAD = "\n\n" + INSTRUCTION + "Question: "
PREFIX = " Answer:"
OFFICIAL = {"qa_1": "SQuAD's dev-v2.0.json", "qa_2": "HotpotQA's hotpot_dev_distractor_v1.json"}
_KEPT = 4096  # paragraphs whose ids are remembered


@dataclass(frozen=True)
class Asked:
    """A question of a file: its paragraphs, more of the same article, and those of them that hold the answer."""

    text: str
    answers: tuple[str, ...]
    paragraphs: tuple[int, ...]
    more: tuple[int, ...]
    needed: tuple[int, ...]


@dataclass(frozen=True)
class QuestionAnswering:
    """``qa_1`` (SQuAD) or ``qa_2`` (HotpotQA).

    Attributes:
        name: which.
        files: path of the official JSON file.
    """

    name: str = "qa_1"
    files: str = ""

    def __post_init__(self) -> None:
        if self.name not in OFFICIAL:
            raise ValueError(f"name: expected qa_1 or qa_2, got {self.name!r}; name one of these")

    @property
    def chance(self) -> float | None:
        """None: answers are free text."""
        return None

    def settings(self) -> Mapping[str, Any]:
        """Name and the file's digest. Raises ValueError where there is no such file."""
        return {"version": VERSION, "name": self.name, "file": self._digest}

    def documents(self, source: Source, length: int, count: int, first: int = 0) -> Iterator[RulerDocument]:
        """Documents about the file's questions ``first`` and on, in its order, as in the benchmark.

        Raises ValueError where there is no file of this kind, it has fewer questions or too few paragraphs, or a
        question's own paragraphs do not fit.
        """
        asked, texts = self._read
        if first + count > len(asked):
            raise ValueError(
                f"{self.files}: expected at least {first + count} questions, got {len(asked)}; ask for fewer documents"
            )
        paragraphs = _Paragraphs(source, texts)
        for index in range(first, first + count):
            plan = Plan(self.name, self.settings(), source, length, index)
            yield _document(plan, asked[index], paragraphs)

    @cached_property
    def _text(self) -> bytes:
        path = Path(self.files)
        if not self.files or not path.is_file():
            raise ValueError(
                f"{self.name}: expected files= the path of {OFFICIAL[self.name]}, got {self.files or 'nothing'!r}; "
                "download it from its site and name it"
            )
        return path.read_bytes()

    @cached_property
    def _digest(self) -> str:
        return hashlib.sha256(self._text).hexdigest()[:16]

    @cached_property
    def _read(self) -> tuple[list[Asked], list[str]]:
        try:
            data = json.loads(self._text)
            return _squad(data) if self.name == "qa_1" else _hotpot(data)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ValueError(
                f"{self.files}: expected the layout of {OFFICIAL[self.name]}, got {type(error).__name__}: {error}; "
                "give the official file"
            ) from None


def _squad(data: Any) -> tuple[list[Asked], list[str]]:
    """Questions that have an answer, and all paragraphs once each, sorted as in the benchmark."""
    texts = sorted({part["context"] for article in data["data"] for part in article["paragraphs"]})
    place = {text: number for number, text in enumerate(texts)}
    asked = []
    for article in data["data"]:
        own = [place[part["context"]] for part in article["paragraphs"]]
        for part in article["paragraphs"]:
            here = place[part["context"]]
            more = tuple(number for number in dict.fromkeys(own) if number != here)
            for question in part["qas"]:
                if not question.get("is_impossible", False):
                    answers = tuple(dict.fromkeys(answer["text"] for answer in question["answers"]))
                    asked.append(Asked(question["question"], answers, (here,), more, (here,)))
    return asked, texts


def _hotpot(data: Any) -> tuple[list[Asked], list[str]]:
    """All questions, and all paragraphs (title, line end, sentences) once each, sorted as in the benchmark."""
    texts = sorted({_titled(*part) for item in data for part in item["context"]})
    place = {text: number for number, text in enumerate(texts)}
    asked = []
    for item in data:
        own = {title: place[_titled(title, said)] for title, said in item["context"]}
        needed = [own[title] for title, _ in item.get("supporting_facts", []) if title in own]
        paragraphs = tuple(dict.fromkeys(own.values()))
        asked.append(
            Asked(item["question"], (item["answer"],), paragraphs, (), tuple(dict.fromkeys(needed)) or paragraphs)
        )
    return asked, texts


def _titled(title: str, sentences: list[str]) -> str:
    return f"{title}\n{''.join(sentences)}"


@dataclass(frozen=True)
class Pages(RulerDocument):
    """Paragraphs; ``needed``: those that hold the answer; ``holds``: all there are."""

    needed: tuple[int, ...] = ()
    holds: frozenset[int] = frozenset()

    def gives_away(self, other: Any) -> bool:
        """Whether it holds a paragraph that answers ``other``, so that its memory is no control of it."""
        return isinstance(other, Pages) and not self.holds.isdisjoint(other.needed)


class _Paragraphs:
    """Token ids of paragraphs, made when asked for; lengths are remembered, of ids the last few thousand."""

    def __init__(self, source: Source, texts: list[str]) -> None:
        self.source, self.texts = source, texts
        self._lengths: dict[int, int] = {}
        self.ids = lru_cache(maxsize=_KEPT)(self._ids)
        self.head = lru_cache(maxsize=_KEPT)(self._head)

    def _ids(self, number: int) -> np.ndarray:
        return piece(self.source.encode, self.texts[number] + "\n\n", after="Document")

    def _head(self, place: int) -> np.ndarray:
        return piece(self.source.encode, f"Document {place}:\n")

    def length(self, number: int) -> int:
        if number not in self._lengths:
            self._lengths[number] = len(self.ids(number))
        return self._lengths[number]


class _Stack:
    """Paragraphs under their numbers, one behind the other: a background of ``Document``. The last may be cut."""

    def __init__(self, paragraphs: _Paragraphs, order: list[int], room: int) -> None:
        self.paragraphs, self.order, self.room = paragraphs, order, room
        lengths = [len(paragraphs.head(n)) + paragraphs.length(number) for n, number in enumerate(order, start=1)]
        self.starts = np.concatenate([[0], np.cumsum(lengths)])

    def __len__(self) -> int:
        return self.room

    def __getitem__(self, part: slice, /) -> Int[np.ndarray, " tokens"]:
        start, stop, _ = part.indices(self.room)
        parts = [np.zeros(0, dtype=np.int64)]
        n = int(np.searchsorted(self.starts, start, side="right")) - 1
        while start < stop:
            ids = np.concatenate([self.paragraphs.head(n + 1), self.paragraphs.ids(self.order[n])])
            parts.append(ids[start - self.starts[n] : stop - self.starts[n]])
            start, n = int(self.starts[n + 1]), n + 1
        return np.concatenate(parts)


def _document(plan: Plan, asked: Asked, paragraphs: _Paragraphs) -> RulerDocument:
    rng, encode = plan.rng, plan.source.encode
    header = piece(encode, "" if plan.source.bare else HEADER, after="Document")
    room = plan.length - len(header)
    whole = list(asked.paragraphs)
    used = sum(len(paragraphs.head(n)) + paragraphs.length(number) for n, number in enumerate(whole, start=1))
    if used > room:
        raise plan.short(plan.length - room + used)
    own = {*asked.paragraphs, *asked.more}
    others = (int(n) for n in rng.permutation(len(paragraphs.texts)) if int(n) not in own)
    cut = None
    for number in (*rng.permutation(asked.more).astype(int).tolist(), *others):
        size = len(paragraphs.head(len(whole) + 1)) + paragraphs.length(number)
        if used + size > room:
            cut = number
            break
        whole.append(number)
        used += size
    if cut is None and used < room:
        raise ValueError(
            f"{plan.name}: expected a file with {room} tokens of paragraphs, got {used}; "
            "give a larger one (such as that for training) or ask for shorter documents: nothing is repeated"
        )
    order = [whole[int(n)] for n in rng.permutation(len(whole))] + ([] if cut is None else [cut])
    stack = _Stack(paragraphs, order, room)
    ranges = [
        (len(header) + int(a), len(header) + int(b)) for a, b in zip(stack.starts, stack.starts[1:], strict=False)
    ]
    question = plan.ask(
        asked.text,
        asked.answers,
        scorer="ruler_part",
        lead=LEAD,
        prefix=PREFIX,
        max_tokens=32,
        evidence=tuple(span for span, number in zip(ranges, order, strict=True) if number in asked.needed),
    )
    inserts = (Insert(0, "", header, False),) if len(header) else ()
    recipe = plan.recipe(plan.settings["file"])
    return Pages(
        plan.length, inserts, (question,), stack, 0, plan.index, recipe, needed=asked.needed, holds=frozenset(order)
    )
