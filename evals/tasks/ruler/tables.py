"""Tokens of many short texts, tokenised once; and orders that need no list. Knows nothing of tasks.

A document here is defined by its ids: pieces of text that join at spaces or line ends are tokenised apart and their
ids put one behind the other. WordPiece, and byte-level BPE that splits at spaces first, make the same ids of the
joined text. SentencePiece with a leading space of its own may set spaces twice where pieces join.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int

Encode = Callable[[str], np.ndarray]

_MARK = " the"  # stands between texts that are tokenised together; none of ours is or begins with this word
_TOGETHER = 1024  # texts tokenised in one call; what tokenizers hold of a call is many times its ids


@dataclass(frozen=True)
class Table:
    """Pieces of different lengths in one array: piece n is ``ids[starts[n]:starts[n + 1]]``."""

    ids: Int[np.ndarray, " tokens"]
    starts: Int[np.ndarray, " pieces_and_one"]

    @staticmethod
    def of(pieces: Sequence[np.ndarray]) -> Table:
        """A table of these pieces."""
        starts = np.zeros(len(pieces) + 1, dtype=np.int64)
        np.cumsum([len(piece) for piece in pieces], out=starts[1:])
        ids = np.concatenate(pieces) if len(pieces) else np.zeros(0)
        return Table(ids.astype(np.int32), starts)

    @staticmethod
    def join(tables: Sequence[Table]) -> Table:
        """The pieces of all of them, in this order."""
        shifts = np.cumsum([0, *(len(table.ids) for table in tables)])
        starts = [shift + table.starts[1:] for shift, table in zip(shifts[:-1], tables, strict=True)]
        whole = np.concatenate([np.zeros(1, dtype=np.int64), *starts])
        return Table(np.concatenate([table.ids for table in tables]), whole)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def lengths(self) -> Int[np.ndarray, " pieces"]:
        """Tokens of each piece."""
        return np.diff(self.starts)

    def take(self, pieces: Int[np.ndarray, " n"]) -> Int[np.ndarray, " tokens"]:
        """Ids of these pieces, in this order, int64."""
        lengths = self.lengths[pieces]
        ends = np.cumsum(lengths)
        within = np.arange(int(lengths.sum())) - np.repeat(ends - lengths, lengths)
        return self.ids[np.repeat(self.starts[pieces], lengths) + within].astype(np.int64)


def piece(encode: Encode, text: str, after: str = "The") -> Int[np.ndarray, " tokens"]:
    """Ids of a text that ``after`` follows: white space at its end is split as it is there, not as at an end."""
    whole, tail = encode(text + after), encode(after)
    cut = len(whole) - len(tail)
    return whole[:cut] if cut > 0 and np.array_equal(whole[cut:], tail) else encode(text)


def encode_each(encode: Encode, texts: Sequence[str]) -> list[np.ndarray]:
    """Ids of each text: the plain twin of ``encode_many``."""
    return [encode(text) for text in texts]


def encode_many(encode: Encode, texts: Sequence[str], end: str = "") -> Table:
    """Ids of each text, many texts a call (several times as fast): each must begin with a space.

    Texts are told apart by a word between them, or by a token that each ends with and has nowhere else (``end``). Where
    a tokenizer does not keep that apart, or texts checked one by one differ, each is tokenised alone.
    """
    between = "" if end else _MARK
    mark = encode(end or _MARK)
    ids, lengths = [], []
    for start in range(0, len(texts), _TOGETHER):
        chunk = texts[start : start + _TOGETHER]
        whole = encode("".join(text + between for text in chunk))
        ends = np.flatnonzero(whole == mark[0]) if len(mark) == 1 else np.zeros(0, dtype=np.int64)
        checked = range(0, len(chunk), max(1, len(chunk) // 8))
        if (
            len(ends) == len(chunk)
            and ends[-1] == len(whole) - 1
            and all(_equal(whole, ends, n, encode(chunk[n]), bool(end)) for n in checked)
        ):
            ids.append(whole if end else np.delete(whole, ends))
            lengths.append(np.diff(ends, prepend=-1) - (0 if end else 1))
        else:
            apart = encode_each(encode, chunk)
            ids += apart
            lengths.append(np.array([len(piece) for piece in apart], dtype=np.int64))
    starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(np.concatenate(lengths))])
    return Table(np.concatenate(ids).astype(np.int32), starts)


def _equal(whole: np.ndarray, ends: np.ndarray, n: int, alone: np.ndarray, kept: bool) -> bool:
    return np.array_equal(whole[ends[n - 1] + 1 if n else 0 : ends[n] + int(kept)], alone)


class Order:
    """A fixed random order of 0 to count - 1 of which any part can be made without the rest.

    A Feistel network over the smallest power of two that holds ``count``, walked until inside (Black and Rogaway,
    Ciphers with arbitrary finite domains, CT-RSA 2002): constant memory, where a shuffled list grows with the text.
    """

    def __init__(self, count: int, rng: np.random.Generator) -> None:
        self.count = count
        bits = max(2, (count - 1).bit_length())
        self._low = np.uint64(bits // 2)
        self._masks = (np.uint64((1 << (bits // 2)) - 1), np.uint64((1 << (bits - bits // 2)) - 1))
        self._keys = rng.integers(1 << 63, size=6, dtype=np.uint64)

    def __call__(self, places: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """What stands at these places, int64."""
        out = self._once(places.astype(np.uint64))
        while True:
            outside = np.flatnonzero(out >= self.count)
            if not len(outside):
                return out.astype(np.int64)
            out[outside] = self._once(out[outside])

    def _once(self, values: np.ndarray) -> np.ndarray:
        low, high = values & self._masks[0], values >> self._low
        for number in range(0, 6, 2):
            low = low ^ (_mixed(high, self._keys[number]) & self._masks[0])
            high = high ^ (_mixed(low, self._keys[number + 1]) & self._masks[1])
        return (high << self._low) | low


def _mixed(values: np.ndarray, key: np.uint64) -> np.ndarray:
    """64 mixed bits of each value under a key: the finaliser of SplitMix64 (Steele et al., OOPSLA 2014)."""
    values = values + key
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))
