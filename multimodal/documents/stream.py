"""Any document as a stream of text and figures: one name for a file or a folder, in constant memory.

Knows which reader reads what, and nothing of tokens or models. What holds no images is read by `rmt.data`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from multimodal.documents import folder as folders
from multimodal.documents import llava_json, markdown, pdf
from multimodal.images import IMAGE_KINDS, MAX_PIXELS, ImageFile, open_image
from multimodal.pieces import Figure
from rmt.data import iter_text, plain
from rmt.data.records import is_saved_dataset
from rmt.data.sources import PIECE_CHARS
from rmt.errors import InputError

_BREAK = "\n\n"  # between documents


def iter_pieces(
    source: str | Path, *, max_pixels: int = MAX_PIXELS, missing: str = "error", text_field: str = "text"
) -> Iterator[str | Figure]:
    """A document with images in the order of reading: pieces of text, and figures whose images are not yet decoded.

    Args:
        source: one of
            an image file: one figure, its name the label;
            Markdown (`.md`, `.markdown`, also as `.gz`): its text with a figure in place of each image, the alt
            text its label and the title behind it (what counts as an image: `multimodal.documents.markdown`);
            a PDF file: text and images page by page (`multimodal.documents.pdf`);
            a folder: its `album.md` or `index.md`, else the images and text files in it in natural order, each
            image labelled with its name, without those that a Markdown file in it shows already;
            LLaVA's conversations (`.json`, `.jsonl`): their turns (`multimodal.documents.llava_json`);
            anything else that `rmt.data.iter_text` reads.
        max_pixels: the largest image that will be decoded, width × height.
        missing: "error", or "text": what a document writes for an image that is a link or not there stays as text.
        text_field: the field with the text, for records without images.

    Yields:
        Strings of at most `rmt.data.sources.PIECE_CHARS` characters, none empty, and figures.

    Raises:
        InputError: nothing is there, it holds neither text nor images, or an image that it shows is not there; the
            message names the document and the line or page. A missing path is reported at once, a missing image
            when the iteration reaches it, a broken one when it is decoded.
    """
    if missing not in ("error", "text"):
        raise InputError(f'missing: expected "error" or "text", got {missing!r}; name one of them')
    if max_pixels < 1:
        raise InputError(f"max_pixels: expected at least 1, got {max_pixels}; give a positive number")
    path = _local(source)
    if path is None:
        return iter_text(source, text_field=text_field)
    if path.is_dir():
        pieces = _folder(path, max_pixels, missing)
    elif _reader(path) == "text":
        return iter_text(path, text_field=text_field)
    else:
        pieces = _file(path, max_pixels, missing)
    return _checked(pieces, str(source))


def has_images(source: str | Path) -> bool:
    """Whether a document shows images, so that :func:`iter_pieces` and a model with eyes are needed to read it.

    Reads up to the first image; false for what is not there, and for what `rmt.data.iter_text` alone reads.

    Raises:
        InputError: the document cannot be read as what it is.
    """
    path = _local(source)
    if path is None:
        return False
    if path.is_dir():
        return any(_file_has_images(file) for file in folders.files(path))
    return _file_has_images(path)


def _local(source: str | Path) -> Path | None:
    """The path of a file or a folder that may hold images; None for what only text can come from."""
    if isinstance(source, str) and (source == "-" or source.startswith(("hub:", "installed:"))):
        return None
    path = Path(os.path.expanduser(source))
    if not os.path.exists(path) or (path.is_dir() and is_saved_dataset(path)):
        return None
    if path.is_dir() and next(folders.files(path), None) is None:
        return None
    return path


def _reader(path: Path) -> str:
    """The kind of reader for a file: image, markdown, pdf, conversations or text."""
    kind = path.suffix.lower()
    if kind in IMAGE_KINDS:
        return "image"
    if kind == ".pdf":
        return "pdf"
    if (Path(path.stem).suffix.lower() if kind == ".gz" else kind) in folders.MARKDOWN_KINDS and path.is_file():
        return "markdown"  # read twice, for definitions behind their use: a pipe is only text
    if kind in (".json", ".jsonl", ".ndjson") and llava_json.is_conversations(path):
        return "conversations"
    return "text"


def _file_has_images(path: Path) -> bool:
    reader = _reader(path)
    if reader == "markdown":
        return any(not isinstance(piece, str) for piece in _scanned(path))
    if reader == "pdf":
        return pdf.draws_images(path)
    if reader == "conversations":
        return any(sample.images for sample in llava_json.read_samples(path, check_files=False))
    return reader == "image"


def _file(path: Path, max_pixels: int, missing: str) -> Iterator[str | Figure]:
    reader = _reader(path)
    if reader == "markdown":
        return _markdown(path, max_pixels, missing)
    if reader == "pdf":
        return pdf.pdf_pieces(path, max_pixels=max_pixels, missing=missing)
    if reader == "conversations":
        return llava_json.conversation_pieces(path, max_pixels=max_pixels)
    if reader == "image":
        image = ImageFile(path, max_pixels=max_pixels)
        image.check()
        return iter((Figure(image, path.name),))
    return iter(plain.file_text(path))


def _scanned(path: Path) -> Iterator[str | markdown.Shown]:
    return markdown.scan(plain.file_text(path), markdown.definitions(plain.file_text(path)))


def _markdown(path: Path, max_pixels: int, missing: str) -> Iterator[str | Figure]:
    for piece in _scanned(path):
        if isinstance(piece, str):
            yield piece
            continue
        try:
            yield _figure(piece, path, max_pixels)
        except InputError:
            if missing == "error":
                raise
            yield piece.raw


def _figure(shown: markdown.Shown, path: Path, max_pixels: int) -> Figure:
    where = f"{path}, line {shown.line}"
    found = markdown.locate(shown.target, path.parent)
    if isinstance(found, bytes):  # an image inside the document
        return Figure(open_image(found, max_pixels=max_pixels, where=where), shown.alt, shown.title)
    if isinstance(found, str):
        raise InputError(
            f"{where}: expected an image on this machine, got the link {found[:200]}; download it and give its path"
        )
    image = ImageFile(found, where, max_pixels)
    image.check()
    return Figure(image, shown.alt, shown.title)


def _folder(folder: Path, max_pixels: int, missing: str) -> Iterator[str | Figure]:
    shown = _shown_in(folder)
    written = False
    for path in folders.files(folder):
        if path.suffix.lower() in IMAGE_KINDS:
            if os.path.realpath(path) in shown:
                continue
            image = ImageFile(path, max_pixels=max_pixels)
            pieces: Iterator[str | Figure] = iter((Figure(image, path.relative_to(folder).as_posix()),))
        else:
            pieces = _file(path, max_pixels, missing)
        first = next(pieces, None)
        if first is None:  # an empty file leaves no trace
            continue
        if written:
            yield _BREAK
        written = True
        yield from chain((first,), pieces)


def _shown_in(folder: Path) -> set[str]:
    """Files that the folder's Markdown shows: they are read there."""
    shown: set[str] = set()
    for path in folders.files(folder):
        if path.suffix.lower() in folders.MARKDOWN_KINDS:
            for piece in _scanned(path):
                found = None if isinstance(piece, str) else markdown.locate(piece.target, path.parent)
                if isinstance(found, Path):
                    shown.add(os.path.realpath(found))
    return shown


def _checked(pieces: Iterator[str | Figure], name: str) -> Iterator[str | Figure]:
    """Text cut to size and mended; a document of nothing is an error."""
    blank = True
    for piece in pieces:
        if isinstance(piece, Figure):
            blank = False
            yield piece
            continue
        text = plain.mended(piece)
        blank = blank and not text.strip()
        for start in range(0, len(text), PIECE_CHARS):
            yield text[start : start + PIECE_CHARS]
    if blank:
        raise InputError(f"{name}: expected text or images, got neither; give a document that holds some")
