"""Text files, folders and standard input, and what can be wrong with them."""

from __future__ import annotations

import gzip
import io
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmt.data import installed_text, iter_text
from rmt.data.plain import CHUNK_BYTES, decode
from rmt.data.sources import PIECE_CHARS
from rmt.errors import InputError


def refused(source: str | Path, *words: str) -> None:
    with pytest.raises(InputError) as error:
        list(iter_text(source))
    message = str(error.value)
    assert "\n" not in message
    assert all(part in message for part in ("expected", "got", ";", *words)), message


class Dribble(io.BytesIO):
    """A pipe that gives a few bytes at a time."""

    def __init__(self, raw: bytes, sizes: list[int]) -> None:
        super().__init__(raw)
        self.sizes = sizes

    def read1(self, size: int | None = -1, /) -> bytes:
        return super().read(self.sizes.pop() if self.sizes else size)


@given(text=st.text(), sizes=st.lists(st.integers(1, 4), max_size=60))
def test_decoding_does_not_depend_on_the_pieces(text: str, sizes: list[int]) -> None:
    text = text.replace("\0", "").removeprefix("\ufeff")
    raw = b"\xef\xbb\xbf" + text.encode()
    assert "".join(decode(Dribble(raw, sizes), "x")) == text.replace("\r\n", "\n").replace("\r", "\n")


@given(
    before=st.text(),
    sizes=st.lists(st.integers(1, 4), max_size=60),
    bad=st.sampled_from([b"\xff", b"\0", b"\xc3 "]),
)
def test_the_offset_of_a_bad_byte_is_exact(before: str, sizes: list[int], bad: bytes) -> None:
    raw = before.replace("\0", "").encode()
    with pytest.raises(InputError, match=f"offset {len(raw)};"):
        list(decode(Dribble(raw + bad + b"after", sizes), "x"))


@pytest.mark.parametrize("name", ["a.txt", "README", "a.md", "a.py", "a.unknown", "a.txt.gz", "a.GZ"])
def test_text_file(tmp_path: Path, name: str) -> None:
    text = "Straße, 東京.\n" * 30_000
    raw = text.encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(raw, 1) if name.lower().endswith("gz") else raw)
    for source in (path, str(path)):
        pieces = list(iter_text(source))
        assert "".join(pieces) == text
        assert len(pieces) > 1
        assert all(0 < len(piece) <= PIECE_CHARS for piece in pieces)


def test_a_long_document_comes_in_small_pieces(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "' + "word " * 50_000 + '"}')
    assert [len(piece) for piece in iter_text(path)] == [PIECE_CHARS] * 3 + [250_000 - 3 * PIECE_CHARS]


@pytest.mark.parametrize("limit", [1, 5, CHUNK_BYTES, CHUNK_BYTES + 1, 10**9])
def test_max_chars(tmp_path: Path, limit: int) -> None:
    text = "0123456789" * 10_000
    (tmp_path / "a.txt").write_text(text)
    assert "".join(iter_text(tmp_path / "a.txt", max_chars=limit)) == text[:limit]


def test_max_chars_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="max_chars: expected at least 1, got 0"):
        iter_text(tmp_path, max_chars=0)


def test_text_is_not_read_before_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"good text\n" * CHUNK_BYTES + b"\xff")
    assert next(iter_text(path)).startswith("good text")
    refused(path, "not UTF-8", f"offset {10 * CHUNK_BYTES}")


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("Grüße\r\n".encode())))
    assert "".join(iter_text("-")) == "Grüße\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    refused("-", "expected text, got none")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\xff")))
    refused("-", "standard input", "offset 1")


def test_standard_input_is_given_on_as_it_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as source, os.fdopen(write, "wb", buffering=0) as sink:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(source))
        pieces = iter_text("-")
        sink.write(b"first ")
        assert next(pieces) == "first "  # the pipe is still open: waiting for more would hang
        sink.write(b"second")
        assert next(pieces) == "second"


def test_folder(tmp_path: Path) -> None:
    files = {
        "b.txt": "Text b.",
        "a/z.md": "Text z.",
        "a/b/c.rst": "Text c.",
        "empty.txt": "",
        "picture.png": "not text",
        "settings.json": "{}",
        ".hidden/x.txt": "hidden",
        ".hidden.txt": "hidden",
        "c.jsonl": '{"text": "Line 1."}\n{"text": "Line 2."}\n',
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "d.txt.gz").write_bytes(gzip.compress(b"Text d."))
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    expected = ["Text b.", "Line 1.", "Line 2.", "Text d.", "Text z.", "Text c."]
    assert "".join(iter_text(tmp_path)) == "\n\n".join(expected)


def test_folder_names_the_file_that_is_broken(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("good")
    (tmp_path / "b.txt").write_bytes(b"bad \x00")
    refused(tmp_path, "b.txt", "NUL byte at offset 4")


def test_folder_without_text_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "known kind", ".txt")
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    refused(tmp_path, "known kind")
    (tmp_path / "a.txt").write_text(" \n")
    refused(tmp_path, "expected text, got none")


def test_missing_path_is_refused_at_once(tmp_path: Path) -> None:
    for source in (tmp_path / "nothing.txt", str(tmp_path / "nothing"), "", Path("-"), Path("installed:")):
        if str(source) == "":
            continue
        with pytest.raises(InputError, match="got nothing of that name"):
            iter_text(source)


@pytest.mark.parametrize("raw", [b"", b" \n\t\n", b"\xef\xbb\xbf"])
def test_empty_file_is_refused(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(raw)
    refused(path, str(path), "expected text, got none")


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        (b"\x7fELF\x02\x01\x01\x00", "NUL byte at offset 7"),
        ("Grüße".encode("latin-1"), "not UTF-8 at offset 2"),
        ("word".encode("utf-16"), "at offset"),
        ("cut ü".encode()[:-1], "not UTF-8 at offset 4"),
    ],
)
def test_binary_file_is_refused(tmp_path: Path, raw: bytes, word: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(raw)
    refused(path, str(path), word)


# Named, since a gzip header holds the time: workers that collect in different seconds must agree on the tests.
@pytest.mark.parametrize(
    "raw",
    [b"no gzip", gzip.compress(b"word " * 9999)[:-9], b"", gzip.compress(b"x")[:5]],
    ids=["no gzip", "cut behind", "empty", "cut in the header"],
)
def test_broken_gzip_is_refused(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(raw)
    refused(path, str(path))


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every file")
def test_unreadable_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("text")
    path.chmod(0)
    refused(path, "Permission denied")


def test_installed() -> None:
    assert "".join(iter_text("installed: argparse , logging")) == "".join(installed_text(["argparse", "logging"]))
    assert next(iter_text("installed:")) == next(installed_text())
    refused("installed:json,no_such_package", "no_such_package")
