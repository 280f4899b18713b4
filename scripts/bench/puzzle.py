"""Time to make puzzles, to solve them step by step, and to label a scratchpad, by size; sizes of steps and depths.

    python scripts/bench/puzzle.py [--count 20]

About 15 seconds on one core. Prints the mean and the longest of ``--count`` puzzles of each size.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import fmean
from typing import Any

from evals.tasks.compositional.puzzle.generate import make
from evals.tasks.compositional.puzzle.scoring import judge
from evals.tasks.compositional.puzzle.steps import build, scratchpad, solve


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """What a function returns, and how long it took, in milliseconds."""
    start = time.perf_counter()
    found = function(*arguments)
    return found, 1000 * (time.perf_counter() - start)


def main() -> None:
    """One line a size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20, help="puzzles of each size")
    count = parser.parse_args().count
    make(2, 2, 1, 0)  # loads the solver
    print("size  make ms (max)    steps ms (max)   label ms (max)   clues  most in a step (max)  depth")
    for size in (2, 3, 4, 5):
        puzzles, steps, labels = [], [], []
        for number in range(count):
            (riddle, _), took = timed(make, size, size, 0, number)
            puzzles.append((riddle, took))
        for riddle, _ in puzzles:
            steps.append(timed(solve, riddle))
            labels.append(timed(judge, riddle, scratchpad(riddle))[1])
        most = [max(len(step.clues) for step in found) for found, _ in steps]
        times = ([took for _, took in puzzles], [took for _, took in steps], labels)
        told = "  ".join(f"{fmean(each):7.1f} ({max(each):5.1f})" for each in times)
        clues, depth = (fmean(each) for each in zip(*((len(r.clues), build(r).depth) for r, _ in puzzles), strict=True))
        print(f"{size}x{size}  {told}  {clues:5.1f}  {fmean(most):6.1f} ({max(most)})  {depth:12.1f}")


if __name__ == "__main__":
    main()
