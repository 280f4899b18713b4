"""What it takes to score choices behind a very long context through lm-eval: seconds, and memory above the text's own.

    python scripts/bench/lm_eval_long.py --tokens 1048576
    python scripts/bench/lm_eval_long.py --quick

The context is words at random, a token each, and three choices are asked of it. ``before`` is the peak of resident
memory once the text and its token ids are there, ``added`` what reading and scoring take on top of it; a scorer that
makes the logits of the context would add tokens x vocabulary x 4 bytes (``all_logits``). Needs lm-eval.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from peak import peak_mb

WORDS = ("the", "old", "clock", "on", "wall", "had", "stopped", "at", "noon", "and", "nobody", "wind", "it", "again")
CHOICES = (" kitchen", " garden", " office")


def measure(pretrained: str, tokens: int) -> dict[str, Any]:
    """Seconds and megabytes of one context with three choices."""
    from lm_eval.api.instance import Instance

    from evals.lm_eval.model import RecurrentLM
    from rmt.cli.lm_eval import load

    loaded = load(pretrained=pretrained, dtype="float32")
    lm = RecurrentLM(loaded.model, tokenizer=loaded.tokenizer, extend=loaded.extend)
    rng = np.random.default_rng(0)
    context = " ".join(WORDS[n] for n in rng.integers(len(WORDS), size=tokens))

    def score(text: str) -> list[tuple[float, bool]]:
        requests = [Instance("loglikelihood", {}, (text, choice), 0, ("bench", 0, 1)) for choice in CHOICES]
        return lm.loglikelihood(requests, disable_tqdm=True)

    score(context[:1000])  # what the first call loads is no cost of the context
    count, before, start = len(lm.tok_encode(context)), round(peak_mb()), time.perf_counter()
    nats = [likelihood for likelihood, _ in score(context)]
    return {
        "tokens": count,
        "seconds": round(time.perf_counter() - start, 1),
        "before": before,
        "added": round(peak_mb()) - before,
        "all_logits": round(count * len(loaded.tokenizer) * 4 / 1e6),
        "nats": nats,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line of JSON, memory in MB."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrained", default="llama-rmt", help="a language model that rmt eval knows")
    parser.add_argument("--tokens", type=int, default=1 << 20)
    parser.add_argument("--quick", action="store_true", help="2,000 tokens")
    chosen = parser.parse_args(arguments)
    print(json.dumps(measure(chosen.pretrained, 2_000 if chosen.quick else chosen.tokens)))


if __name__ == "__main__":
    main()
