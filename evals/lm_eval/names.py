"""Names of our tasks in lm-eval, and files that let its command find them. Knows nothing of lm-eval.

``rmt_qa1_4k`` is task qa1 of ``evals.tasks.registry`` on documents of 4,000 tokens; ``rmt_babilong_4k`` is a group.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from evals.tasks.registry import GROUPS, TASKS, names

PREFIX = "rmt_"
# What a pattern such as rmt_qa1_* stands for; any other length is as good by name.
LENGTHS = ("1k", "2k", "4k", "8k", "16k", "32k", "64k", "128k", "256k", "512k", "1M")
_UNITS = {"k": 1_000, "M": 1_000_000}


def parse(name: str) -> tuple[str, int]:
    """Task (or group) and tokens out of ``rmt_<task>_<length>``.

    Raises:
        ValueError: another name, an unknown task, or no length.
    """
    task, _, size = name.removeprefix(PREFIX).rpartition("_")
    unit = _UNITS.get(size[-1:], 1)
    digits = size[:-1] if unit > 1 else size
    if not name.startswith(PREFIX) or not digits.isdigit() or not int(digits):
        raise ValueError(f"task: expected rmt_<task>_<length> such as rmt_qa1_4k, got {name!r}; write it so")
    names(task)
    return task, int(digits) * unit


def known(length: str) -> list[str]:
    """The names of all tasks and groups at a length; without those that measure more than lm-eval asks, or show it."""
    beyond = {"emergence", *GROUPS.get("emergence", ()), "images", *(task for task in TASKS if task[:6] == "image_")}
    return [f"{PREFIX}{task}_{length}" for task in (*TASKS, *GROUPS) if task not in beyond]


def wanted(patterns: Sequence[str]) -> list[str]:
    """The names among ours that lm-eval is asked for, by name or with ``*``; those of others are left out.

    Raises ValueError on a name that begins like ours and is none.
    """
    found: list[str] = []
    for pattern in patterns:
        if "*" in pattern or "?" in pattern:
            found += [name for length in LENGTHS for name in known(length) if fnmatchcase(name, pattern)]
        elif pattern.startswith(PREFIX):
            parse(pattern)
            found.append(pattern)
    return list(dict.fromkeys(found))


def write(folder: str | os.PathLike[str], wanted: Sequence[str], source: str) -> None:
    """Write one file a task into ``folder``, for lm-eval's ``--include_path``. Groups become tags.

    Args:
        folder: an empty one.
        wanted: names of tasks and groups.
        source: ``module.function`` that makes the ``Source`` out of lm-eval's metadata (``--metadata`` and
            ``--model_args``, as keywords).
    """
    tags: dict[str, list[str]] = {}
    for name in wanted:
        task, _ = parse(name)
        size = name.rpartition("_")[2]
        if task in GROUPS:
            for member in names(task):
                tags.setdefault(f"{PREFIX}{member}_{size}", []).append(name)
        else:
            tags.setdefault(name, [])
    for name, of in tags.items():
        task, length = parse(name)
        lines = [
            f"task: {name}",
            "class: !function evals.lm_eval.tasks.HarnessTask",
            f"source: !function {source}",
            f"spec: {task}",
            f"length: {length}",
            *(["tag:", *(f"  - {tag}" for tag in of)] if of else []),
        ]
        (Path(folder) / f"{name}.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
