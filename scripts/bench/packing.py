"""Reading many documents side by side against reading them one after another.

    python scripts/bench/packing.py                          # both models on all cores, about five minutes on two
    python scripts/bench/packing.py --threads 1 --dtype float32
    python scripts/bench/packing.py --against auto           # against the executor that a reader would choose
    python scripts/bench/packing.py --quick                  # seconds, to see that it runs

Documents are pieces of real text, of lengths drawn so that as many lie between 64 and 128 tokens as between 2,048 and
4,096. Both sides read all of them in one process, in turn; who goes first changes from one repeat to the next. For
each number of slots (documents open at a time) it prints the median over repeats of the ratio of the two times, its
least and greatest, the median for processor time (which with one thread holds on a busy machine too), and the largest
difference between two memories in parts of the largest value. Expect more than 1 from two slots on, and most on several
cores, each of which has documents of its own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import speed
import subject
import torch

from rmt import pretrained
from rmt.errors import InputError
from rmt.memory import Memory
from rmt.reader import Reader

MODELS = ("fresh", "llama-rmt")
SHORTEST, LONGEST = 64, 4096  # tokens of a document


def lengths(count: int, longest: int, seed: int = 0) -> list[int]:
    """Tokens of each document: evenly drawn on a scale of powers of two."""
    drawn = np.random.default_rng(seed).uniform(np.log2(SHORTEST), np.log2(longest), count)
    return [int(n) for n in 2**drawn]


def load(name: str) -> tuple[Any, Any]:
    """A classifier in MiniLM's shape with a classic memory (``fresh``), or a bundled model; and its tokenizer."""
    if name != "fresh":
        return pretrained.load(name)
    from transformers import AutoTokenizer

    from rmt.models import RMTForSequenceClassification

    torch.manual_seed(0)
    with pretrained.quiet():
        model = RMTForSequenceClassification.from_backbone(
            pretrained.minilm(), segment_size=128, num_memory_tokens=10, num_labels=6
        )
        return model.eval(), pretrained.of_minilm(AutoTokenizer.from_pretrained)


def gap(ours: Sequence[Memory], theirs: Sequence[Memory]) -> float:
    """The largest difference between memories of the same document, in parts of the largest value."""
    pairs = [(a.tensors[k], b.tensors[k]) for a, b in zip(ours, theirs, strict=True) for k in a.tensors]
    largest = max(float(b.abs().max()) for _, b in pairs)  # 0 where gates stayed shut on all documents
    return max(float((a - b).abs().max()) for a, b in pairs) / (largest or 1.0)


def compare(
    packed: Reader, other: Reader, documents: Sequence[np.ndarray], slots: int, repeats: int
) -> tuple[list[float], list[float], list[float], float]:
    """Of each repeat: seconds of the other reader over the packed one's, the same of processor seconds, and the cores
    that the side with fewer got; and the gap."""
    ratios, work, cores, differs = [], [], [], 0.0
    sides = {
        True: lambda: list(packed.read_many(documents, slots=slots)),
        False: lambda: [other.read(document, progress=False) for document in documents],
    }
    for number in range(repeats):
        first = number % 2 == 0
        done = {side: speed.timed(sides[side]) for side in (first, not first)}
        (ours, seconds, busy), (theirs, their_seconds, their_busy) = done[True], done[False]
        ratios.append(their_seconds / seconds)
        work.append(their_busy / busy)
        cores.append(min(busy / seconds, their_busy / their_seconds))
        differs = max(differs, gap(ours, theirs))
    return ratios, work, cores, differs


def measure(name: str, args: argparse.Namespace, folder: Path) -> None:
    """Print the table of one model."""
    model, tokenizer = load(name)
    packed = Reader(model, tokenizer, dtype=args.dtype, executor="packed")
    other = Reader(model, tokenizer, dtype=args.dtype, executor=args.against)
    wanted = lengths(args.documents, args.longest)
    text = subject.cut(args.text, tokenizer, sum(wanted), folder / f"{name}.txt")
    with packed.tokens_of(text, folder / f"{name}.tokens", progress=False) as tokens:
        ends = np.cumsum(wanted)
        documents = [tokens[int(end) - n : int(end)] for n, end in zip(wanted, ends, strict=True)]
    dtype = packed.settings()["dtype"]
    print(
        f"{name}: {len(documents)} documents of {min(wanted)} to {max(wanted)} tokens, {sum(wanted):,} in all; {dtype}"
    )
    print(f"against {other.executor.name}, one after another; {torch.get_num_threads()} threads")
    print("  slots   ratio (least to most)   of processor time   difference")
    for reader in (packed, other):
        reader.read(documents[0], progress=False)
    for slots in args.slots:
        ratios, work, cores, differs = compare(packed, other, documents, slots, args.repeats)
        spread = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        busy = f"   the machine was busy: a side got {min(cores):.2f} of a core" if min(cores) < speed.IDLE else ""
        print(f"{slots:>7}{spread:>24}{median(work):>20.2f}{differs:>13.1e}{busy}", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="fresh (MiniLM's shape) or bundled ones")
    parser.add_argument("--slots", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32], help="documents open at a time")
    parser.add_argument("--documents", type=int, default=48, help="how many")
    parser.add_argument("--longest", type=int, default=LONGEST, help="tokens of the longest document")
    parser.add_argument("--repeats", type=int, default=5, help="times that both sides read all documents")
    parser.add_argument("--text", default="installed:", help="anything that `rmt read` takes")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    parser.add_argument("--against", default="sequential", help="executor of the other side")
    parser.add_argument("--threads", type=int, help="cores to compute with; all")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes, figures of no worth")
    args = parser.parse_args(argv)
    if args.quick:
        args.documents, args.longest, args.repeats, args.slots = 5, 300, 1, [2]
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        with tempfile.TemporaryDirectory(prefix="rmt-bench-") as folder:
            for name in args.models:
                measure(name, args, Path(folder))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
