"""Records of a JSON file one at a time: an array, however long, or an object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from rmt.data import plain
from rmt.errors import InputError

MAX_RECORD = 1 << 26
"""A record longer than that, in characters, is an error: what a file holds in memory at most."""

_SPACE = " \t\r\n"


def read_records(path: Path) -> Iterator[tuple[int, Any]]:
    """(index from 0, record) of a JSON array of objects, or of JSON lines; which of them, the first character says.

    Raises:
        InputError: not UTF-8, broken JSON, or a record over `MAX_RECORD`; the message names the index or line.
    """
    chunks = plain.file_text(path)
    head = ""
    for head in chunks:
        if head.strip():
            break
    head = head.lstrip()
    if head.startswith("["):
        return _array(chain((head[1:],), chunks), path)
    return _lines(chain((head,), chunks), path)


def _lines(chunks: Iterator[str], path: Path) -> Iterator[tuple[int, Any]]:
    index, number, held = 0, 0, ""
    for chunk in chain(chunks, ("\n",)):
        *lines, held = (held + chunk).split("\n")
        if len(held) > MAX_RECORD:
            raise _too_long(f"{path}, index {index}")
        for line in lines:
            number += 1
            if line.strip():
                yield index, _loads(line, f"{path}, line {number}")
                index += 1


def _array(chunks: Iterator[str], path: Path) -> Iterator[tuple[int, Any]]:
    decoder = json.JSONDecoder()
    held, index, ended = "", 0, False
    needed = 1  # characters to hold before it is worth to parse again: doubled, so that a long record costs no square
    first = True
    while True:
        held = held.lstrip(_SPACE)
        while len(held) < needed and not ended:
            chunk = next(chunks, None)
            ended = chunk is None
            held = (held + (chunk or "")).lstrip(_SPACE)
        where = f"{path}, index {index}"
        if held.startswith("]"):
            if held[1:].strip() or any(chunk.strip() for chunk in chunks):
                raise InputError(f"{where}: expected nothing behind the array, got more; mend the file")
            return
        if not first and not held.startswith(",") and held:
            raise InputError(f"{where}: expected a comma or the end of the array, got {held[:20]!r}; mend it")
        begin = 0 if first else 1
        while begin < len(held) and held[begin] in _SPACE:
            begin += 1
        try:
            if held[begin : begin + 1] not in ("{", ""):
                raise InputError(
                    f"{where}: expected a JSON object, got {held[begin : begin + 20]!r}; write one a sample"
                )
            # An object ends in a brace: what was cut short can never be taken for whole.
            record, end = decoder.raw_decode(held, begin)
        except RecursionError:
            raise _too_deep(where) from None
        except json.JSONDecodeError as error:
            if ended:
                raise _broken(where, error) from None
            if len(held) > MAX_RECORD:
                raise _too_long(where) from None
            needed = max(2 * len(held), 2)
            continue
        yield index, record
        held, index, first, needed = held[end:], index + 1, False, 1


def _loads(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except RecursionError:
        raise _too_deep(where) from None
    except ValueError as error:
        raise _broken(where, error) from None


def _broken(where: str, error: ValueError) -> InputError:
    reason = getattr(error, "msg", str(error))
    return InputError(f"{where}: expected JSON, got what is broken or cut short ({reason}); mend it")


def _too_deep(where: str) -> InputError:
    return InputError(f"{where}: expected a flat JSON object, got one nested too deep; flatten it")


def _too_long(where: str) -> InputError:
    return InputError(f"{where}: expected a record of at most {MAX_RECORD:,} characters, got a longer one; split it")
