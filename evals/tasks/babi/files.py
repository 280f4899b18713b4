"""The original bAbI text format: numbered lines, a question with tabs behind it; numbers start again with each story.

    1 Mary moved to the bathroom.
    2 John went to the hallway.
    3 Where is Mary? <tab>bathroom<tab>1

Knows nothing of what the sentences say.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from evals.tasks.babi.story import Story

# Official names: "qa1_single-supporting-fact_train.txt" (en, en-10k) and "qa1_train.txt" (en-valid).
_SPLITS = ("test", "valid", "train")


def parse(lines: Iterable[str], name: str = "bAbI") -> list[Story]:
    """One story for each question, with all facts of its text before it.

    Raises ValueError, with the number of the line, where it is not in the format.
    """
    stories: list[Story] = []
    facts: list[str] = []
    places: dict[int, int] = {}  # number of a line to its place among the facts
    last = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        head, _, text = line.rstrip("\r\n").partition(" ")
        if not head.isdigit() or int(head) not in (1, last + 1):
            raise ValueError(
                f"{name}: expected line {last + 1} of a story (or 1) in line {number}, got {line.strip()!r}"
            )
        last = int(head)
        if last == 1:
            facts, places = [], {}
        if "\t" not in text:
            places[last] = len(facts)
            facts.append(text.strip())
            continue
        question, answer, *rest = text.split("\t")
        try:
            support = sorted(places[int(at)] for at in " ".join(rest).split())
        except (KeyError, ValueError):
            raise ValueError(f"{name}: expected numbers of facts in line {number}, got {rest}") from None
        stories.append(Story(tuple(facts), question.strip(), answer.strip(), tuple(support)))
    if not stories:
        raise ValueError(f"{name}: expected stories with questions, got none; name one of bAbI's files")
    return stories


def find(folder: str | os.PathLike[str], number: int) -> Path:
    """The file of a task in a folder of official names, the test split before valid before train.

    Raises ValueError where there is none.
    """
    name = re.compile(rf"qa{number}(_[a-z-]+)?_({'|'.join(_SPLITS)})\.txt")
    found = [path for path in Path(folder).glob(f"qa{number}_*.txt") if name.fullmatch(path.name)]
    if not found:
        raise ValueError(f"files: expected qa{number}_…_test.txt or _train.txt in {folder}, got none; name that folder")
    return min(found, key=lambda path: (_SPLITS.index(path.stem.rpartition("_")[2]), path.name))


def load(folder: str | os.PathLike[str], number: int) -> list[Story]:
    """All stories of a task (1 to 20) from a folder of the original files. Raises ValueError where there is none."""
    path = find(folder, number)
    return list(_load(str(path), path.stat().st_mtime_ns))


@lru_cache(maxsize=4)
def _load(path: str, changed: int) -> tuple[Story, ...]:
    with open(path, encoding="utf-8") as lines:
        return tuple(parse(lines, path))
