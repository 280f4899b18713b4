"""Folders of images and text: an index that says the order, or all files in natural order."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from multimodal.images import IMAGE_KINDS
from rmt.errors import InputError

INDEXES = ("album.md", "index.md", "album.markdown", "index.markdown")
"""Names of the file that, where a folder has one, is read in place of the folder; the first that is there."""

MARKDOWN_KINDS = frozenset({".md", ".markdown"})
_TEXT_KINDS = frozenset({".txt", ".text", ".rst", ".pdf"}) | MARKDOWN_KINDS
_DIGITS = re.compile(r"(\d+)")


def index_of(folder: Path) -> Path | None:
    """The file that says what a folder shows, None where there is none."""
    return next((folder / name for name in INDEXES if (folder / name).is_file()), None)


def files(folder: Path) -> Iterator[Path]:
    """Files of known kinds in natural order, recursive, without hidden ones.

    A folder inside that has an index is that index. Links to folders are not followed, those to files are.

    Raises:
        InputError: a folder that cannot be read.
    """
    index = index_of(folder)
    if index is not None:
        yield index
        return
    try:
        with os.scandir(folder) as found:
            entries = sorted((e for e in found if not e.name.startswith(".")), key=lambda e: _natural(e.name))
    except OSError as error:
        raise InputError(f"{folder}: expected a folder that can be read, got {error.strerror}; check it") from None
    for entry in entries:
        path = folder / entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from files(path)
        # Unlike entry.is_dir, false for a link that leads in a circle: opening it says what is wrong.
        elif path.suffix.lower() in IMAGE_KINDS | _TEXT_KINDS and not os.path.isdir(path):
            yield path


def _natural(name: str) -> tuple[list[tuple[bool, int, str]], str]:
    """A key that puts page2 before page10."""
    parts = [part for part in _DIGITS.split(name.casefold()) if part]
    # isdecimal, not isdigit: "²" is a digit that is no number to int.
    keys = [(False, int(part), "") if part.isdecimal() and len(part) < 100 else (True, 0, part) for part in parts]
    return keys, name
