"""Where the time of reading goes: one document in which nothing is written, on one core.

    python scripts/bench/profile_reading.py                       # segments of 128 tokens, about a minute
    python scripts/bench/profile_reading.py --segment-size 499    # segments that fill 512 positions

Expect products to take most of it. A document is read a few times without a look and once under torch's profiler,
with one thread, so that times add up. What operations take is the profiler's; what is left of the time without it is
Python's, and that of anything else. Gates are shut and the memory has 10 tokens (a fresh model over MiniLM; its
weights' values cost no time). Text is random tokens.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import roofline
import subject
import torch
from torch.profiler import ProfilerActivity, profile

from rmt.errors import InputError

REPEATS = 5
# What an operation is for, by its name; the first that matches.
KINDS = {
    "matrix products": ("_linear_pointwise", "addmm", "aten::mm", "mkldnn_linear"),
    "attention": ("bmm", "exp2", "aten::sum", "div_", "softmax", "scaled_dot_product", "flash_attention"),
    "activation": ("gelu", "relu", "silu"),
    "norm": ("layer_norm", "rms_norm"),
    "moving and adding": ("copy_", "cat", "zero_", "fill_", "aten::add", "aten::mul", "aten::neg", "empty"),
}
OTHER = "other operations"
PYTHON = "Python, and what is no operation"


def kind_of(name: str) -> str:
    """What an operation of this name is for."""
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), OTHER)


def shares(times: Iterable[tuple[str, float]], wall: float) -> dict[str, float]:
    """Seconds by kind; what operations do not account for is Python's.

    Args:
        times: name and own seconds of operations.
        wall: seconds in all.
    """
    found = dict.fromkeys([*KINDS, OTHER], 0.0)
    for name, seconds in times:
        found[kind_of(name)] += seconds
    return {**found, PYTHON: max(0.0, wall - sum(found.values()))}


def measure(read: Callable[[], Any]) -> tuple[dict[str, float], float]:
    """Seconds by kind, and the fastest of a few runs without the profiler."""
    walls = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        read()
        walls.append(time.perf_counter() - start)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        read()
    times = [(event.key, event.self_cpu_time_total / 1e6) for event in seen.key_averages()]
    return shares([(name, seconds) for name, seconds in times if "::" in name], min(walls)), min(walls)


def show(found: dict[str, float], wall: float, segments: int) -> str:
    """A table: milliseconds a segment, and the share."""
    lines = ["                                        ms a segment   share"]
    for name, seconds in found.items():
        lines.append(f"{name:40s}{1e3 * seconds / segments:>12.3f}{seconds / wall:>8.1%}")
    return "\n".join([*lines, f"{'all':40s}{1e3 * wall / segments:>12.3f}"])


def main(argv: list[str] | None = None) -> int:
    """Measure and print; the exit code."""
    from rmt.reader import Reader

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segment-size", type=int, default=128, help="tokens")
    parser.add_argument("--segments", type=int, default=64, help="of the document")
    parser.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16")
    parser.add_argument("--executor", default="auto", help="see rmt.executors.EXECUTORS")
    args = parser.parse_args(argv)
    try:
        if args.segments < 1:
            raise InputError(f"--segments: expected at least 1, got {args.segments}; give a larger number")
        model, tokenizer = subject.load("fresh", args.segment_size)
        torch.set_num_threads(1)
        reader = Reader(model, tokenizer, dtype=args.dtype, executor=args.executor)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    ids = np.random.default_rng(0).integers(1000, 20000, args.segments * args.segment_size)
    found, wall = measure(lambda: reader.read(ids, progress=False))
    print(f"{args.segments} segments of {args.segment_size} tokens, {reader.dtype}, {reader.executor.name}, one core")
    print(show(found, wall, args.segments))
    speed = len(ids) / wall
    needed = roofline.operations(model.config)
    assert needed is not None
    peak = roofline.peaks(model.config, reader.dtype, "cpu")["own"]
    rate = needed * args.segments / wall
    part = f"{rate / peak:.0%} of the {peak / 1e9:.0f} of products alone"
    print(f"{speed:,.0f} tokens/s; operations {rate / 1e9:.0f} GFLOP/s, {part}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
