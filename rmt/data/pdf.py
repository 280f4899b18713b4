"""Text of PDF files, page by page."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rmt.errors import InputError

_PAGES_KEPT = 32


def pdf_text(path: Path) -> Iterator[str]:
    """Text of each page of a PDF file that has any, ending in a newline.

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
        raise _broken(path, "", error) from None
    for number in range(pages):
        if number % _PAGES_KEPT == 0:
            # The reader keeps every object it has parsed; what a page needs again it parses again.
            reader.resolved_objects.clear()
        try:
            text = reader.pages[number].extract_text()
        except Exception as error:
            raise _broken(path, f", page {number + 1}", error) from None
        if text.strip():
            yield text.rstrip() + "\n"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the parser's own remarks on a file that it cannot open: the error says it."""
    logger = logging.getLogger("pypdf")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _broken(path: Path, where: str, error: BaseException) -> InputError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return InputError(f"{path}{where}: expected a whole PDF, got one that is broken ({reason}); copy or print it again")
