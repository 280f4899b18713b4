"""What scoring a continuation adds to resident memory behind a long document, against the logits of all of it.

    python scripts/bench/long_scoring.py

About 2 minutes on one core for the bundled llama-rmt behind 2^20 tokens. Expect about 200 MB for a continuation of
4,096 tokens, and 128 GB for all logits in float32 (vocabulary 30,522), which is what a scorer makes that runs the model
over text and continuation and asks for every logit. That scorer is run too, on ``--naive`` tokens, so that the figure
for all is one that was measured, times a length. ``--model`` takes any spec of ``rmt.cli.scored``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peak import peak_mb, reset_peak

from rmt.cli import scored
from rmt.errors import InputError

BLOCK = 1 << 12
QUICK = {"tokens": 1 << 12, "continuations": [1, 64], "naive": 256}
FULL = {"tokens": 1 << 20, "continuations": [1, 64, 4096], "naive": 1 << 12}


@dataclass(frozen=True)
class Made:
    """A document of random tokens, made as they are read."""

    length: int
    least: int
    most: int
    questions: tuple[Any, ...] = ()

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """Token ids, int64."""
        first, last = start // BLOCK, -(-stop // BLOCK)
        blocks = [np.random.default_rng(n).integers(self.least, self.most, BLOCK) for n in range(first, last)]
        return np.concatenate(blocks)[start - first * BLOCK : stop - first * BLOCK]


def resident_mb() -> float:
    """What is resident now, in MB; Linux only."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def added(function: Any) -> tuple[Any, float, float]:
    """What a call gives, the MB it added at its peak, and its seconds."""
    if not reset_peak():
        raise InputError("long_scoring: expected a system whose peak memory can be reset (Linux), got another; use one")
    before, began = resident_mb(), time.perf_counter()
    result = function()
    return result, max(0.0, peak_mb() - before), time.perf_counter() - began


def inner(model: Any) -> Any:
    """The torch model at the bottom."""
    while hasattr(model, "inner"):
        model = model.inner
    return model.reader.model if hasattr(model, "reader") else model.model


def all_logits(model: Any, ids: np.ndarray, count: int) -> float:
    """Nats of the last ``count`` tokens, out of all logits of one forward: what is to be avoided."""
    with torch.inference_mode():
        text = torch.from_numpy(ids)[None].to(model.device)
        likely = model(input_ids=text, logits_to_keep=0).logits[0].float().log_softmax(-1)
        at = torch.arange(len(ids) - count - 1, len(ids) - 1)
        return float(likely[at, torch.from_numpy(ids[-count:])].sum())


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Read, score, and run the scorer of all logits on a short text."""
    model = scored.model(args.model, args.dtype)
    if model.answers is not None:
        raise InputError(f"--model: expected a language model, got the classifier {args.model}; its answers are labels")
    net = inner(model)
    vocabulary = int(net.config.vocab_size)
    document = Made(args.tokens, min(1000, vocabulary // 2), vocabulary)
    (state,), reading, seconds = added(lambda: model.read([document]))
    prompt = model.encode("And then?")
    rows = []
    for count in args.continuations:
        ids = Made(count, document.least, vocabulary).tokens(0, count)
        (score,), mb, took = added(lambda ids=ids: model.score(state, prompt, [ids]))
        everything = (args.tokens + len(prompt) + count) * vocabulary * 4 / 1e6
        row = {"continuation": count, "added_mb": mb, "seconds": took, "nats_a_token": score.nats / count}
        rows.append(row | {"own_logits_mb": count * vocabulary * 4 / 1e6, "all_logits_mb": everything})
    text = document.tokens(0, args.naive)
    _, naive_mb, _ = added(lambda: all_logits(net, text, min(64, args.naive // 2)))
    return {
        "model": model.name,
        "tokens": args.tokens,
        "vocabulary": vocabulary,
        "reading_mb": reading,
        "reading_seconds": seconds,
        "resident_mb": resident_mb(),
        "rows": rows,
        "naive_tokens": args.naive,
        "naive_mb": naive_mb,
        "naive_mb_at_length": naive_mb / args.naive * args.tokens,
    }


def show(result: dict[str, Any]) -> str:
    """A table, and the ratios."""
    lines = [
        f"{result['model']}: read {result['tokens']:,} tokens in {result['reading_seconds']:.0f} s, "
        f"{result['reading_mb']:.0f} MB added",
        f"{'continuation':>12} {'added MB':>10} {'own logits MB':>14} {'all logits MB':>14} {'ratio':>8} {'sec':>7}",
    ]
    for row in result["rows"]:
        ratio = row["all_logits_mb"] / max(row["added_mb"], 1e-3)
        lines.append(
            f"{row['continuation']:>12,} {row['added_mb']:>10.1f} {row['own_logits_mb']:>14.1f} "
            f"{row['all_logits_mb']:>14,.0f} {ratio:>8,.0f} {row['seconds']:>7.2f}"
        )
    lines.append(
        f"a scorer of all logits added {result['naive_mb']:,.0f} MB at {result['naive_tokens']:,} tokens, "
        f"which is {result['naive_mb_at_length'] / 1e3:,.0f} GB at {result['tokens']:,}"
    )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llama-rmt", help="a language model, by a spec of rmt.cli.scored")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--tokens", type=int, help="of the document")
    parser.add_argument("--continuations", type=int, nargs="+", help="tokens of what is scored")
    parser.add_argument("--naive", type=int, help="tokens for the scorer of all logits")
    parser.add_argument("--quick", action="store_true", help="a few seconds, to see that it runs")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    for name, value in (QUICK if args.quick else FULL).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    try:
        result = measure(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result) if args.json else show(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
