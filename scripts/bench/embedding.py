"""How fast MiniLM makes the index of a document for the retrieval baseline, on one thread.

    python scripts/bench/embedding.py

Tokens a second of wall time and of the processor's own time (the same on a machine that nobody shares), in bfloat16 and
float32, with chunks of 128 tokens; once from token ids and once through text, as for a model with another tokenizer.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import torch
from long_scoring import Made

from evals.models import Embedder, Retrieval
from rmt.cli import scored
from rmt.pretrained import minilm


def measure(dtype: str, same_tokens: bool, chunk: int, tokens: int) -> dict[str, Any]:
    """One index."""
    embedder = Embedder.from_folder(minilm(), dtype)
    model = Retrieval(scored.model("llama-rmt"), embedder, chunk=chunk, same_tokens=same_tokens)
    model.read([Made(8 * chunk, 1000, 30_000)])  # a first run lays out weights
    wall, own = time.perf_counter(), time.process_time()
    (index,) = model.read([Made(tokens, 1000, 30_000)])
    wall, own = time.perf_counter() - wall, time.process_time() - own
    row = {"dtype": dtype, "from": "ids" if same_tokens else "text", "chunks": len(index.vectors)}
    return row | {"wall": tokens / wall, "own": tokens / own, "index_mb": index.vectors.nbytes / 1e6}


def main(argv: list[str] | None = None) -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, help="of the document")
    parser.add_argument("--chunk", type=int, default=128)
    parser.add_argument("--quick", action="store_true", help="a few seconds, to see that it runs")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    tokens = args.tokens or (1 << 11 if args.quick else 1 << 17)
    rows = [measure(d, same, args.chunk, tokens) for d in ("bfloat16", "float32") for same in (True, False)]
    if args.json:
        print(json.dumps(rows))
        return 0
    print(f"{'dtype':>9} {'from':>5} {'tokens/s':>9} {'own time':>9} {'s for 1M':>9}")
    for row in rows:
        line = f"{row['dtype']:>9} {row['from']:>5} {row['wall']:>9,.0f} {row['own']:>9,.0f} {1e6 / row['own']:>9.0f}"
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
