"""Text of PDF files, page by page."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rmt.errors import InputError

_PAGES_KEPT = 32


def pdf_text(path: Path) -> Iterator[str]:
    """Text of each page of a PDF file that has any, ending in a newline; errors as of `pdf_pages`."""
    for number, page in pdf_pages(path):
        text = page_text(path, number, page)
        if text:
            yield text


def pdf_pages(path: Path, kept: int = _PAGES_KEPT) -> Iterator[tuple[int, Any]]:
    """Pages of a PDF file, numbered from 1, as pypdf's objects; what is parsed for them is kept for `kept` pages.

    A file that is encrypted with an empty password opens as readers open it.

    Raises:
        InputError: the file is broken, or encrypted with a password.
    """
    import pypdf
    from pypdf.errors import DependencyError

    try:
        with _quiet():
            reader = pypdf.PdfReader(path)
            if reader.is_encrypted and not reader.decrypt(""):
                raise InputError(f"{path}: expected an open PDF, got one encrypted with a password; decrypt it first")
            pages = len(reader.pages)
    except InputError:
        raise
    except DependencyError:
        raise InputError(
            f"{path}: expected an open PDF, got one with AES encryption; decrypt it or install cryptography"
        ) from None
    except Exception as error:  # a broken PDF makes the parser fail in any way
        raise broken_pdf(path, "", error) from None
    for number in range(pages):
        if number % kept == 0:
            # The reader keeps every object it has parsed; what a page needs again it parses again.
            reader.resolved_objects.clear()
        try:
            page = reader.pages[number]
        except Exception as error:
            raise broken_pdf(path, f", page {number + 1}", error) from None
        yield number + 1, page


def page_text(path: Path, number: int, page: Any) -> str:
    """Text of one page, ending in a newline; "" where it has none."""
    try:
        text = page.extract_text()
    except Exception as error:
        raise broken_pdf(path, f", page {number}", error) from None
    return text.rstrip() + "\n" if text.strip() else ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the parser's own remarks on a file that it cannot open: the error says it."""
    logger = logging.getLogger("pypdf")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def broken_pdf(path: Path, where: str, error: BaseException) -> InputError:
    """What to say of a PDF file that the parser fails on."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return InputError(f"{path}{where}: expected a whole PDF, got one that is broken ({reason}); copy or print it again")
