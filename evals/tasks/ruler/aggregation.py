"""RULER's two counting tasks (common_words_extraction.py and freq_words_extraction.py of NVIDIA/RULER).

``cwe``: a numbered list in which 10 words stand 30 times and all others 3 times (6 times and once below 4,096 tokens);
the longer, the more others. ``fwe``: made-up words whose counts follow a zeta distribution; the first is noise ("...")
and the next three are asked for. Lists are shuffled without being held.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from string import ascii_lowercase
from typing import Any

import numpy as np

from evals.tasks.base import Source
from evals.tasks.ruler.layout import BLOCK, VERSION, Items, Plan, RulerDocument, lay_out
from evals.tasks.ruler.tables import Order, Table, encode_many, piece
from evals.tasks.ruler.words import WORDS, compounds

CWE_HEADER = (
    "Below is a numbered list of words. In these words, some appear more often than others. "
    "Memorize the ones that appear most often.\n"
)
CWE_QUESTION = "Question: What are the 10 most common words in the above list?"
CWE_PREFIX = " Answer: The top 10 words that appear most often in the list are:"
COMMON = 10

FWE_HEADER = (
    "Read the following coded text and track the frequency of each coded word. "
    "Find the three most frequently appeared coded words."
)
FWE_QUESTION = (
    "Question: Do not provide any explanation. Please ignore the dots '....'. "
    "What are the three most frequently appeared words in the above coded text?"
)
FWE_PREFIX = " Answer: According to the coded text above, the three most frequently appeared words are:"
LETTERS = 6


@dataclass(frozen=True)
class CommonWords:
    """The task ``cwe``.

    The benchmark draws from 9,000 common words, or from rare ones where these do not fill the length; here it is from
    1,368 common words, or from compounds of two nouns.
    """

    @property
    def name(self) -> str:
        """As in the registry."""
        return "cwe"

    @property
    def chance(self) -> float | None:
        """None: a guess depends on how many words there are."""
        return None

    def settings(self) -> Mapping[str, Any]:
        """Nothing can be set."""
        return {"version": VERSION}

    def documents(self, source: Source, length: int, count: int, first: int = 0) -> Iterator[RulerDocument]:
        """``count`` documents of exactly ``length`` tokens. Raises ValueError where that is too short."""
        words = _Numbered(source, length)
        for index in range(first, first + count):
            yield words.document(Plan(self.name, self.settings(), source, length, index))


class _Numbered:
    """Numbers and words, tokenised once for all lists of a length."""

    def __init__(self, source: Source, length: int) -> None:
        self.often, self.seldom = (30, 3) if length >= 4096 else (6, 1)
        self.encode = source.encode
        self.words: list[str] = list(WORDS)
        words = [encode_many(self.encode, [" " + word for word in WORDS])]
        numbers = [self._numbers(0, self._entries(len(WORDS)))]
        supply = compounds()
        if self._tokens(words, numbers) < length:
            self.words, words = [], []
        while not words or self._tokens(words, numbers) < length:
            more = list(islice(supply, 4 * BLOCK))
            if not more:
                raise ValueError(f"length: expected one that {len(self.words)} words fill, got {length}; ask for less")
            self.words += more
            words.append(encode_many(self.encode, [" " + word for word in more]))
            numbers.append(self._numbers(sum(map(len, numbers)), self._entries(len(self.words))))
        self.numbers, self.word_table = Table.join(numbers), Table.join(words)
        self.table = Table.join([self.numbers, self.word_table])
        self.ends = np.cumsum(self.numbers.lengths)

    def _entries(self, words: int) -> int:
        return COMMON * self.often + (words - COMMON) * self.seldom

    def _numbers(self, start: int, stop: int) -> Table:
        first = [Table.of([self.encode("1.")])] if start == 0 else []
        later = [f" {number + 1}." for number in range(start + len(first), stop)]
        return Table.join([*first, encode_many(self.encode, later, end=".")])

    def _tokens(self, words: list[Table], numbers: list[Table]) -> int:
        """At most as many tokens as a list of all these words has."""
        return sum(len(table.ids) for table in numbers) + self.seldom * sum(len(table.ids) for table in words)

    def document(self, plan: Plan) -> RulerDocument:
        rng = plan.rng
        header = self._header(plan, rng)
        room = plan.length - len(header)
        chosen = Order(len(self.words), rng)
        ranks = chosen(np.arange(len(self.words)))
        others = self._fit(ranks, room)
        if others < COMMON:
            raise plan.short(plan.length + self._total(ranks, COMMON) - room)
        count = COMMON * self.often + others * self.seldom
        order = Order(count, rng)

        def rows(block: int) -> np.ndarray:
            items = np.arange(block * BLOCK, min((block + 1) * BLOCK, count))
            entries = order(items)
            common = entries < COMMON * self.often
            rank = np.where(common, entries // self.often, COMMON + (entries - COMMON * self.often) // self.seldom)
            return np.stack([items, len(self.numbers) + chosen(rank)], axis=1)

        haystack = Items(self.table, rows, room, most=count)
        assert haystack.count == count, "words fitted to the wrong room"
        inserts, _ = lay_out(plan, header, haystack)
        question = plan.ask(
            CWE_QUESTION.removeprefix("Question: ") if plan.source.bare else CWE_QUESTION,
            [self.words[int(n)] for n in ranks[:COMMON]],
            lead="\n",
            prefix=CWE_PREFIX,
            max_tokens=120,
            evidence=((plan.length - len(haystack), plan.length),),
        )
        return RulerDocument(plan.length, inserts, (question,), haystack, 0, plan.index, plan.recipe())

    def _totals(self, ranks: np.ndarray) -> np.ndarray:
        """Tokens of a list with 0, 1, ... uncommon words: its words' and its numbers'."""
        lengths = self.word_table.lengths[ranks]
        words = self.often * lengths[:COMMON].sum() + self.seldom * np.r_[0, np.cumsum(lengths[COMMON:])]
        counts = COMMON * self.often + self.seldom * np.arange(len(words))
        inside = counts <= len(self.ends)  # beyond there is no room anyway
        return np.asarray(words[inside] + self.ends[counts[inside] - 1])

    def _fit(self, ranks: np.ndarray, room: int) -> int:
        return int(np.searchsorted(self._totals(ranks), room, side="right")) - 1

    def _total(self, ranks: np.ndarray, others: int) -> int:
        return int(self._totals(ranks)[others])

    def _header(self, plan: Plan, rng: np.random.Generator) -> np.ndarray:
        """Instructions, behind the benchmark's one solved example of 20 or 40 words."""
        if plan.source.bare:
            return self.encode("")
        words, often, seldom = (40, 10, 3) if plan.length >= 4096 else (20, 3, 1)
        drawn = [WORDS[int(n)] for n in rng.choice(len(WORDS), words, replace=False)]
        listed = drawn[:COMMON] * often + drawn[COMMON:] * seldom
        said = _numbered([listed[int(n)] for n in rng.permutation(len(listed))])
        example = f"{CWE_HEADER}{said}\n{CWE_QUESTION}{CWE_PREFIX} {_numbered(drawn[:COMMON])}\n"
        return piece(self.encode, example + CWE_HEADER, after="1.")


@dataclass(frozen=True)
class FrequentWords:
    """The task ``fwe``.

    Attributes:
        alpha: of the zeta distribution, above 1; the smaller, the harder.
    """

    alpha: float = 2.0

    def __post_init__(self) -> None:
        if not (isinstance(self.alpha, int | float) and self.alpha > 1):
            raise ValueError(f"alpha: expected a number above 1, got {self.alpha!r}; the benchmark's is 2.0")

    @property
    def name(self) -> str:
        """As in the registry."""
        return "fwe"

    @property
    def chance(self) -> float | None:
        """None: words are made up."""
        return None

    def settings(self) -> Mapping[str, Any]:
        """Alpha."""
        return {"version": VERSION, "alpha": float(self.alpha)}

    def documents(self, source: Source, length: int, count: int, first: int = 0) -> Iterator[RulerDocument]:
        """``count`` documents of exactly ``length`` tokens.

        Raises ValueError where that is too short for three words, each more frequent than the next.
        """
        for index in range(first, first + count):
            yield self._document(Plan(self.name, self.settings(), source, length, index))

    def _document(self, plan: Plan) -> RulerDocument:
        rng, encode = plan.rng, plan.source.encode
        header = encode("" if plan.source.bare else FWE_HEADER)
        room = plan.length - len(header)
        words = _made_up(rng, min(plan.length // 50, int(plan.length ** (1 / self.alpha)) + 1))
        table = encode_many(encode, [" " + word for word in words])
        counts = self._counts(table, room)
        if len(counts) < 4 or not all(counts[n] > (counts[n + 1] if n + 1 < len(counts) else 0) for n in (1, 2, 3)):
            raise plan.short(2 * plan.length)
        ends = np.cumsum(counts)
        order = Order(int(ends[-1]), rng)

        def rows(block: int) -> np.ndarray:
            entries = order(np.arange(block * BLOCK, min((block + 1) * BLOCK, int(ends[-1]))))
            return np.searchsorted(ends, entries, side="right")[:, None]

        haystack = Items(table, rows, room, most=int(ends[-1]))
        inserts, _ = lay_out(plan, header, haystack)
        question = plan.ask(
            FWE_QUESTION.removeprefix("Question: ") if plan.source.bare else FWE_QUESTION,
            words[1:4],
            lead="\n",
            prefix=FWE_PREFIX,
            max_tokens=50,
            evidence=((plan.length - len(haystack), plan.length),),
        )
        return RulerDocument(plan.length, inserts, (question,), haystack, 0, plan.index, plan.recipe())

    def _counts(self, table: Table, room: int) -> np.ndarray:
        """How often each word stands there: floor(n k^-alpha / zeta(alpha)) for the largest n that fits."""
        from scipy.special import zeta

        shares = np.arange(1, len(table) + 1, dtype=np.float64) ** -self.alpha / zeta(self.alpha)
        low, high = (
            0,
            int((max(0, room) + 1) / shares[0]),
        )  # the first word alone, of a token or more, would fill the room
        while low < high:
            middle = (low + high + 1) // 2
            fits = int(((middle * shares).astype(np.int64) * table.lengths).sum()) <= room
            low, high = (middle, high) if fits else (low, middle - 1)
        return (low * shares).astype(np.int64)


def _made_up(rng: np.random.Generator, count: int) -> list[str]:
    """ "..." and then different words of six letters."""
    words: dict[str, None] = {"...": None}
    while len(words) < count:
        words["".join(ascii_lowercase[n] for n in rng.integers(26, size=LETTERS))] = None
    return list(words)


def _numbered(words: list[str]) -> str:
    return " ".join(f"{number}. {word}" for number, word in enumerate(words, start=1))
