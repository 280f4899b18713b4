"""What RULER's documents cost to make: seconds and peak memory of each task, each in a process of its own.

    python scripts/bench/ruler.py --lengths 100000 1000000

Takes about two minutes. Each line: the first document of a length (what all of them share is tokenised then), the
next one, reading all its tokens in segments of 499, wall and CPU seconds, and by how many MB (10^6 bytes) the peak of
resident memory rose meanwhile. The tokenizer is MiniLM's WordPiece. Expected at 1,000,000: at most 1 s of CPU, 25 MB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from peak import peak_mb, reset_peak

from evals.tasks.base import Source
from evals.tasks.registry import GROUPS, create
from evals.tasks.ruler.layout import Repeated

SEGMENT = 499
ESSAY = "He went to the market. She did not, as it was far. Who was there? Nobody knew what the others had to say. "


def source(tokens: int) -> Source:
    """MiniLM's tokenizer and a background that takes no memory, so that none of it is counted."""
    from transformers import AutoTokenizer

    from rmt.pretrained import of_minilm

    tokenizer = of_minilm(AutoTokenizer.from_pretrained)

    def encode(text: str) -> np.ndarray:
        return np.array(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], dtype=np.int64)

    return Source(encode, tokenizer.decode, Repeated(encode(ESSAY), tokens + 100), digest="essay")


def measure(task: str, length: int) -> dict[str, Any]:
    """One line of the result, measured in this process."""
    given = source(length)
    warm = next(iter(create("niah_multikey_2").documents(given, 2000, 1)))  # imports and the first call of a tokenizer
    warm.tokens(0, 2000)
    next(iter(create("fwe").documents(given, 2000, 1)))
    reset_peak()
    before, marks = peak_mb(), [(time.perf_counter(), time.process_time())]
    documents = create(task).documents(given, length, 2)
    first = next(documents)
    marks.append((time.perf_counter(), time.process_time()))
    next(documents)
    marks.append((time.perf_counter(), time.process_time()))
    read = sum(len(first.tokens(start, min(start + SEGMENT, length))) for start in range(0, length, SEGMENT))
    marks.append((time.perf_counter(), time.process_time()))
    assert read == length
    spent = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(marks)]
    names = ("first", "next", "read")
    seconds = {
        f"{name}_{kind}": round(part[n], 3)
        for name, part in zip(names, spent, strict=True)
        for n, kind in enumerate(("wall", "cpu"))
    }
    return {"task": task, "length": length, **seconds, "peak_mb": round(peak_mb() - before, 1)}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--tasks", nargs="+", default=list(GROUPS["ruler-offline"]))
    parser.add_argument("--here", action="store_true", help="in this process: what the others are started with")
    chosen = parser.parse_args(arguments)
    for task in chosen.tasks:
        for length in chosen.lengths:
            if chosen.here:
                print(json.dumps(measure(task, length)), flush=True)
            else:
                told = ["--here", "--tasks", task, "--lengths", str(length)]
                subprocess.run([sys.executable, str(Path(__file__)), *told], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
