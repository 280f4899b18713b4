"""Where text comes from: one name for a file, a folder, standard input, a data set or the machine itself.

Knows nothing of tokens. Everything streams: at no time is more held than one record (a line of JSON, a row, a
page).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from rmt.data import pdf, plain, records
from rmt.data.installed import installed_text
from rmt.errors import InputError

PIECE_CHARS = 1 << 16
"""No piece that `iter_text` yields is longer, in characters."""

_TEXT_KINDS = frozenset({".txt", ".text", ".md", ".markdown", ".rst", ".py"})
_JSON_LINES_KINDS = frozenset({".jsonl", ".ndjson"})  # a bare .json in a folder is more often a setting
_BREAK = "\n\n"  # between documents and between records


def iter_text(
    source: str | Path, *, text_field: str = "text", split: str = "train", max_chars: int | None = None
) -> Iterator[str]:
    """Text of a source in pieces that, joined with nothing between them, are the whole text.

    Args:
        source: one of
            a text file (UTF-8, any suffix) or JSON lines (`.jsonl`, `.ndjson`, `.json`), both also as `.gz`;
            a `.parquet` or `.pdf` file;
            a folder: all files of known kinds in it, recursive, sorted, without hidden ones;
            a folder saved by `datasets`;
            `-`: standard input;
            `hub:NAME` or `hub:NAME:CONFIG`: a data set on the Hugging Face Hub;
            `installed:` or `installed:NAME,NAME`: the English in Python and installed packages, or in these.
            A `Path` is always a path.
        text_field: the field or column with the text, for sources made of records.
        split: the split, for data sets.
        max_chars: stop after this many characters; None reads to the end.

    Yields:
        Non-empty strings of at most `PIECE_CHARS` characters. Documents and records are set apart by a blank
        line. A piece may end inside a word.

    Raises:
        InputError: nothing is there, it holds no text, or it cannot be read as what it is. A missing path is
            reported at once, a broken record when the iteration reaches it.
    """
    if max_chars is not None and max_chars < 1:
        raise InputError(f"max_chars: expected at least 1, got {max_chars}; give a positive number or leave it out")
    return _checked(_open(source, text_field, split), str(source), max_chars)


def _open(source: str | Path, field: str, split: str) -> Iterator[str]:
    if isinstance(source, str):
        if source == "-":
            return plain.stdin_text()
        if source.startswith("hub:"):
            return _documents(records.hub_text(source[4:], field, split))
        if source.startswith("installed:"):
            return installed_text([name.strip() for name in source[10:].split(",") if name.strip()])
    path = Path(os.path.expanduser(source))
    if not os.path.exists(path):  # unlike Path.exists, false for a name that no file can have
        expected = "a file, a folder, '-', 'hub:NAME' or 'installed:'"
        raise InputError(f"{source}: expected {expected}, got nothing of that name; check the path")
    if not path.is_dir():
        return _file(path, field)
    if records.is_saved_dataset(path):
        return _documents(records.saved_dataset_text(path, field, split))
    return _folder(path, field)


def _file(path: Path, field: str) -> Iterator[str]:
    kind = _kind(path)
    if kind == ".pdf":
        return pdf.pdf_text(path)
    if kind == ".parquet":
        return _documents(records.parquet_text(path, field))
    if kind.removesuffix(".gz") in (".jsonl", ".ndjson", ".json"):
        return _documents(records.jsonl_text(path, field))
    return plain.file_text(path)


def _kind(path: Path) -> str:
    """The suffix in lower case; with the one before it for compressed files."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return "".join(suffixes[-2:] if suffixes[-1:] == [".gz"] else suffixes[-1:])


def _is_known(path: Path) -> bool:
    kind = _kind(path)
    return kind in (".parquet", ".pdf", ".json.gz") or kind.removesuffix(".gz") in _TEXT_KINDS | _JSON_LINES_KINDS


def _folder(folder: Path, field: str) -> Iterator[str]:
    known = written = False
    for path in _files(folder):
        known, begun = True, False
        for piece in _file(path, field):
            # The break comes with the first text of a document: an empty file leaves no trace.
            if written and not begun:
                yield _BREAK
            begun = written = True
            yield piece
    if not known:
        kinds = " ".join(sorted(_TEXT_KINDS | _JSON_LINES_KINDS | {".parquet", ".pdf"}))
        raise InputError(
            f"{folder}: expected files of a known kind ({kinds}, or images for a model that sees), got none; name one "
            "file or another folder"
        )


def _files(folder: Path) -> Iterator[Path]:
    for name, folders, files in os.walk(folder):
        folders[:] = sorted(entry for entry in folders if not entry.startswith("."))
        paths = (Path(name, entry) for entry in sorted(files) if not entry.startswith("."))
        yield from filter(_is_known, paths)


def _documents(texts: Iterator[str]) -> Iterator[str]:
    first = True
    for text in texts:
        if not text:
            continue
        if not first:
            yield _BREAK
        first = False
        yield text


def _checked(texts: Iterator[str], name: str, max_chars: int | None) -> Iterator[str]:
    """The pieces of one size at most, cut off at `max_chars`; text that is not there is an error."""
    left = max_chars
    blank = True
    for text in texts:
        text = plain.mended(text)
        if left is not None:
            text = text[:left]
            left -= len(text)
        blank = blank and not text.strip()
        for start in range(0, len(text), PIECE_CHARS):
            yield text[start : start + PIECE_CHARS]
        if left == 0:
            return
    if blank:
        raise InputError(f"{name}: expected text, got none (an empty file, or a scan of pages); give one with text")
