"""Checks a second of the sandbox, and whether its verdicts hold under load.

    python scripts/bench/sandbox.py speed HumanEval.jsonl.gz --rounds 7
    python scripts/bench/sandbox.py load HumanEval.jsonl.gz --runs 10

``speed`` checks HumanEval's 164 canonical solutions in each round, with the layers the machine has, and with fewer of
them; the median of the rounds counts. ``load`` checks the canonical solutions, as many wrong ones and a set of programs
that time out, exhaust memory or attack, while every core runs two busy loops, and compares the verdicts of all runs.
Data: openai/human-eval, ``data/HumanEval.jsonl.gz``.
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import os
import statistics
import time
from collections import Counter

from evals.sandbox import Case, Limits, Sandbox

TEST = "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(3) == 9\n"
HOSTILE = {
    "loop": "def f(x):\n    while True:\n        pass\n",
    "sleep": "import time\ndef f(x):\n    time.sleep(1000)\n",
    "memory": "def f(x):\n    return [0] * 10**9\n",
    "slow memory": "def f(x):\n    a = []\n    while True:\n        a.append(bytearray(1 << 20))\n",
    "exit": "import os\nos._exit(0)\n",
    "system": "import posix\nposix.system('true')\ndef f(x):\n    return x * x\n",
    "crash": "import ctypes\ndef f(x):\n    ctypes.string_at(0)\n",
    "recursion": "def f(x):\n    return f(x)\n",
    "half": """
import time
def f(x):
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    return x * x
""",
}
SUBSETS = {"all layers": (), "without namespaces": ("user",), "without Landlock and seccomp": ("landlock", "seccomp")}


def problems(path: str, wrong: bool = False) -> list[Case]:
    """One case a problem: its canonical solution, or one that returns None at once."""
    with gzip.open(path, "rt") as file:
        rows = [json.loads(line) for line in file]
    return [
        Case(
            r["prompt"] + ("    return None\n" if wrong else r["canonical_solution"]),
            r["prompt"] + "    pass\n",
            r["test"],
            r["entry_point"],
        )
        for r in rows
    ]


def speed(path: str, rounds: int, workers: int) -> None:
    cases = problems(path)
    for name, without in SUBSETS.items():
        with Sandbox(workers=workers, without=without) as box:
            box.check_many(cases[:8])
            rates = []
            for _ in range(rounds):
                start = time.perf_counter()
                verdicts = box.check_many(cases)
                rates.append(len(cases) / (time.perf_counter() - start))
        passed = sum(v.passed for v in verdicts)
        low, high = min(rates), max(rates)
        print(
            f"{name:30} {statistics.median(rates):6.1f} checks/s ({low:.1f} to {high:.1f})  {passed} of {len(cases)}",
            flush=True,
        )
        print(f"  {box.isolation}")


def _busy() -> None:
    while True:
        pass


def load(path: str, runs: int, workers: int) -> None:
    cases = [*problems(path), *problems(path, wrong=True), *(Case(p, "", TEST, "f") for p in HOSTILE.values())]
    loops = [multiprocessing.Process(target=_busy, daemon=True) for _ in range(2 * (os.cpu_count() or 1))]
    seen: list[list[str]] = []
    with Sandbox(limits=Limits(seconds=1.0, wall=20.0), workers=workers) as box:
        seen.append([v.outcome for v in box.check_many(cases)])
        for loop in loops:
            loop.start()
        for run in range(runs):
            start = time.perf_counter()
            seen.append([v.outcome for v in box.check_many(cases)])
            print(f"run {run}: {dict(Counter(seen[-1]))} in {time.perf_counter() - start:.0f} s", flush=True)
        for loop in loops:
            loop.kill()
    differ = sum(len(set(outcomes)) > 1 for outcomes in zip(*seen, strict=True))
    print(f"{len(cases)} cases, {runs} runs under load and one without: {differ} cases with more than one verdict")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "load"])
    parser.add_argument("data", help="HumanEval.jsonl.gz")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if options.what == "speed":
        speed(options.data, options.rounds, options.workers)
    else:
        load(options.data, options.runs, options.workers)


if __name__ == "__main__":
    main()
