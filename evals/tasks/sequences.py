"""Copy, reverse and associative retrieval: the algorithmic tasks of the first RMT paper, at any length.

Bulatov, Kuratov and Burtsev, "Recurrent Memory Transformer" (arXiv 2207.06881), section 4 and appendix A.1. A
sequence is drawn uniformly from ten symbols, here the digits:

- copy: say it twice (24 to 360 symbols; 24 here unless told otherwise);
- reverse: say it from its end to its start;
- associative: 4 pairs of a key (a letter, each once) and a value (a digit, drawn with replacement), as Ba et al.
  (arXiv 1610.06258) made them; say the value of one key.

Accuracy is per symbol. The paper's input is the sequence alone (``filled``); else the sequence stands somewhere in
background text, so that it must outlast what is read behind it. Symbols stand apart, so that any tokenizer reads them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from evals.tasks.base import Question, Source
from evals.tasks.documents import Document, Insert
from evals.tasks.haystack import begin, check, offset

DIGITS = "0123456789"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
KINDS = ("copy", "reverse", "associative")
MOST = 4096  # symbols asked at once: an answer is kept in the log
_BLOCK = 1 << 14
_KEYS, _QUESTION = (0, 1), (0, 2)  # behind the seed, where digits have the number of a block
_ASK = {
    "copy": "Write the sequence twice in the same order",
    "reverse": "Write the sequence in reverse order",
    "associative": "Write the value of key",
}


@dataclass(frozen=True)
class Filled:
    """A document that is a sequence from its first token to its last, drawn in blocks as it is read.

    Symbol i is a digit, or one of the letters of a key where i mod ``period`` < ``period`` - 1.

    Attributes:
        length: tokens, one a symbol.
        questions: what to ask.
        digits, letters: token ids of the ten digits and the 26 letters (none where there are no keys).
        seed: all randomness there is.
        period: symbols of a pair of key and value; 1 for a sequence of digits.
    """

    length: int
    questions: tuple[Question, ...]
    digits: tuple[int, ...]
    letters: tuple[int, ...]
    seed: tuple[int, ...]
    period: int = 1

    @property
    def recipe(self) -> str:
        """All that its tokens follow from."""
        return repr((self.digits, self.letters, self.seed, self.period))

    def tokens(self, start: int = 0, stop: int | None = None) -> Int[np.ndarray, " tokens"]:
        """Token ids from ``start`` to ``stop``, int64."""
        symbols = self.symbols(start, self.length if stop is None else min(stop, self.length))
        return np.array(self.digits + self.letters, dtype=np.int64)[symbols]

    def symbols(self, start: int, stop: int) -> Int[np.ndarray, " tokens"]:
        """Symbols from ``start`` to ``stop``: digits are 0 to 9, letters 10 to 35."""
        places = np.arange(start, max(start, stop))
        blocks = range(start // _BLOCK, -(-max(start, stop) // _BLOCK)) if stop > start else range(0)
        drawn = [np.random.default_rng((*self.seed, block)).integers(len(DIGITS), size=_BLOCK) for block in blocks]
        digits = np.concatenate([np.zeros(0, dtype=np.int64), *drawn])[places - start // _BLOCK * _BLOCK]
        if self.period == 1:
            return digits
        # Letters of a key are its code in base 26, the first of them the highest.
        pair, within = np.divmod(places, self.period)
        letter = self._code(pair) // len(LETTERS) ** np.maximum(self.period - 2 - within, 0) % len(LETTERS)
        return np.where(within < self.period - 1, len(DIGITS) + letter, digits)

    def _code(self, pair: Int[np.ndarray, " pairs"]) -> Int[np.ndarray, " pairs"]:
        """The key of a pair as a number: no two pairs have the same, as the step shares no factor with 26."""
        codes = len(LETTERS) ** (self.period - 1)
        step, first = np.random.default_rng((*self.seed, *_KEYS)).integers(codes, size=2)
        while math.gcd(int(step), len(LETTERS)) != 1:
            step += 1
        return (pair * step + first) % codes


@dataclass(frozen=True)
class Sequences:
    """A sequence in a document, and what to do with it.

    Attributes:
        kind: "copy", "reverse" or "associative".
        items: symbols of the sequence, or pairs of it; None for the paper's 24 (4 pairs). In a ``filled`` document how
            many symbols of the paper's answer are asked, from its start: None for all of it. So copy asks for the
            first that were read, reverse for the last.
        depth: where in the document the sequence stands, 0 the start and 1 the end; None for anywhere.
        filled: the document is the sequence, as in the paper; pairs have keys of as many letters as make them unique.
        exact: score 1 for all symbols right and 0 for less, in place of the share of them.
    """

    kind: str
    items: int | None = None
    depth: float | None = None
    filled: bool = False
    exact: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {self.kind!r}; name one of these")
        most = len(LETTERS) if self.kind == "associative" else MOST
        if self.items is not None and not 1 <= self.items <= most:
            raise ValueError(f"items: expected 1 to {most}, got {self.items}; ask for less")
        if self.filled and self.kind == "associative" and self.items is not None:
            raise ValueError("items: expected none for pairs that fill a document, got some; leave it out")
        if self.depth is not None and (self.filled or not 0 <= self.depth <= 1):
            raise ValueError(f"depth: expected 0 to 1 in a document not filled, got {self.depth}; leave it out")

    @property
    def name(self) -> str:
        """As in the registry."""
        return self.kind

    @property
    def chance(self) -> float:
        """A symbol in ten."""
        return 1 / len(DIGITS) if self.kind == "associative" or not self.exact else 0.0

    def settings(self) -> Mapping[str, Any]:
        """The fields."""
        return asdict(self)

    def documents(self, source: Source, length: int, count: int, first: int = 0) -> Iterator[Document | Filled]:
        """``count`` documents from number ``first`` on.

        Raises ValueError where the background is shorter, the sequence does not fit, or (``filled``) more than 4,096
        symbols would be asked or a symbol is not one token.
        """
        if not self.filled:
            check(source, length)
        elif length < 2:
            raise ValueError(f"length: expected at least 2 symbols, got {length}; ask for a longer document")
        make = self._filled if self.filled else self._hidden
        return (make(source, length, index) for index in range(first, first + count))

    def _hidden(self, source: Source, length: int, index: int) -> Document:
        rng = np.random.default_rng((source.seed, index, length))
        count = self.items or (4 if self.kind == "associative" else 24)
        digits = [DIGITS[i] for i in rng.integers(len(DIGITS), size=count)]
        if self.kind == "associative":
            keys = [LETTERS[i] for i in rng.permutation(len(LETTERS))[:count]]
            parts = [f" {key} {digit}" for key, digit in zip(keys, digits, strict=True)]
            chosen = int(rng.integers(count))
            asked, answer = keys[chosen], digits[chosen : chosen + 1]
        else:
            parts, asked, answer = ["".join(f" {digit}" for digit in digits)], "", self._answer(digits)
            chosen = 0
        texts = [" sequence start", *parts, " sequence end"]
        pieces = [source.encode(text) for text in texts]
        size = sum(len(piece) for piece in pieces)
        if size > length:
            raise ValueError(f"length: expected at least the {size} tokens of the sequence, got {length}; ask for more")
        at = int(rng.integers(length - size + 1)) if self.depth is None else offset(self.depth, length, size)
        start = at + sum(len(piece) for piece in pieces[: chosen + 1])
        question = self._question(source, asked, answer, (start, start + len(pieces[chosen + 1])))
        insert = Insert(at, "".join(texts), np.concatenate(pieces), True)
        return Document(length, (insert,), (question,), source.background, begin(rng, source, length), index)

    def _filled(self, source: Source, length: int, index: int) -> Filled:
        seed = (source.seed, index, length)
        digits = _tokens(source, DIGITS)
        if self.kind == "associative":
            return self._filled_pairs(source, length, seed, digits)
        whole = length * (2 if self.kind == "copy" else 1)
        count = min(self.items or whole, whole)
        if count > MOST:
            raise ValueError(f"items: expected at most {MOST} symbols to be asked, got {count}; ask for the first 24")
        document = Filled(length, (), digits, (), seed)
        need = min(count, length)
        part = (0, need) if self.kind == "copy" else (length - need, length)
        answer = self._answer([DIGITS[i] for i in document.symbols(*part)])[:count]
        return Filled(length, (self._question(source, "", answer, part),), digits, (), seed)

    def _filled_pairs(self, source: Source, length: int, seed: tuple[int, ...], digits: tuple[int, ...]) -> Filled:
        """Pairs with keys just long enough that none comes twice; the end of the document may cut the last pair off."""
        letters = _tokens(source, LETTERS)
        period = 2
        while len(LETTERS) ** (period - 1) < -(-length // period):
            period += 1
        chosen = int(np.random.default_rng((*seed, *_QUESTION)).integers(length // period)) * period
        *key, value = Filled(length, (), digits, letters, seed, period).symbols(chosen, chosen + period)
        name = " ".join(LETTERS[i - len(DIGITS)] for i in key)
        question = self._question(source, name, [DIGITS[value]], (chosen, chosen + period))
        return Filled(length, (question,), digits, letters, seed, period)

    def _answer(self, digits: list[str]) -> list[str]:
        return digits * 2 if self.kind == "copy" else digits[::-1]

    def _question(self, source: Source, key: str, answer: list[str], evidence: tuple[int, int]) -> Question:
        text = f"{_ASK[self.kind]} {key}".strip()
        what = "a sequence of keys and their values" if self.kind == "associative" else "a sequence of digits"
        prompt = f" {text} :" if source.bare else f"\nThe text above holds {what} .\n{text} .\nAnswer :"
        said = " ".join(answer)
        return Question(
            self.name, text, source.encode(prompt), (said,), scorer="sequence_exact" if self.exact else "sequence",
            choices=tuple(DIGITS) if self.kind == "associative" else (), max_tokens=len(source.encode(" " + said)),
            evidence=(evidence,),
        )  # fmt: skip


def _tokens(source: Source, symbols: str) -> tuple[int, ...]:
    """The token of each symbol. Raises ValueError where one is not a single token."""
    ids = []
    for symbol in symbols:
        made = source.encode(" " + symbol)
        if len(made) != 1:
            raise ValueError(
                f"filled: expected one token for each of {symbols}, got {len(made)} for {symbol!r}; "
                "with this tokenizer put the sequence into text"
            )
        ids.append(int(made[0]))
    return tuple(ids)
