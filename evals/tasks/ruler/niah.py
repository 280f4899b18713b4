"""RULER's eight needle tasks (scripts/data/synthetic/niah.py and synthetic.yaml of NVIDIA/RULER).

Needles say "One of the special magic numbers for long-cat is: 1234567." and stand in noise (five sentences repeated),
an essay (the user's text in place of Paul Graham's essays) or among other needles. Where the benchmark counts
prompt and answer into a length, here the document has exactly that many tokens and the question comes on top.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from evals.tasks.base import Source
from evals.tasks.documents import Insert
from evals.tasks.ruler.layout import BLOCK, NOISE, VERSION, Items, Plan, Repeated, RulerDocument, lay_out
from evals.tasks.ruler.tables import Order, Table, encode_many, piece
from evals.tasks.ruler.words import ADJECTIVES, NOUNS

HEADER = (
    "Some special magic {kind} are hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {kind} afterwards.\n"
)
QUESTION = "What are all the special magic {kind} for {query} mentioned in the provided text?"
PREFIX = " The special magic {kind} for {query} mentioned in the provided text are"
NEEDLE = "One of the special magic {kind} for {key} is: {value}."
DEPTHS = 64  # tokens of an essay in which a sentence's end is looked for


@dataclass(frozen=True)
class Kind:
    """What a task hides: kinds of haystack, keys and values, and how many keys, values of each, and keys asked for."""

    haystack: str
    key: str = "words"
    value: str = "numbers"
    keys: int = 1
    values: int = 1
    queries: int = 1


KINDS = {
    "niah_single_1": Kind("noise"),
    "niah_single_2": Kind("essay"),
    "niah_single_3": Kind("essay", value="uuids"),
    "niah_multikey_1": Kind("essay", keys=4),
    "niah_multikey_2": Kind("needle"),
    "niah_multikey_3": Kind("needle", key="uuids", value="uuids"),
    "niah_multivalue": Kind("essay", values=4),
    "niah_multiquery": Kind("essay", keys=4, queries=4),
}


@dataclass(frozen=True)
class Niah:
    """A needle task of RULER by its name. Raises ValueError on another name."""

    name: str = "niah_single_1"

    def __post_init__(self) -> None:
        if self.name not in KINDS:
            raise ValueError(f"name: expected one of {', '.join(KINDS)}, got {self.name!r}; name one of these")

    @property
    def chance(self) -> float | None:
        """None: nobody guesses seven digits."""
        return None

    def settings(self) -> Mapping[str, Any]:
        """The name says the rest."""
        return {"version": VERSION, "name": self.name}

    def documents(self, source: Source, length: int, count: int, first: int = 0) -> Iterator[RulerDocument]:
        """``count`` documents of exactly ``length`` tokens, in which each queried key stands once for each value.

        Raises ValueError where the length, or the background of an essay, is too short.
        """
        pool = _Pool(source, KINDS[self.name], length) if KINDS[self.name].haystack == "needle" else None
        for index in range(first, first + count):
            yield _Maker(Plan(self.name, self.settings(), source, length, index), pool).document()


class _Maker:
    """One document."""

    def __init__(self, plan: Plan, pool: _Pool | None) -> None:
        self.plan, self.kind, self.pool = plan, KINDS[plan.name], pool
        self.rng = plan.rng
        one = self.kind.queries * self.kind.values == 1
        self.word = self.kind.value[:-1] if one else self.kind.value
        encode, kind = plan.source.encode, self.kind
        header = _fit(HEADER, one).format(kind=self.word)
        self.header = encode("") if plan.source.bare else piece(encode, header)
        if pool is None:
            self.keys = _distinct(self.rng, kind.key, kind.keys)
            values = iter(_distinct(self.rng, kind.value, kind.keys * kind.values))
        else:
            self.key_order = Order(len(pool.keys), self.rng)
            self.value_order = Order(len(pool.values), self.rng)
            self.keys = [pool.keys[int(n)] for n in self.key_order(np.arange(kind.keys))]
            values = iter([pool.values[int(n)] for n in self.value_order(np.arange(kind.keys * kind.values))])
        self.values = {key: [next(values) for _ in range(kind.values)] for key in self.keys}
        said = [(key, value) for key in self.keys for value in self.values[key]]
        self.said = [said[int(n)] for n in self.rng.permutation(len(said))]

    def document(self) -> RulerDocument:
        plan, kind = self.plan, self.kind
        texts = [NEEDLE.format(kind=kind.value, key=key, value=value) for key, value in self.said]
        essay = kind.haystack == "essay"
        encode = plan.source.encode
        facts = [(text, encode(" " + text) if essay else piece(encode, text + "\n")) for text in texts]
        room = plan.length - len(self.header) - sum(len(ids) for _, ids in facts)
        if essay:
            background, start, inserts, ranges = self._essay(facts, room)
        else:
            background = self._haystack(room)
            if background.count < len(facts) or room < 0:
                raise plan.short(plan.length - room + len(facts) * len(encode(NOISE)))
            items = np.sort(self.rng.choice(background.count, len(facts), replace=False)).tolist()
            placed = [(item, *fact) for item, fact in zip(items, facts, strict=True)]
            inserts, ranges = lay_out(plan, self.header, background, placed)
            start = 0
        question = self._question(ranges)
        recipe = plan.recipe(plan.source.digest) if essay else plan.recipe()
        return RulerDocument(plan.length, inserts, (question,), background, start, plan.index, recipe)

    def _haystack(self, room: int) -> Items | Repeated:
        if self.pool is None:
            return Repeated(piece(self.plan.source.encode, NOISE + "\n"), room)
        return Items(self.pool.table, self._rows, max(0, room))

    def _rows(self, block: int) -> np.ndarray:
        """Pieces of a block of distractors: the keys that follow the asked one in this document's order of the pool."""
        pool, kind = self.pool, self.kind
        assert pool is not None
        places = np.arange(block * BLOCK, (block + 1) * BLOCK)
        keys = self.key_order(kind.keys + places % (len(pool.keys) - kind.keys))
        asked, plan = kind.keys * kind.values, self.plan
        rng = np.random.default_rng((plan.source.seed, plan.index, plan.length, block))
        values = self.value_order(rng.integers(asked, len(pool.values), BLOCK))
        begin, middle = np.zeros(BLOCK, dtype=np.int64), np.ones(BLOCK, dtype=np.int64)
        return np.stack([begin, 2 + keys, middle, 2 + len(pool.keys) + values], axis=1)

    def _essay(
        self, facts: list[tuple[str, np.ndarray]], room: int
    ) -> tuple[Any, int, tuple[Insert, ...], list[tuple[int, int]]]:
        source, plan = self.plan.source, self.plan
        if room < 0:
            raise plan.short(plan.length - room)
        if len(source.background) < room:
            raise ValueError(
                f"background: expected at least {room} tokens for {plan.name} at {plan.length}, "
                f"got {len(source.background)}; give a longer text, which is never repeated"
            )
        start = int(self.rng.integers(len(source.background) - room + 1))
        inserts, ranges = [Insert(0, "", self.header, False)] if len(self.header) else [], []
        at = len(self.header)
        last = 0
        for gap, (text, ids) in zip(np.sort(self.rng.integers(0, room + 1, len(facts))).tolist(), facts, strict=True):
            last = max(last, self._sentence_end(start, gap, room))
            inserts.append(Insert(at + last, text, ids, True))
            ranges.append((at + last, at + last + len(ids)))
            at += len(ids)
        return source.background, start, tuple(inserts), ranges

    def _sentence_end(self, start: int, gap: int, room: int) -> int:
        """The end of a sentence soon behind ``gap``, as the benchmark puts needles between sentences; else ``gap``."""
        source, stop = self.plan.source, min(room, gap + DEPTHS)
        for place, token in enumerate(source.background[start + gap : start + stop]):
            if source.decode([int(token)]).strip().endswith((".", "!", "?")):
                return gap + place + 1
        return gap

    def _question(self, ranges: list[tuple[int, int]]) -> Any:
        kind = self.kind
        queries = [self.keys[int(n)] for n in self.rng.choice(kind.keys, kind.queries, replace=False)]
        query = ", ".join(queries[:-1]) + ", and " + queries[-1] if len(queries) > 1 else queries[0]
        one = kind.queries * kind.values == 1
        filled = {"kind": self.word, "query": query}
        return self.plan.ask(
            _fit(QUESTION, one).format(**filled),
            [value for key in queries for value in self.values[key]],
            prefix=_fit(PREFIX, one).format(**filled),
            lead="\n" if kind.haystack == "essay" else "",  # elsewhere the document ends a line
            max_tokens=128,
            evidence=tuple(span for span, (key, _) in zip(ranges, self.said, strict=True) if key in queries),
        )


class _Pool:
    """Keys and values of distractors, tokenised once for all documents of a length.

    A document takes them in an order of its own: keys without repetition (the benchmark may draw one twice), values
    with. Keys repeat only where there are more than 65,536 distractors (16,384 with uuids), and never the asked one.
    """

    def __init__(self, source: Source, kind: Kind, length: int) -> None:
        encode, rng = source.encode, np.random.default_rng(7)
        begin, middle = encode(f"One of the special magic {kind.value} for"), encode(" is:")
        least = len(begin) + len(middle) + 2
        most = 1 << 14 if kind.key == "uuids" else 1 << 16
        size = min(most, max(4096, length // least + 16))
        if kind.key == "uuids":  # an item has two, of at least 5 tokens in any tokenizer but one of whole words
            size = min(most, max(4096, length // (least + 8) + 16))
        self.keys = _distinct(rng, kind.key, size)
        self.values = _distinct(rng, kind.value, 1 << (12 if kind.value == "uuids" else 13))
        keys = encode_many(encode, [" " + key for key in self.keys])
        values = encode_many(encode, [f" {value}.\n" for value in self.values])
        self.table = Table.join([Table.of([begin, middle]), keys, values])


def _distinct(rng: np.random.Generator, kind: str, count: int) -> list[str]:
    """``count`` different keys or values of a kind: words, numbers (seven digits) or uuids (version 4)."""
    if kind == "words":
        drawn = rng.choice(len(ADJECTIVES) * len(NOUNS), count, replace=False).tolist()
        return [f"{ADJECTIVES[n % len(ADJECTIVES)]}-{NOUNS[n // len(ADJECTIVES)]}" for n in drawn]
    if kind == "numbers":
        return [str(n) for n in (10**6 + rng.choice(9 * 10**6, count, replace=False, shuffle=True)).tolist()]
    halves = rng.integers(1 << 63, size=(count, 2)).tolist()
    return [str(uuid.UUID(int=(high << 65) ^ low, version=4)) for high, low in halves]


def _fit(template: str, one: bool) -> str:
    """The template in the singular where one value is asked for, by the benchmark's own replacements."""
    for many, single in (("Some", "A"), ("are all", "is"), ("are", "is")) if one else ():
        template = template.replace(many, single)
    return template
