"""Many facts at once: associative memory against memory tokens on associative recall.

    python scripts/recall.py --out runs/recall
    python scripts/recall.py --out runs/armt --models "associative, normalised" --seeds 0 --save runs/armt/model

The second trains the bundled llama-armt.

A document is 8 segments that hold 8, 16 or 32 pairs of a key and a value together; then eight of the keys are asked
for. Small LLaMA-shaped decoders learn it from scratch, with the same backbone, number of memory tokens and steps at
most; what differs is the memory. As in the papers training begins with few pairs in few segments; a model goes on to
more when it tells 90% of those. Accuracy over held-out documents, for each seed, and the mean over seeds with its 95%
interval (Student's t). Time: about 15 minutes a model and seed on one CPU core. Figures to expect: docs/results.md. A
run that was killed goes on with the models that are not in OUT yet.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kept
import recall_words
import torch
from torch import Tensor

from evals.stats import student
from rmt import RMTForCausalLM
from rmt.errors import InputError

KEYS, VALUES = 64, 64
FIRST_KEY = 0
FIRST_VALUE = FIRST_KEY + KEYS
VOCABULARY = FIRST_VALUE + VALUES + 2  # an unknown word, and padding
SEGMENTS, ASKED = 8, 8
PAIRS = (8, 16, 32)
LEVELS = (1, 2, 4, 8, 16, 32)
MODELS: dict[str, dict[str, Any]] = {
    "tokens": {"memory_update": "replace"},
    "tokens, gated": {"memory_update": "gated", "gate_threshold": 0.0},
    "associative": {"memory": "associative", "associative_key_size": 32},
    "associative, normalised": {"memory": "associative", "associative_key_size": 32, "associative_normalize": True},
}


def batch(count: int, pairs: int, seed: int) -> tuple[Tensor, Tensor, int]:
    """Documents that end with keys asked for, each followed by its value, and labels: -100 but at these values.

    Args:
        count: documents.
        pairs: of a key and a value, a power of two; as many to each of eight segments, or one to each of fewer.
        seed: of all that is drawn.

    Returns:
        Two tensors of shape (count, tokens), and the size of a segment.
    """
    draw = torch.Generator().manual_seed(seed)
    keys = torch.rand(count, KEYS, generator=draw).argsort(dim=1)[:, :pairs] + FIRST_KEY
    values = torch.randint(VALUES, (count, pairs), generator=draw) + FIRST_VALUE
    asked = torch.rand(count, pairs, generator=draw).argsort(dim=1)[:, :ASKED]
    told, questions = (
        torch.stack([keys, values], dim=2),
        torch.stack([keys.gather(1, asked), values.gather(1, asked)], dim=2),
    )
    ids = torch.cat([told, questions], dim=1).flatten(1)
    labels = torch.full_like(ids, -100)
    labels[:, 2 * pairs + 1 :: 2] = ids[:, 2 * pairs + 1 :: 2]
    return ids, labels, 2 * max(1, pairs // SEGMENTS)


def build(name: str, seed: int, args: argparse.Namespace) -> RMTForCausalLM:
    """A fresh model of one kind."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    inner = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=args.hidden,
            intermediate_size=2 * args.hidden,
            num_hidden_layers=args.layers,
            num_attention_heads=4,
            max_position_embeddings=64,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=None,
            initializer_range=args.hidden**-0.5,
        )
    )
    for layer in inner.model.layers:
        # Attention begins by handing on what it looks at, and half of the heads by looking for what is alike (mimetic
        # initialisation, arXiv 2305.09828): what all of these models need, and learn late otherwise.
        attention, half = layer.self_attn, args.hidden // 2
        attention.o_proj.weight.data.copy_(attention.v_proj.weight.data.T)
        attention.k_proj.weight.data[:half] = attention.q_proj.weight.data[:half]
    model = RMTForCausalLM.from_backbone(
        inner, segment_size=2 * PAIRS[-1] // SEGMENTS, num_memory_tokens=args.memory_tokens, **MODELS[name]
    )
    return model.train()


@torch.no_grad()
def accuracy(model: RMTForCausalLM, pairs: int, documents: int) -> float:
    """Right values over the questions of held-out documents."""
    ids, labels, size = batch(documents, pairs, seed=10_000_019)
    asked = (labels[0] >= 0).nonzero().flatten() - 1
    model.eval()
    logits = model(ids, logits_to_keep=asked, segment_size=size).logits
    model.train()
    return float((logits.argmax(dim=-1) == labels[:, asked + 1]).float().mean())


def train(name: str, seed: int, args: argparse.Namespace) -> tuple[dict[str, Any], RMTForCausalLM]:
    """One model from scratch: pairs of all numbers in turn, AdamW, warm-up and cosine decay."""
    model = build(name, seed, args)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.steps, pct_start=0.05)
    start, curve, level, right_of_late = time.monotonic(), [], 0, 0.0
    draw = random.Random(seed)
    for step in range(args.steps):
        # Half of the batches at the level reached, the others anywhere below.
        at = level if step % 2 else draw.randint(0, level)
        pairs = LEVELS[at]
        ids, labels, size = batch(
            max(args.batch, min(4 * args.batch, 16 * args.batch // pairs)), pairs, seed=seed * 1_000_003 + step
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            asked = (labels[0] >= 0).nonzero().flatten() - 1
            out = model(ids, labels=labels, logits_to_keep=asked, segment_size=size)
        loss = out.loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if at == level:
            right = float((out.logits.argmax(dim=-1) == labels[:, asked + 1]).float().mean())
            right_of_late = 0.8 * right_of_late + 0.2 * right
            if right_of_late > 0.9 and level < len(LEVELS) - 1:
                level, right_of_late = level + 1, 0.0
        if level == len(LEVELS) - 1 and right_of_late > 0.99:
            break
        if step % args.log == args.log - 1 or step == args.steps - 1:
            held = {p: accuracy(model, p, 64) for p in PAIRS}
            curve.append([step + 1, LEVELS[level], held])
            shown = " ".join(f"{p}: {a:.3f}" for p, a in held.items())
            line = f"{name}, seed {seed}, step {step + 1}: {LEVELS[level]} pairs, {right_of_late:.2f} right; {shown}"
            print(line, file=sys.stderr, flush=True)
    result = {
        "model": name,
        "seed": seed,
        "accuracy": {str(p): accuracy(model, p, args.documents) for p in PAIRS},
        "parameters": sum(p.numel() for p in model.parameters()),
        "memory_bytes": model.initial_memory(1).nbytes,
        "steps": step + 1,
        "seconds": time.monotonic() - start,
        "curve": curve,
    }
    return result, model


def save(model: RMTForCausalLM, folder: Path) -> None:
    """The model, for reading, and a tokenizer whose words stand for its keys and values."""
    model.generation_config.max_new_tokens = 1  # a value is one word
    model.generation_config.pad_token_id = VOCABULARY - 1
    model.eval().save_pretrained(folder)
    recall_words.tokenizer().save_pretrained(folder)


def show(results: Sequence[dict[str, Any]]) -> str:
    """A Markdown table: mean over seeds with its 95% interval, percent."""
    lines = ["| memory | seeds | bytes | " + " | ".join(f"{p} pairs" for p in PAIRS) + " |", "|---" * 6 + "|"]
    for name in dict.fromkeys(r["model"] for r in results):
        of = [r for r in results if r["model"] == name]
        cells = []
        for pairs in PAIRS:
            values = [100 * r["accuracy"][str(pairs)] for r in of]
            estimate = student(values) if len(values) > 1 else None
            interval = f" [{estimate.low:.1f}, {estimate.high:.1f}]" if estimate else ""
            cells.append(f"{sum(values) / len(values):.1f}{interval}")
        lines.append(f"| {name} | {len(of)} | {of[0]['memory_bytes']:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Train what is not trained yet; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/recall"))
    parser.add_argument(
        "--models", nargs="+", choices=MODELS, default=["associative, normalised", "tokens", "tokens, gated"]
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument(
        "--batch", type=int, default=64, help="documents of 16 pairs and more; up to four times as many of fewer"
    )
    parser.add_argument("--documents", type=int, default=512, help="held out, for the final accuracy")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--memory-tokens", type=int, default=4)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--save", type=Path, help="a folder for the last model that is trained")
    parser.add_argument("--log", type=int, default=250, help="steps between two looks at held-out documents")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    args = parser.parse_args()

    def one(name: str, seed: int) -> dict[str, Any]:
        result, model = train(name, seed, args)
        if args.save is not None:
            save(model, args.save)
        return result

    try:
        print(show(kept.runs(args, one)))
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
