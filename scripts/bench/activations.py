"""Activation memory of training over the number of segments, plain and checkpointed.

    python scripts/bench/activations.py --segments 4 16 64

About one minute on one core. Expect the plain peak to grow with the number of segments and the checkpointed
peak to stay within 1.10 times its first row. What is saved between forward and backward grows with the number
of segments on both sides, under checkpointing by kilobytes a segment. No weights are needed: a random BERT in
the shape of MiniLM (6 layers, hidden 384) is trained on random tokens for one step each.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from efficiency.footprint import Live


@dataclass(frozen=True)
class Activations:
    """What a training step kept alive, in bytes, parameters and gradients not counted.

    Attributes:
        saved: alive between forward and backward.
        peak: alive at the worst moment of the whole step, recomputation included.
    """

    saved: int
    peak: int


def measure(loss_of: Callable[[], Tensor]) -> Activations:
    """Activation memory of one training step.

    Args:
        loss_of: runs forward and returns the loss, a scalar with a graph; keeps nothing else alive.
    """
    with Live() as storages:
        loss = loss_of()
        saved = storages.live
        loss.backward()
    return Activations(saved, storages.peak)


def table(
    counts: list[int], *, segment_size: int, batch_size: int, layers: int, hidden: int, memory: str = "tokens"
) -> list[dict[str, Any]]:
    """One row for each recurrence and number of segments."""
    from transformers import BertConfig, BertModel

    from rmt.models.sequence_classification import RMTForSequenceClassification

    inner = BertConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_attention_heads=hidden // 32,
        max_position_embeddings=max(512, segment_size + 16),
    )
    rows: list[dict[str, Any]] = []
    for recurrence in ("plain", "checkpointed"):
        torch.manual_seed(0)
        model = RMTForSequenceClassification.from_backbone(
            BertModel(inner, add_pooling_layer=False),
            segment_size=segment_size,
            num_memory_tokens=10,
            memory=memory,
            num_labels=6,
            cls_token_id=101,
            sep_token_id=102,
            recurrence=recurrence,
        ).train()
        for count in counts:
            ids = torch.randint(1000, 30000, (batch_size, count * segment_size))
            labels = torch.zeros(batch_size, dtype=torch.long)
            model.zero_grad()
            got = measure(partial(one_loss, model, ids, labels))
            first = next((r for r in rows if r["recurrence"] == recurrence), None)
            rows.append(
                {
                    "recurrence": recurrence,
                    "segments": count,
                    **asdict(got),
                    "saved_ratio": got.saved / (first["saved"] if first else got.saved),
                    "peak_ratio": got.peak / (first["peak"] if first else got.peak),
                }
            )
    return rows


CAPTION = """\
saved: alive between forward and backward; peak: alive at the worst moment of the step, with what backward recomputes;
/ first: over the first row of its kind. Under checkpointing only memories and token ids (with mask and places) are
saved, kilobytes a segment (associative memories, which are large, at a few segments only); its peak is these and one
segment's activations, computed again while backward runs."""


def show(rows: list[dict[str, Any]]) -> str:
    """Rows as a table, with what its columns mean."""
    lines = ["recurrence    segments   saved MB   / first    peak MB   / first"]
    for r in rows:
        saved, peak = r["saved"] / 1e6, r["peak"] / 1e6
        lines.append(
            f"{r['recurrence']:<12}{r['segments']:>10}{saved:>11.3f}{r['saved_ratio']:>10.2f}"
            f"{peak:>11.3f}{r['peak_ratio']:>10.2f}"
        )
    return "\n".join([*lines, CAPTION])


def one_loss(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """A training step up to its loss."""
    loss: torch.Tensor = model(input_ids=ids, labels=labels).loss
    return loss


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--segment-size", type=int, default=128, help="tokens")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--memory", choices=("tokens", "associative"), default="tokens")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args(argv)
    rows = table(
        args.segments,
        segment_size=args.segment_size,
        batch_size=args.batch_size,
        layers=args.layers,
        hidden=args.hidden,
        memory=args.memory,
    )
    if args.json:
        print(json.dumps(rows, indent=2))
        return
    print(show(rows))


if __name__ == "__main__":
    main()
