"""Tokenising in pieces gives the ids of the whole text."""

from __future__ import annotations

import logging
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rmt.data import StreamTokenizer, tokenize_stream, tokenizer_fingerprint
from rmt.data.stream import _chunks

# What tokenizers treat in ways of their own: runs of white space, line ends after punctuation, contractions,
# digits, letters with accents both composed and apart, scripts without spaces, control and special tokens.
WORDS = "the river bank isn't It's Memory 1859 12345 é e\u0301 \u0301 Straße İ 東京 漢 ﬁ [SEP] <unk> (a) 'll"
SIGNS = [". ", ", ", "...", "?!", "--", "_", "\n", "\n\n", "\t", "\r\n", "\x07", "\x1c"]
SIGNS += ["\u00a0", "\u200b", "\u3000"]
ATOMS = st.sampled_from([*WORDS.split(), *SIGNS, *[" "] * 24])
PROSE = st.lists(ATOMS, max_size=80).map("".join)


def whole(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def streamed(tokenizer: PreTrainedTokenizerBase, pieces: list[str], chunk_chars: int) -> list[int]:
    arrays = list(tokenize_stream(pieces, tokenizer, chunk_chars=chunk_chars))
    assert all(array.dtype == np.int64 and array.ndim == 1 and array.size for array in arrays)
    return [int(token) for array in arrays for token in array]


@given(text=PROSE, cuts=st.lists(st.integers(0, 400), max_size=6), chunk_chars=st.integers(1, 60))
def test_stream_equals_whole(tokenizer: PreTrainedTokenizerBase, text: str, cuts: list[int], chunk_chars: int) -> None:
    edges = [0, *sorted(cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(edges)]
    assert "".join(pieces) == text
    assert streamed(tokenizer, pieces, chunk_chars) == whole(tokenizer, text)


def test_stream_equals_whole_on_real_text(tokenizer: PreTrainedTokenizerBase, corpus: list[str]) -> None:
    text = "".join(corpus)[:60_000]
    assert len(list(_chunks(corpus, 777, True))) > 60
    assert streamed(tokenizer, [text], 777) == whole(tokenizer, text)


def test_a_cut_at_any_place_would_not_do(bert: PreTrainedTokenizerBase, corpus: list[str]) -> None:
    # The control: the property above is one that cutting without care does not have.
    text = "".join(corpus)[:5_000]
    careless = [token for start in range(0, len(text), 97) for token in whole(bert, text[start : start + 97])]
    assert careless != whole(bert, text)


@given(texts=st.lists(st.text(max_size=200), max_size=12), size=st.integers(1, 100))
def test_chunks_keep_every_character(texts: list[str], size: int) -> None:
    assert "".join(_chunks(texts, size, True)) == "".join(texts)


@pytest.mark.parametrize("text", ["x" * 300_000, "12 345 " * 40_000, "漢字" * 100_000])
def test_text_without_words_is_held_in_bounded_chunks(text: str) -> None:
    chunks = list(_chunks((text[i : i + 1000] for i in range(0, len(text), 1000)), 1 << 14, True))
    assert "".join(chunks) == text
    assert max(map(len, chunks)) <= 1 << 16


def test_text_without_words_is_cut_at_white_space_if_there_is_any(bert: PreTrainedTokenizerBase) -> None:
    text = "12 345, " * 40_000
    assert streamed(bert, [text], 1 << 14) == whole(bert, text)


def test_stream_starts_before_the_text_ends(bert: PreTrainedTokenizerBase) -> None:
    taken = 0

    def endless() -> object:
        nonlocal taken
        while True:
            taken += 1
            yield "It was a quiet day on the river. "

    ids = tokenize_stream(endless(), bert, chunk_chars=1000)  # type: ignore[arg-type]
    first = next(ids)
    assert 100 < len(first) < 1000
    assert taken < 100


@given(texts=st.lists(PROSE, max_size=6), chunk_chars=st.integers(1, 60))
def test_pushing_equals_streaming(bert: PreTrainedTokenizerBase, texts: list[str], chunk_chars: int) -> None:
    pushing = StreamTokenizer(bert, chunk_chars=chunk_chars)
    ids = [*map(pushing.push, texts), pushing.flush()]
    assert np.concatenate(ids).tolist() == streamed(bert, texts, chunk_chars)
    assert pushing.flush().size == 0
    assert {array.dtype for array in ids} == {np.dtype(np.int64)}


def test_no_warning_about_length(
    bert: PreTrainedTokenizerBase,
    corpus: list[str],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    fresh = PreTrainedTokenizerFast(tokenizer_object=bert.backend_tokenizer, unk_token="[UNK]", model_max_length=8)
    with caplog.at_level(logging.WARNING):
        assert sum(map(len, tokenize_stream(corpus[:20], fresh))) > 8
    assert not caplog.records
    assert "longer than" not in capfd.readouterr().err


def test_empty_text_has_no_tokens(bert: PreTrainedTokenizerBase) -> None:
    assert list(tokenize_stream([], bert)) == []
    assert list(tokenize_stream(["", " \n "], bert)) == []


def test_fingerprint_is_of_what_the_tokenizer_does(
    tokenizer: PreTrainedTokenizerBase, bert: PreTrainedTokenizerBase
) -> None:
    name = tokenizer_fingerprint(tokenizer)
    assert len(name) == 16
    tokenizer("a text", truncation=True, max_length=4, padding="max_length") if tokenizer.pad_token else None
    assert tokenizer_fingerprint(tokenizer) == name, "settings of the last call must not enter"
    assert tokenizer_fingerprint(PreTrainedTokenizerFast(tokenizer_object=bert.backend_tokenizer)) == (
        tokenizer_fingerprint(bert)
    )


def test_fingerprint_changes_with_the_vocabulary(bert: PreTrainedTokenizerBase) -> None:
    copy = PreTrainedTokenizerFast(
        tokenizer_object=type(bert.backend_tokenizer).from_str(bert.backend_tokenizer.to_str())
    )
    assert tokenizer_fingerprint(copy) == tokenizer_fingerprint(bert)
    copy.add_tokens(["riverbank"])
    assert tokenizer_fingerprint(copy) != tokenizer_fingerprint(bert)
