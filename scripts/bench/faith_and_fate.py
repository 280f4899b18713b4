"""The released scratchpads of "Faith and Fate" against ours: same text, same answer, and every node labelled correct.

    python scripts/bench/faith_and_fate.py FOLDER

FOLDER holds data/multiplication.zip and data/dp.zip of github.com/nouhadziri/faith-and-fate, unpacked (its README names
the password): multiplication/scratchpad/*.json and dp/scratchpad/*.jsonl. All of these are right, so a sound analyser
labels all their nodes correct. The maximum sums of two numbers differ
by an empty line, which theirs have and ours have not.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

from evals.scorers import assess
from evals.tasks.compositional.long_multiplication import LongMultiplication
from evals.tasks.compositional.maximum_sum import NonAdjacent
from evals.tasks.compositional.scratchpads import Worked


def released(folder: Path) -> Iterator[tuple[str, Worked, str]]:
    """Task, problem and released scratchpad, of all files."""
    for path in sorted(folder.glob("multiplication/scratchpad/*.json")):
        for item in json.loads(path.read_text(encoding="utf-8")):
            x, y = map(int, re.findall(r"[0-9]+", item["question"]))
            yield "multiplication", LongMultiplication(x, y), item["prompt"]
    for path in sorted(folder.glob("dp/scratchpad/*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            item = json.loads(line)
            yield "dp", NonAdjacent(tuple(item["raw_input"])), item["completion"].strip().removesuffix(" ###")


def main() -> None:
    """Print, for each task, how many there are and how many differ in text, in the answer, or in any label."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    begun = time.perf_counter()
    counts: dict[str, dict[str, int]] = {}
    for task, problem, text in released(folder):
        found = assess(f"{task}:scratchpad", text, (problem.answer,), problem.text)
        count = counts.setdefault(task, {"scratchpads": 0, "other text": 0, "other answer": 0, "not all correct": 0})
        count["scratchpads"] += 1
        count["other text"] += problem.scratchpad() != text
        count["other answer"] += found.score != 1
        count["not all correct"] += set(found.detail["labels"]) != {"correct"} or found.detail["unsaid"] > 0
    if not counts:
        raise SystemExit(f"folder: expected multiplication/scratchpad and dp/scratchpad in {folder}, got neither")
    print(json.dumps({"seconds": round(time.perf_counter() - begun, 1), **counts}, indent=1))


if __name__ == "__main__":
    main()
