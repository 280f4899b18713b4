"""The benchmark's file: one problem a line of JSON, packed or not, or the same columns from the hub.

Nothing of it is run here; prompts are parsed only, to refuse what no completion could make a program. Knows no model
and no scorer.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from evals.tasks.humaneval.specification import Unusable, setup

NAMES = ("HumanEval.jsonl.gz", "HumanEval.jsonl")
SPLIT = "test"  # the only one of openai/openai_humaneval


@dataclass(frozen=True)
class Item:
    """A problem, by the names of the file's columns.

    Attributes:
        task_id: such as "HumanEval/0".
        prompt: imports, helpers, and the function's signature with its docstring.
        canonical_solution: a body that is right; nothing here shows it to a model.
        test: Python that defines ``check(candidate)``.
        entry_point: name of the function.
    """

    task_id: str
    prompt: str
    canonical_solution: str
    test: str
    entry_point: str


COLUMNS = tuple(field.name for field in fields(Item))


def read(path: str | os.PathLike[str]) -> tuple[Item, ...]:
    """The problems of a file (.jsonl, .jsonl.gz), or of the folder that holds one of these names, in its order.

    Raises ValueError where there is no file, or one that is not in the format.
    """
    path = Path(path)
    found = [path / name for name in NAMES if (path / name).is_file()] if path.is_dir() else [path]
    if not found or not found[0].is_file():
        raise ValueError(f"files: expected {' or '.join(NAMES)}, got nothing of that name at {path}; name the file")
    return _read(str(found[0]), found[0].stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _read(path: str, changed: int) -> tuple[Item, ...]:
    try:
        data = Path(path).read_bytes()
        text = (gzip.decompress(data) if path.endswith(".gz") else data).decode("utf-8")
    except (OSError, EOFError, zlib.error) as error:  # a bad gzip is an OSError
        raise ValueError(f"{path}: expected a file that can be read, got: {error}; get it again") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: expected text in UTF-8, got other bytes; name a packed file .jsonl.gz") from None
    records = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                records.append((f"line {number}", json.loads(line)))
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}: expected JSON in line {number}, got: {error}; get the file again") from None
    return items(records, path)


def load(hub: str) -> tuple[Item, ...]:
    """The problems of a dataset ("openai/openai_humaneval", or a folder in its layout).

    Raises ValueError where there is none, or one with other columns.
    """
    return _load(hub)


@lru_cache(maxsize=2)
def _load(hub: str) -> tuple[Item, ...]:
    from datasets import load_dataset

    try:
        rows = load_dataset(hub, split=SPLIT)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"hub: expected the split {SPLIT} of {hub}, got: {reason}; give a name or a folder, or a file as files="
        ) from None
    return items(((f"row {number}", row) for number, row in enumerate(rows)), hub)


def items(records: Iterable[tuple[str, Any]], name: str) -> tuple[Item, ...]:
    """Problems of records, each with where it stands, for errors.

    Raises ValueError on none, a missing column, one that is no text, an id that occurs twice, and a prompt that no
    body makes a program with the function.
    """
    found: dict[str, Item] = {}
    for where, record in records:
        if not isinstance(record, Mapping):
            raise ValueError(f"{name}: expected an object in {where}, got {type(record).__name__}")
        wrong = [column for column in COLUMNS if not isinstance(record.get(column), str)]
        if wrong:
            raise ValueError(
                f"{name}: expected text in the columns {', '.join(COLUMNS)}, got none for {', '.join(wrong)} in {where}"
            )
        item = Item(*(record[column] for column in COLUMNS))
        if item.task_id in found:
            raise ValueError(f"{name}: expected each task_id once, got {item.task_id} again in {where}")
        try:
            setup(item.prompt, item.entry_point)
        except Unusable as error:
            raise ValueError(f"{name}: expected {error} in {where}, got {item.task_id}") from None
        found[item.task_id] = item
    if not found:
        raise ValueError(f"{name}: expected problems, got none; name the benchmark's file")
    return tuple(found.values())


def digest(problems: Iterable[Item]) -> str:
    """SHA-256 of all columns, first 16 hex digits: the same whichever way they were read."""
    return hashlib.sha256(json.dumps([astuple(item) for item in problems]).encode()).hexdigest()[:16]
