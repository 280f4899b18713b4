"""How RULER's documents are laid out: filling, instructions, then a haystack with facts between its items.

An exact length is reached in front of all else, with the end of the benchmark's noise sentences: instructions, facts
and haystack stay whole, and nothing new stands between them and the question. Knows nothing of single tasks.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from evals.tasks.base import Question, Source
from evals.tasks.documents import Document, Insert
from evals.tasks.ruler.tables import Encode, Table, piece

VERSION = 1  # of the generators: part of every result's key
BLOCK = 1024  # items made together
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."


@dataclass(frozen=True)
class RulerDocument(Document):
    """A document with its ``recipe``: text from which all its tokens follow, so that it need not be hashed."""

    recipe: str | None


class Items:
    """A haystack of items, each some pieces of a table, made in blocks when read: a background of ``Document``.

    Args:
        table: the pieces.
        rows: from the number of a block to the pieces of its ``BLOCK`` items, int64 (items, pieces of each).
        room: tokens; as many whole items are taken as fit, if ``most`` does not say fewer.
        most: how many items there are at most.
    """

    def __init__(self, table: Table, rows: Callable[[int], np.ndarray], room: int, most: int | None = None) -> None:
        self.table, self.rows = table, rows
        starts, self.count = [0], 0
        while most is None or self.count < most:
            lengths = table.lengths[rows(len(starts) - 1)].sum(axis=1)[: None if most is None else most - self.count]
            fit = int(np.searchsorted(np.cumsum(lengths), room - starts[-1], side="right"))
            self.count += fit
            starts.append(starts[-1] + int(lengths[:fit].sum()))
            if fit < BLOCK:
                break
        self._starts = np.array(starts, dtype=np.int64)
        self._last: tuple[int, np.ndarray] = (-1, np.zeros(0, dtype=np.int64))

    def __len__(self) -> int:
        return int(self._starts[-1])

    def start(self, item: int) -> int:
        """Where an item begins."""
        block, within = divmod(item, BLOCK)
        return int(self._starts[block] + self.table.lengths[self.rows(block)[:within]].sum())

    def __getitem__(self, part: slice, /) -> Int[np.ndarray, " tokens"]:
        start, stop, _ = part.indices(len(self))
        parts = []
        block = int(np.searchsorted(self._starts, start, side="right")) - 1
        while start < stop:
            end = min(stop, int(self._starts[block + 1]))
            parts.append(self._block(block)[start - self._starts[block] : end - self._starts[block]])
            start, block = end, block + 1
        if stop == len(self):
            self._last = (-1, self._last[1][:0].copy())  # read to its end: a document that waits holds nothing
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    def _block(self, block: int) -> np.ndarray:
        if self._last[0] != block:  # segments are read in order, so one block is enough to remember
            self._last = (block, self.table.take(self.rows(block)[: self.count - block * BLOCK].ravel()))
        return self._last[1]


class Repeated:
    """One item again and again, as often as there is room; offers what ``Items`` does."""

    def __init__(self, unit: Int[np.ndarray, " tokens"], room: int) -> None:
        self.unit = unit
        self.count = max(0, room) // len(unit)

    def __len__(self) -> int:
        return self.count * len(self.unit)

    def start(self, item: int) -> int:
        """Where an item begins."""
        return item * len(self.unit)

    def __getitem__(self, part: slice, /) -> Int[np.ndarray, " tokens"]:
        start, stop, _ = part.indices(len(self))
        return self.unit[np.arange(start, stop) % len(self.unit)]


@dataclass(frozen=True)
class Plan:
    """What a document is made from: its task's name and settings, where its texts come from, its length and number."""

    name: str
    settings: Mapping[str, Any]
    source: Source
    length: int
    index: int

    @property
    def rng(self) -> np.random.Generator:
        """All its randomness."""
        return np.random.default_rng((self.source.seed, self.index, self.length, zlib.crc32(self.name.encode())))

    def recipe(self, text: str = "none") -> str | None:
        """Text from which, for one tokenizer, all tokens follow; None if ``text`` (a file's digest) is not known."""
        whole = {**self.settings, "seed": self.source.seed, "index": self.index, "length": self.length}
        whole |= {"task": self.name, "bare": self.source.bare, "text": text}
        return f"ruler {json.dumps(whole, sort_keys=True)}" if text else None

    def short(self, needed: int) -> ValueError:
        """The error where a document is too short."""
        return ValueError(
            f"length: expected at least {needed} tokens for what {self.name} must hold, got {self.length}; "
            "ask for longer documents" + ("" if self.source.bare else ", or bare ones, without instructions")
        )

    def ask(self, question: str, answers: Sequence[str], **how: Any) -> Question:
        """A question in the benchmark's words: ``lead`` before, ``prefix`` (the answer's beginning) behind."""
        lead, prefix = how.pop("lead", ""), how.pop("prefix", "")
        text = question if self.source.bare else lead + question + prefix
        how = {"scorer": "ruler_all", "stop": (), **how}  # the benchmark stops at nothing but the number of tokens
        return Question(self.name, question, self.source.encode(text), tuple(answers), **how)


def filling(encode: Encode, tokens: int) -> Int[np.ndarray, " tokens"]:
    """The last ``tokens`` tokens of the noise sentences, repeated."""
    unit = piece(encode, NOISE + "\n")
    return Repeated(unit, tokens + len(unit))[slice(None)][-tokens:] if tokens else unit[:0]


def lay_out(
    plan: Plan,
    header: Int[np.ndarray, " tokens"],
    haystack: Items | Repeated,
    facts: Sequence[tuple[int, str, np.ndarray]] = (),
) -> tuple[tuple[Insert, ...], list[tuple[int, int]]]:
    """Inserts of a document around its haystack, and the ranges [start, stop) of its facts.

    Args:
        plan: whose length is to be reached.
        header: ids of the instructions.
        haystack: must leave room for header and facts.
        facts: (item to stand before, text, ids), items rising.
    """
    spare = plan.length - len(header) - len(haystack) - sum(len(ids) for _, _, ids in facts)
    assert spare >= 0, "haystack fitted to the wrong room"
    inserts = [Insert(0, "", filling(plan.source.encode, spare), False), Insert(spare, "", header, False)]
    at, ranges = spare + len(header), []
    for item, text, ids in facts:
        start = at + haystack.start(item)
        inserts.append(Insert(start, text, ids, True))
        ranges.append((start, start + len(ids)))
        at += len(ids)
    return tuple(insert for insert in inserts if len(insert.ids)), ranges
