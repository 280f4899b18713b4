"""Many needles in one text: words under words, hidden in prose, and a question for each.

A needle is a sentence such as ``remember : river means copper .``; the question is ``river means``. Key and value are
words of which a tokenizer makes one token each, so that a model has to bind two of thousands of words that have
nothing to do with each other, many times over. Needle in a haystack with many keys (RULER, Hsieh et al., arXiv
2404.06654, section 3.1), in sentences that a model of a few million parameters can learn to read. Knows nothing of
models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int

WORDS = 2048  # that stand as keys and values
SHORTEST = 3  # letters of such a word
SENTENCE = ("remember", ":", None, "means", None, ".")


@runtime_checkable
class Prose(Protocol):
    """Token ids with a length, read in slices."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> Any: ...


@dataclass(frozen=True)
class Needles:
    """A text with needles in it.

    Attributes:
        ids: tokens of the text.
        needle: true at the tokens of needles.
        keys, values: token ids, one pair a needle, in the order of the text; every key is there once.
    """

    ids: Int[np.ndarray, " tokens"]
    needle: Bool[np.ndarray, " tokens"]
    keys: Int[np.ndarray, " pairs"]
    values: Int[np.ndarray, " pairs"]


class NeedleTask:
    """Makes texts, each from its number: the same number, the same text.

    Args:
        tokenizer: has ``get_vocab()`` and ``convert_tokens_to_ids``; its words are in the order of how common they are.
        prose: what needles are hidden in, at least as long as the longest text.
        seed: with a text's number, all the randomness there is.

    Raises:
        ValueError: a tokenizer without the words that needles are made of.
    """

    def __init__(self, tokenizer: Any, prose: Prose, seed: int = 0) -> None:
        self.prose, self.seed = prose, seed
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        frame = [word for word in SENTENCE if word is not None]
        if missing := [word for word in frame if word not in vocabulary]:
            raise ValueError(f"expected a tokenizer that knows {frame}, got one without {missing}; use another")
        common = sorted((number, word) for word, number in vocabulary.items() if word.isascii() and word.isalpha())
        self.words = np.array([n for n, word in common if len(word) >= SHORTEST and word not in frame][:WORDS])
        self.frame = np.array([-1 if word is None else vocabulary[word] for word in SENTENCE])

    def text(self, number: int, tokens: int, pairs: int, within: int | None = None) -> Needles:
        """A text of so many tokens with so many needles.

        Args:
            number: of the text.
            tokens: its length.
            pairs: needles.
            within: no needle stands across a multiple of so many tokens, and they are dealt out evenly between these;
                None for anywhere.

        Raises:
            ValueError: more needles than find room.
        """
        draw = np.random.default_rng((self.seed, number))
        size = len(self.frame)
        starts = self._anywhere(draw, tokens, pairs) if within is None else self._dealt(draw, tokens, pairs, within)
        begin = int(draw.integers(0, max(1, len(self.prose) - tokens)))
        ids = np.array(self.prose[begin : begin + tokens], dtype=np.int64)
        if len(ids) < tokens:
            raise ValueError(f"expected prose of {tokens} tokens, got {len(self.prose)}; give a longer one")
        keys = draw.choice(self.words, pairs, replace=False)
        values = draw.choice(self.words, pairs)
        needle = np.zeros(tokens, dtype=bool)
        for start, key, value in zip(starts, keys, values, strict=True):
            sentence = self.frame.copy()
            sentence[2], sentence[4] = key, value
            ids[start : start + size], needle[start : start + size] = sentence, True
        return Needles(ids, needle, keys, values)

    def question(self, keys: Int[np.ndarray, " pairs"]) -> Int[np.ndarray, "pairs 2"]:
        """What asks for each key: the key, and ``means``."""
        return np.stack([keys, np.full_like(keys, self.frame[3])], axis=1)

    def batch(
        self, number: int, texts: int, tokens: int, pairs: int, within: int | None = None, asked: int = 8
    ) -> dict[str, np.ndarray]:
        """Texts to train on, with questions and their answers, as a language model's forward takes them.

        Args:
            number: of the batch.
            texts: in it.
            tokens, pairs, within: see :meth:`text`.
            asked: needles asked for, at most.

        Returns:
            input_ids, salient (texts, tokens); question_ids, question_targets (texts, asked, 3), -100 but at values.
        """
        made = [self.text(number * texts + row, tokens, pairs, within) for row in range(texts)]
        draw = np.random.default_rng((self.seed, number, 1))
        some = draw.permutation(pairs)[:asked]
        questions = np.stack([np.c_[self.question(t.keys[some]), t.values[some]] for t in made])
        targets = np.full_like(questions, -100)
        targets[:, :, 2] = questions[:, :, 2]
        return {
            "input_ids": np.stack([t.ids for t in made]),
            "salient": np.stack([t.needle for t in made]),
            "question_ids": questions,
            "question_targets": targets,
        }

    def _anywhere(self, draw: np.random.Generator, tokens: int, pairs: int) -> Sequence[int]:
        size = len(self.frame)
        room = tokens - pairs * size
        if room < 0:
            raise ValueError(f"expected at least {pairs * size} tokens for {pairs} needles, got {tokens}; give more")
        # Gaps before each needle: a random composition of the room.
        return [int(gap) + size * n for n, gap in enumerate(np.sort(draw.integers(0, room + 1, pairs)))]

    def _dealt(self, draw: np.random.Generator, tokens: int, pairs: int, within: int) -> Sequence[int]:
        size, parts = len(self.frame), tokens // within
        each = -(-pairs // max(1, parts))
        if not parts or each * size > within:
            raise ValueError(f"expected room for {each} needles of {size} tokens in {within}, got less; give more")
        homes = np.sort(draw.permutation(np.repeat(np.arange(parts), each))[:pairs])
        starts: list[int] = []
        for home in np.unique(homes):
            inside = self._anywhere(draw, within, int((homes == home).sum()))
            starts += [int(home) * within + start for start in inside]
        return starts
