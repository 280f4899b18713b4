"""What commands share: lengths in words, errors of libraries as bad input, bars, and files written whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import evals.memory_eval


def parse_lengths(text: str, option: str = "--lengths", least: int = 1) -> list[int]:
    """Numbers of tokens from ``4k,64k,1M``: k is a thousand, M a million.

    Args:
        option: whose value it is, for the message.
        least: the smallest number that there may be.

    Raises:
        InputError: anything else, or none.
    """
    from rmt.errors import InputError

    units = {"k": 1_000, "K": 1_000, "m": 1_000_000, "M": 1_000_000}
    sizes = []
    for part in text.split(","):
        number = part.strip()
        unit = units.get(number[-1:], 1)
        digits = number[:-1] if unit > 1 else number
        try:
            size = int(digits) * unit
        except ValueError:
            size = -1
        if size < least:
            such = "4k,64k,1M" if least else "0,4k,64k"
            raise InputError(f"{option}: expected numbers such as {such}, got {part.strip()!r}; write it so")
        sizes.append(size)
    return list(dict.fromkeys(sizes))


@contextmanager
def bad_input() -> Iterator[None]:
    """``evals`` knows no error of ours: a ValueError that it raises is bad input too, and so is a path of no use.

    What a library below raises is a mistake of ours and passes through.
    """
    from rmt.errors import InputError

    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        if not raised_in(error).startswith("evals."):
            raise
        raise InputError(str(error)) from error
    except OSError as error:
        if error.strerror is None:  # not the system's
            raise
        place = error.filename or "output"
        raise InputError(f"{place}: expected a place to write to, got {error.strerror}; choose another") from error


def raised_in(error: BaseException) -> str:
    """The module whose code an error comes from."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))


@contextmanager
def bar(shown: bool) -> Iterator[Any]:
    """A bar over tokens that takes the progress of ``evals.evaluate``."""
    from tqdm import tqdm

    with tqdm(unit="tok", unit_scale=True, disable=not shown, dynamic_ncols=True, leave=False, delay=0.3) as line:

        def report(done: evals.memory_eval.Progress) -> None:
            # Where nothing is read, documents are all there is to count.
            line.total = done.tokens_total or done.documents_total
            line.unit = "tok" if done.tokens_total else " problems"
            line.set_description(f"{done.documents}/{done.documents_total} documents", refresh=False)
            line.update((done.tokens if done.tokens_total else done.documents) - line.n)

        yield report


def write(path: Path, text: str) -> None:
    """Write beside and rename."""
    import os

    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    beside.write_text(text + "\n", encoding="utf-8")
    os.replace(beside, path)
