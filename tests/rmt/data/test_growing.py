"""Tokens of a text that is still being tokenised: the same ids, before the text has ended, and nothing left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from rmt.data import TokenFile, growing
from rmt.data.growing import GrowingTokens
from rmt.errors import InputError

WAIT = 20.0  # seconds in which something happens that should


@pytest.fixture(scope="module")
def text(corpus: list[str]) -> str:
    return "".join(corpus)[:200_000]


def pieces(text: str) -> Iterator[str]:
    return (text[start : start + 1013] for start in range(0, len(text), 1013))


@pytest.mark.parametrize("size", [1000, 4096, 10**9])
def test_blocks_are_those_of_the_file(bert: PreTrainedTokenizerBase, text: str, tmp_path: Path, size: int) -> None:
    with TokenFile.build(pieces(text), bert, tmp_path / "whole", source="book") as whole:
        with GrowingTokens(pieces(text), bert, tmp_path / "growing", "book") as coming:
            blocks = list(coming.blocks(size))
            end = coming.finished()
            assert (coming.total, end.digest, end.source) == (len(whole), whole.digest, "book")
        assert all(len(block) == size for block in blocks[:-1])
        assert np.array_equal(np.concatenate(blocks), whole[:])
        assert {block.dtype for block in blocks} == {np.dtype(np.int64)}


def test_a_text_of_full_blocks_ends_without_an_empty_one(bert: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    with GrowingTokens(["one two three "] * 4, bert, tmp_path / "tokens") as coming:
        half = len(coming.finished()) // 2
        assert [len(block) for block in coming.blocks(half)] == [half, half]


def test_a_block_is_there_before_the_text_has_ended(bert: PreTrainedTokenizerBase, text: str, tmp_path: Path) -> None:
    taken = threading.Event()

    def waiting() -> Iterator[str]:
        yield from pieces(text)
        if not taken.wait(WAIT):
            raise InputError("expected a block to be taken meanwhile, got none")
        yield " The end."

    with GrowingTokens(waiting(), bert, tmp_path / "tokens") as coming:
        blocks = coming.blocks(1000)
        first = next(blocks)
        assert coming.total is None
        taken.set()
        rest = list(blocks)
        assert coming.total == len(first) + sum(map(len, rest))
        assert np.array_equal(np.concatenate([first, *rest]), coming.finished()[:])


def test_what_breaks_a_text_is_told_where_its_ids_are_taken(
    bert: PreTrainedTokenizerBase, text: str, tmp_path: Path
) -> None:
    def broken() -> Iterator[str]:
        yield from pieces(text)
        raise InputError("page 7: expected text, got none; repair it")

    with GrowingTokens(broken(), bert, tmp_path / "tokens") as coming:
        with pytest.raises(InputError, match="page 7"):
            list(coming.blocks(1000))
        with pytest.raises(InputError, match="page 7"):
            coming.finished()
        assert coming.total is None
    assert list(tmp_path.iterdir()) == []


def test_a_text_that_breaks_behind_its_first_block_says_so(bert: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    """Whichever thread is first: the one that takes the block, or the one that removes the file."""

    def broken(number: int) -> Iterator[str]:
        yield "some words of it " * 4096
        raise InputError(f"line {number}: expected text, got none; repair it")

    for number in range(60):
        with (
            GrowingTokens(broken(number), bert, tmp_path / "tokens") as coming,
            pytest.raises(InputError, match=f"line {number}:"),
        ):
            list(coming.blocks(64))


def test_an_older_file_of_that_name_is_not_read(bert: PreTrainedTokenizerBase, text: str, tmp_path: Path) -> None:
    TokenFile.build(["something else"], bert, tmp_path / "tokens").close()
    with GrowingTokens(pieces(text), bert, tmp_path / "tokens") as coming:
        got = np.concatenate(list(coming.blocks(512)))
    with TokenFile.build(pieces(text), bert, tmp_path / "whole") as whole:
        assert np.array_equal(got, whole[:])


def test_a_thread_left_behind_spoils_nothing(
    bert: PreTrainedTokenizerBase, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing, "LONGEST_WAIT", 0.05)
    awake = threading.Event()

    def stalls() -> Iterator[str]:
        yield text
        awake.wait(WAIT)
        yield text

    with GrowingTokens(stalls(), bert, tmp_path / "tokens") as left:
        next(left.blocks(64))

    def slow() -> Iterator[str]:
        yield text
        awake.set()
        left._thread.join(WAIT)
        yield " and the end."

    with GrowingTokens(slow(), bert, tmp_path / "tokens") as coming:
        got = sum(map(len, coming.blocks(512)))
        assert got == len(coming.finished())


def test_an_empty_text_is_refused(bert: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    with (
        GrowingTokens([" \n"], bert, tmp_path / "tokens", "empty.txt") as coming,
        pytest.raises(InputError, match=r"empty.txt: expected text with tokens"),
    ):
        next(coming.blocks(10))


def test_who_leaves_early_ends_the_thread(bert: PreTrainedTokenizerBase, text: str, tmp_path: Path) -> None:
    def endless() -> Iterator[str]:
        while True:
            yield from pieces(text)

    with GrowingTokens(endless(), bert, tmp_path / "tokens") as coming:
        next(coming.blocks(1000))
        assert coming._thread.is_alive()
    assert not coming._thread.is_alive()
    assert list(tmp_path.iterdir()) == []


def test_a_text_that_never_comes_holds_nobody_up(
    bert: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing, "LONGEST_WAIT", 0.05)
    asked, come = threading.Event(), threading.Event()

    def silent() -> Iterator[str]:
        asked.set()
        come.wait(WAIT)
        yield "a word"

    with GrowingTokens(silent(), bert, tmp_path / "tokens") as coming:
        assert asked.wait(WAIT)
    assert coming._thread.is_alive(), "left before the text came"
    come.set()
    coming._thread.join(WAIT)
    assert not coming._thread.is_alive()
