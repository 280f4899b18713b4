"""What a small memory writes over, and whether copies of it bring it back: recall with and without retrieval.

    python scripts/recall_retrieval.py --out runs/recall-retrieval

A document is 16 segments; each tells a key with its value, no key twice. Then every key is asked for, each of a fork of
the memory. Small LLaMA-shaped decoders learn it from scratch (two layers, hidden 64, 50 made-up words, two memory
tokens that are replaced in each segment), with the same batches, steps and number of parameters: the model without
retrieval has a wider feed-forward instead. ``memory only`` is the paper's retrieval, memory tokens alone ask;
``memory and words`` is what the library does. Held-out documents also come with 32 segments, of which the bank holds
half the copies. Accuracy for each seed, and the mean over seeds with its 95% interval (Student's t); chance is one in
16. Time: two to six minutes a model and seed on one CPU core, by what else runs there. Figures to expect:
docs/results.md. A run that was killed goes on with the models that are not in OUT yet.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kept
import torch
from torch import Tensor

from evals.stats import student
from rmt import RMTForCausalLM
from rmt.errors import InputError

KEYS, VALUES = 32, 16
FIRST_VALUE = 1 + KEYS
VOCABULARY = FIRST_VALUE + VALUES + 1
PAIRS = 1  # a segment
SEGMENTS = (16, 32)  # in training, and longer
STAGES = (4, 4, 4, 8, 16)  # segments of a document, each for a fifth of the steps
BUDGET, TOP = 16, 4
MODELS = ("none", "memory only", "memory and words")


def batch(count: int, segments: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Documents, and a question for each pair of them.

    Args:
        count: documents.
        segments: of each, 2 * PAIRS tokens long.
        seed: of all that is drawn.

    Returns:
        Documents (count, segments * 2 * PAIRS); questions (count, pairs, 2), key and value, in the order told; their
        targets, -100 but at the values.
    """
    draw = torch.Generator().manual_seed(seed)
    keys = torch.rand(count, KEYS, generator=draw).argsort(dim=1)[:, : segments * PAIRS] + 1
    values = torch.randint(VALUES, keys.shape, generator=draw) + FIRST_VALUE
    pairs = torch.stack([keys, values], dim=2)
    targets = pairs.clone()
    targets[:, :, 0] = -100
    return pairs.flatten(1), pairs, targets


def build(name: str, seed: int, args: argparse.Namespace) -> RMTForCausalLM:
    """A fresh model of one kind."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    # Six square matrices of retrieval are as many numbers as three of a layer's feed-forward in each of two layers.
    wider = args.hidden if name == "none" else 0
    inner = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=args.hidden,
            intermediate_size=2 * args.hidden + wider,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=32,
            initializer_range=args.hidden**-0.5,
        )
    )
    # As large as last hidden states, or what a memory held before drowns the word beside it (docs/log.md).
    torch.nn.init.normal_(inner.get_input_embeddings().weight)
    model = RMTForCausalLM.from_backbone(
        inner,
        segment_size=2 * PAIRS,
        num_memory_tokens=args.memory_tokens,
        memory_update="replace",
        retrieval_every=0 if name == "none" else 1,
        retrieval_budget=BUDGET,
        retrieval_top=TOP,
        retrieval_keep=args.keep,
    )
    retrieval = model.cell.retrieval
    if name == "memory only" and retrieval is not None:
        for linear in (retrieval.text_query, retrieval.text_output):  # the latter is zero, and stays so
            linear.requires_grad_(False)
    return model.train()


@torch.no_grad()
def accuracy(model: RMTForCausalLM, segments: int, documents: int) -> list[float]:
    """Right values of held-out documents, in each quarter of what was told, the oldest first."""
    model.eval()
    right = []
    for start in range(0, documents, 64):
        ids, questions, _ = batch(min(64, documents - start), segments, seed=10_000_019 + start)
        logits = model(ids, question_ids=questions).logits[:, :, 0]
        right.append((logits.argmax(dim=-1) == questions[:, :, 1]).float())
    model.train()
    return [float(part.mean()) for part in torch.cat(right).chunk(4, dim=1)]


def train(name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """One model from scratch: AdamW, a warm-up and a decay at the end; documents grow from four segments to sixteen."""
    model = build(name, seed, args)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.01, betas=(0.9, 0.98))
    decay = 0.15 * args.steps
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: min(1.0, (n + 1) / 50, (args.steps - n) / decay))
    start = time.monotonic()
    for step in range(args.steps):
        segments = STAGES[len(STAGES) * step // args.steps]
        ids, questions, targets = batch(args.batch, segments, seed=seed * 1_000_003 + step)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            loss = model(ids, question_ids=questions, question_targets=targets).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % args.log == args.log - 1:
            parts = " ".join(f"{part:.3f}" for part in accuracy(model, segments, 64))
            spent = time.monotonic() - start
            print(
                f"{name}, seed {seed}, step {step + 1}, {segments} segments, {spent:.0f} s: "
                f"loss {loss.item():.3f}, accuracy oldest to newest {parts}",
                file=sys.stderr,
                flush=True,
            )
    seconds = time.monotonic() - start
    return {
        "model": name,
        "seed": seed,
        "quarters": {str(s): accuracy(model, s, args.documents) for s in SEGMENTS},
        "parameters": sum(p.numel() for p in model.parameters()),
        "memory_bytes": model.initial_memory(1).nbytes,
        "seconds": seconds,
    }


def estimate(values: Sequence[float]) -> str:
    """Mean over seeds with its 95% interval, percent."""
    said = f"{100 * sum(values) / len(values):.1f}"
    if len(values) < 2:
        return said
    low, high = student([100 * value for value in values])
    return f"{said} [{low:.1f}, {high:.1f}]"


def show(results: Sequence[dict[str, Any]]) -> str:
    """A Markdown table: accuracy over all that was told, and over its oldest and its newest quarter."""
    heads = [f"{s} segments{of}" for s in SEGMENTS for of in ("", ", oldest", ", newest")]
    lines = ["| retrieval | seeds | parameters | memory, bytes | " + " | ".join(heads) + " |", "|---" * 10 + "|"]
    for name in dict.fromkeys(r["model"] for r in results):
        of = [r for r in results if r["model"] == name]
        cells = [name, str(len(of)), f"{of[0]['parameters']:,}", f"{of[0]['memory_bytes']:,}"]
        for segments in SEGMENTS:
            quarters = [r["quarters"][str(segments)] for r in of]
            cells.append(estimate([sum(q) / 4 for q in quarters]))
            cells += [estimate([q[at] for q in quarters]) for at in (0, 3)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Train what is not trained yet; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/recall-retrieval"))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--documents", type=int, default=256, help="held out, for the final accuracy")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--memory-tokens", type=int, default=2)
    parser.add_argument("--keep", default="spread")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--log", type=int, default=100, help="steps between two looks at held-out documents")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    args = parser.parse_args()
    try:
        print(show(kept.runs(args, lambda name, seed: train(name, seed, args))))
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
