"""Pages of PDF files as text and the images drawn on them, page by page.

pypdf reads text and embedded images; it cannot render a page. So a scanned page, which is one image, comes as that
image, and a figure that a page draws with lines comes only as the text in it. An image is turned, by quarters, as its
page shows it: scanners say with /Rotate how a sheet lay. Images written into the content of a form, and those
in fonts, are not found.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from multimodal.images import MAX_PIXELS, open_image
from multimodal.pieces import Figure
from rmt.data.pdf import broken_pdf, page_text, pdf_pages
from rmt.errors import InputError

_PAGES_KEPT = 4  # pypdf keeps the images of a page it has parsed
_MAX_DEPTH = 8  # of forms within forms

Key = tuple[str, ...]
"""Names of forms and of the image in the last one."""

Axes = tuple[float, float, float, float]
"""Where one step to the right and one step up in an image lead on its page: (x, y, x, y), y upwards."""

_UPRIGHT: Axes = (1.0, 0.0, 0.0, 1.0)
_TURNS = {  # whether its rows are level, and then whether its right (else its right's height) and its top are positive
    (True, True, True): None,
    (True, True, False): Image.Transpose.FLIP_TOP_BOTTOM,
    (True, False, True): Image.Transpose.FLIP_LEFT_RIGHT,
    (True, False, False): Image.Transpose.ROTATE_180,
    (False, True, True): Image.Transpose.TRANSVERSE,
    (False, True, False): Image.Transpose.ROTATE_90,
    (False, False, True): Image.Transpose.ROTATE_270,
    (False, False, False): Image.Transpose.TRANSPOSE,
}


def pdf_pieces(path: Path, *, max_pixels: int = MAX_PIXELS, missing: str = "error") -> Iterator[str | Figure]:
    """Each page's text, then the images drawn on it, in the order in which they are drawn, each once a page.

    Args:
        path: the file.
        max_pixels: as of :func:`multimodal.images.open_image`.
        missing: "error", or "text": an image that cannot be decoded is said to be there, in words.

    Raises:
        InputError: the file is broken or encrypted, or, with ``missing="error"``, an image in it is.
    """
    for number, page in pdf_pages(path, _PAGES_KEPT):
        text = page_text(path, number, page)
        if text:
            yield text
        keys = _drawn_on(path, number, page)
        for index, (key, axes) in enumerate(keys.items(), 1):
            # A page that is nothing but an image is a scan of that page.
            label = f"[page {number}]" if not text and len(keys) == 1 else f"[page {number}, image {index}]"
            where = f"{path}, page {number}, image {index}"
            try:
                image = _turned(_decode(page, key, where, max_pixels), axes, page)
            except InputError:
                if missing == "error":
                    raise
                yield f"{label} (not readable)\n"
                continue
            yield Figure(image, label)
            yield "\n"


def draws_images(path: Path) -> bool:
    """Whether any page has an image drawn on it; reads up to the first one."""
    return any(_drawn_on(path, number, page) for number, page in pdf_pages(path))


def _drawn_on(path: Path, number: int, page: Any) -> dict[Key, Axes]:
    """What a page draws, and how it lies where it is drawn first.

    Its resources may list the images of the whole document: only what is drawn counts.
    """
    try:
        content = page.get_contents()
        found: dict[Key, Axes] = {}
        for key, axes in () if content is None else _drawn(content, page, (), page, _UPRIGHT):
            found.setdefault(key, axes)
        return found
    except Exception as error:  # a broken PDF makes the parser fail in any way
        raise broken_pdf(path, f", page {number}", error) from None


def _drawn(content: Any, holder: Any, prefix: Key, page: Any, axes: Axes) -> Iterator[tuple[Key, Axes]]:
    from pypdf.generic import ContentStream

    resources = holder.get("/Resources")
    if resources is None and holder is page:
        resources = page.get_inherited("/Resources", {}) if hasattr(page, "get_inherited") else {}
    resources = resources.get_object() if resources is not None else {}
    objects = resources.get("/XObject", {}).get_object() if "/XObject" in resources else {}
    inline = 0
    kept: list[Axes] = []
    for operands, operator in content.operations:
        if operator == b"q":
            kept.append(axes)
        elif operator == b"Q" and kept:
            axes = kept.pop()
        elif operator == b"cm":
            axes = _within(operands, axes)
        if operator == b"INLINE IMAGE" and not prefix:
            yield (f"~{inline}~",), axes
            inline += 1
        if operator != b"Do" or not operands or operands[0] not in objects:
            continue
        name = str(operands[0])
        drawn = objects[name].get_object()
        kind = drawn.get("/Subtype")
        if kind == "/Image":
            yield (*prefix, name), axes
        elif kind == "/Form" and len(prefix) < _MAX_DEPTH:
            inside = _within(drawn["/Matrix"], axes) if "/Matrix" in drawn else axes
            yield from _drawn(ContentStream(drawn, page.pdf), drawn, (*prefix, name), page, inside)


def _within(matrix: Any, axes: Axes) -> Axes:
    """Where the axes of a matrix [a b c d e f] lead, whose own lie in ``axes`` (ISO 32000-1, 8.3.4)."""
    try:
        a, b, c, d = (float(number) for number in list(matrix)[:4])
    except (TypeError, ValueError):  # no matrix: how an image lies is no reason not to see it
        return axes
    return (
        a * axes[0] + b * axes[2], a * axes[1] + b * axes[3], c * axes[0] + d * axes[2], c * axes[1] + d * axes[3],
    )  # fmt: skip


def _turned(image: Image.Image, axes: Axes, page: Any) -> Image.Image:
    """An image as its page shows it, to the nearest quarter turn, mirrored where the page mirrors it."""
    a, b, c, d = axes
    for _ in range(int(page.rotation) // 90 % 4):  # clockwise
        a, b, c, d = b, -a, d, -c
    level = abs(a * d) >= abs(b * c)  # its rows are rows of the page
    right, up = (a, d) if level else (b, c)
    turn = _TURNS[level, right >= 0, up >= 0]
    return image if turn is None else image.transpose(turn)


def _decode(page: Any, key: Key, where: str, max_pixels: int) -> Image.Image:
    try:
        found = page
        for name in key:
            if name.startswith("/"):
                found = found["/Resources"]["/XObject"][name].get_object()
        for part in (found, found.get("/SMask")) if found is not page else ():
            _check_size(part, where, max_pixels)
        image = page.images[key[0] if len(key) == 1 else key].image
    except InputError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise InputError(
            f"{where}: expected an image that pypdf can decode, got one it cannot ({reason}); print the page to a "
            "picture"
        ) from None
    if image is None:
        raise InputError(f"{where}: expected an image that pypdf can decode, got none; print the page to a picture")
    return open_image(image, max_pixels=max_pixels, where=where)


def _check_size(part: Any, where: str, max_pixels: int) -> None:
    """The size that a dictionary says, before pypdf decodes what is in it."""
    part = None if part is None else part.get_object()
    width, height = (int(part.get(key, 0)) for key in ("/Width", "/Height")) if part is not None else (0, 0)
    if width * height > max_pixels:
        raise InputError(
            f"{where}: expected an image of at most {max_pixels:,} pixels, got {width} × {height}; make it smaller, "
            "or raise max_pixels"
        )
