"""What an evaluation costs: seconds and peak memory of each document read, one line each beside the rows.

Kept apart from the rows, which are the same however often and wherever a run is made.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from evals.rows import part_path, part_paths


@dataclass(frozen=True)
class Cost:
    """Of one batch of documents read and asked.

    Attributes:
        length: tokens of each document.
        documents: how many were read together.
        read_seconds, ask_seconds: wall time of reading them, and of all questions of them with all controls.
        questions: how many answers that were.
        peak_bytes: the largest resident memory of the process until then.
    """

    length: int
    documents: int
    read_seconds: float
    ask_seconds: float
    questions: int
    peak_bytes: int


def peak_bytes() -> int:
    """Largest resident memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def log_cost(path: str | os.PathLike[str], cost: Cost, part: int = 0) -> None:
    """Append one line; ``part`` as in ``evals.rows``."""
    file = part_path(path, part)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab+") as lines:
        if lines.tell() and (lines.seek(-1, os.SEEK_END), lines.read(1))[1] != b"\n":
            lines.write(b"\n")  # a process was killed in the middle of a line, which must not take this one with it
        lines.write(json.dumps(asdict(cost)).encode() + b"\n")


def load_costs(path: str | os.PathLike[str]) -> list[Cost]:
    """All whole lines of all processes; a half line at an end is left out, and no file at all is no costs."""
    costs = []
    for file in part_paths(path):
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                costs.append(Cost(**json.loads(line)))
            except (ValueError, TypeError):
                continue
    return costs


def cost_path(rows: str | os.PathLike[str]) -> Path:
    """Where the costs of a run stand whose rows are ``rows``: ``cost.jsonl`` beside ``rows.jsonl``."""
    rows = Path(rows)
    return rows.with_name(rows.name.replace("rows", "cost") if "rows" in rows.name else f"{rows.stem}.cost.jsonl")
