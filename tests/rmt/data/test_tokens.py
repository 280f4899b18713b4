"""Token files: content, header, positioned reads, and every way a file can be wrong."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rmt.data import TokenFile, tokenizer_fingerprint
from rmt.errors import InputError

HEADER_BYTES = 4096


@pytest.fixture(scope="session")
def text(corpus: list[str]) -> str:
    return "".join(corpus)[:50_000] + " Ende gut: Straße, 東京."


@pytest.fixture(scope="session")
def built(bert: PreTrainedTokenizerBase, text: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenFile]:
    pieces = (text[start : start + 1013] for start in range(0, len(text), 1013))
    path = tmp_path_factory.mktemp("tokens") / "new folder" / "book.tokens"
    with TokenFile.build(pieces, bert, path, source="pydoc_data") as file:
        yield file


@pytest.fixture(scope="session")
def ids(bert: PreTrainedTokenizerBase, text: str) -> list[int]:
    return bert(text, add_special_tokens=False, verbose=False)["input_ids"]


def words(count: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose words are the numbers below `count`."""
    vocab = {str(number): number for number in range(count)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def assert_one_line(error: pytest.ExceptionInfo[InputError], *parts: str) -> None:
    message = str(error.value)
    assert "\n" not in message
    assert "expected" in message
    assert "got" in message
    for part in parts:
        assert part in message


def test_holds_the_ids_of_the_text(built: TokenFile, ids: list[int]) -> None:
    assert len(built) == len(ids)
    assert built[:].dtype == np.int64
    assert built[:].tolist() == ids


def test_header_says_what_is_inside(built: TokenFile, text: str, bert: PreTrainedTokenizerBase) -> None:
    assert built.digest == hashlib.sha256(text.encode()).hexdigest()
    assert built.num_chars == len(text)
    assert built.tokenizer_fingerprint == tokenizer_fingerprint(bert)
    assert built.source == "pydoc_data"
    assert built.dtype == np.uint16
    assert os.path.getsize(built.path) == HEADER_BYTES + 2 * len(built)
    assert f"{len(built):,} tokens" in repr(built)


@given(a=st.none() | st.integers(-20_000, 20_000), b=st.none() | st.integers(-20_000, 20_000))
def test_slices_are_those_of_a_list(built: TokenFile, ids: list[int], a: int | None, b: int | None) -> None:
    assert built[a:b].tolist() == ids[a:b]


def test_single_ids_and_bad_indices(built: TokenFile, ids: list[int]) -> None:
    assert (built[0], built[-1], built[len(ids) - 1]) == (ids[0], ids[-1], ids[-1])
    assert isinstance(built[0], int)
    for index in (len(ids), -len(ids) - 1):
        with pytest.raises(IndexError, match="expected an index within"):
            built[index]
    with pytest.raises(ValueError, match="step 1"):
        built[::2]


def test_iter_covers_the_file_once(built: TokenFile, ids: list[int]) -> None:
    chunks = list(built.iter(999))
    assert {len(chunk) for chunk in chunks[:-1]} == {999}
    assert np.concatenate(chunks).tolist() == ids
    assert np.concatenate(list(built.iter(512, start=100))).tolist() == ids[100:]
    with pytest.raises(ValueError, match="at least 1"):
        next(built.iter(0))


def test_large_vocabulary_takes_four_bytes(tmp_path: Path) -> None:
    for count, dtype in ((65_536, np.uint16), (65_537, np.uint32)):
        with TokenFile.build([f"7 {count - 1}", " 65535"], words(count), tmp_path / "x.tokens") as file:
            assert file.dtype == dtype
            assert file[:].tolist() == [7, count - 1, 65_535]


def test_pickles_by_path(built: TokenFile, ids: list[int]) -> None:
    with pickle.loads(pickle.dumps(built)) as copy:
        assert copy[5:50].tolist() == ids[5:50]


def test_closes(built: TokenFile) -> None:
    with TokenFile.open(built.path) as file:
        assert file[0] == built[0]
    with pytest.raises(ValueError, match="closed"):
        file[0]
    file.close()


def test_progress_counts_up_to_the_whole(bert: PreTrainedTokenizerBase, text: str, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    pieces = (text[start : start + 500] for start in range(0, len(text), 500))
    with TokenFile.build(
        pieces, bert, tmp_path / "x.tokens", progress=lambda chars, tokens: seen.append((chars, tokens))
    ) as file:
        assert seen[-1] == (len(text), len(file))
    assert len(seen) > 2
    assert seen == sorted(seen)
    assert seen[0][0] < len(text) / 2, "tokens are written while the text still comes"


def test_any_source_and_any_text_fit(bert: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    for source in ("東" * 5000, "\x00" * 5000, '"' * 5000, "\ud800"):
        with TokenFile.build(["one half \ud83d of a pair"], bert, tmp_path / "x", source=source) as file:
            assert file.source in source or file.source == "?"
            assert file.digest == hashlib.sha256("one half \ufffd of a pair".encode()).hexdigest()


def test_failure_leaves_the_old_file_and_nothing_else(bert: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    path = tmp_path / "x.tokens"
    TokenFile.build(["the old text"], bert, path).close()
    before = path.read_bytes()

    def breaks() -> Iterator[str]:
        yield "the new text " * 5000
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TokenFile.build(breaks(), bert, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["x.tokens"]


def test_empty_text_is_refused(bert: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        TokenFile.build([" \n", ""], bert, tmp_path / "x.tokens", source="empty.txt")
    assert_one_line(error, "empty.txt", "none")
    assert os.listdir(tmp_path) == []


def test_unwritable_place_is_refused(bert: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError) as error:
        TokenFile.build(["text"], bert, tmp_path / "file" / "x.tokens")
    assert_one_line(error, "x.tokens")


def test_other_tokenizer_is_refused(built: TokenFile, bert: PreTrainedTokenizerBase) -> None:
    TokenFile.open(built.path, bert).close()
    other = words(10)
    with pytest.raises(InputError) as error:
        TokenFile.open(built.path, other)
    assert_one_line(error, tokenizer_fingerprint(other), tokenizer_fingerprint(bert))


@pytest.mark.parametrize("cut", [1, 2, 3000, -4, -1000])
def test_cut_file_is_refused(built: TokenFile, tmp_path: Path, cut: int) -> None:
    raw = built.path.read_bytes()
    path = tmp_path / "cut.tokens"
    path.write_bytes(raw[:-cut] if cut > 0 else raw + bytes(-cut))
    with pytest.raises(InputError) as error:
        TokenFile.open(path)
    assert_one_line(error, str(len(raw)), str(path.stat().st_size))


def test_file_cut_while_open_is_refused(built: TokenFile, tmp_path: Path) -> None:
    path = tmp_path / "x.tokens"
    path.write_bytes(built.path.read_bytes())
    with TokenFile.open(path) as file:
        os.truncate(path, HEADER_BYTES + 10)
        with pytest.raises(InputError) as error:
            file[:]
    assert_one_line(error, "fewer")


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        (b"", "another kind"),
        (b"Call me Ishmael.", "another kind"),
        (bytes(8192), "another kind"),
        (b"rmt-tokens 1\n{not json", "header"),
        (b"rmt-tokens 1\n[1, 2]", "header"),
        (b"rmt-tokens 1\n" + json.dumps({"count": 1, "dtype": "float32"}).encode(), "header"),
        (b"rmt-tokens 1\n" + json.dumps({"count": 1, "dtype": "uint16"}).encode(), "header"),
    ],
)
def test_foreign_file_is_refused(tmp_path: Path, raw: bytes, word: str) -> None:
    path = tmp_path / "x.tokens"
    path.write_bytes(raw)
    with pytest.raises(InputError) as error:
        TokenFile.open(path)
    assert_one_line(error, str(path), word)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.tokens", tmp_path):
        with pytest.raises(InputError) as error:
            TokenFile.open(path)
        assert_one_line(error, str(path))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads resident memory from /proc")
def test_reading_leaves_nothing_resident(built: TokenFile, tmp_path: Path) -> None:
    count = 40_000_000  # 80 MB, a hole on disk
    header = json.loads(built.path.read_bytes()[13:HEADER_BYTES])
    path = tmp_path / "long.tokens"
    path.write_bytes((b"rmt-tokens 1\n" + json.dumps(header | {"count": count}).encode()).ljust(HEADER_BYTES))
    os.truncate(path, HEADER_BYTES + 2 * count)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    with TokenFile.open(path) as file:
        assert sum(map(len, file.iter(1 << 16, start=count - (1 << 20)))) == 1 << 20  # warm up
        before = resident()
        total = sum(len(chunk) for chunk in file.iter(1 << 16))
        grown = resident() - before
    assert total == count
    assert grown < 2 * count / 8, "an eighth of the file, against all of it for a memory map"
