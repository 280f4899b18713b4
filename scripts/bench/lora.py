"""Time and saved activations of a LoRA step under recurrence, over the same model with frozen weights.

    python scripts/bench/lora.py

Some minutes on one core. A LLaMA-shaped model with random weights in bfloat16 reads 8 segments in one graph; its memory
tokens are trained on every side, so that all sides keep the same graph. A step is forward, backward and a step of SGD
with rate zero; its time is the processor's, so that other programs disturb it less. Sides take turns in one process; a
ratio is the median over rounds of a side's time over that of the frozen model in the same round. Saved are bytes of
unique storages that autograd keeps for backward, parameters left out; the next column adds what ours keeps beside, one
copy of the adapters in bfloat16, and the last says how much memory frozen weights take that were laid out for oneDNN.
"ours no layouts" does without them, and "frozen laid out" is the frozen model with them, to see what of the time is
theirs. Expect PEFT's default near 1.3 in time and 2.0 in activations (1.6 and 3.0 with dropout), ours near 1.05 and 1.3
with and without.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

SIDES = ("frozen laid out", "PEFT", "PEFT bf16", "ours", "ours no layouts", "ours shared")


@dataclass(frozen=True)
class Shape:
    """Of the model and what it reads."""

    hidden: int = 1024
    inner: int = 2816
    layers: int = 4
    segments: int = 8
    segment_size: int = 112
    memory: int = 8
    batch: int = 1
    vocab: int = 1000
    rank: int = 16


def frozen(shape: Shape) -> Any:
    """The model with nothing to train but its memory tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from rmt.models import RMTForCausalLM

    inner = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=max(1, shape.hidden // 64),
    )
    torch.manual_seed(0)
    model = RMTForCausalLM.from_backbone(
        LlamaForCausalLM(inner).to(torch.bfloat16), segment_size=shape.segment_size, num_memory_tokens=shape.memory
    )
    model.backbone.requires_grad_(False)
    return model.train()


class LaidOut(torch.autograd.Function):
    """x W^T with W laid out both ways."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, layouts: Any) -> Tensor:
        """x of shape (..., features)."""
        ctx.weight, ctx.layouts = weight, layouts
        return layouts.ahead(x.flatten(0, -2), weight, None).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of x."""
        through = ctx.layouts.back(gradient.flatten(0, -2), ctx.weight)
        return through.view(*gradient.shape[:-1], -1), None, None


def lay_out(model: Any) -> Any:
    """Frozen weights of the model's linear layers laid out, where ``inject`` would put adapters."""
    from efficiency.prepack import SIDES, Layouts

    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and "lm_head" not in name:
            layouts = Layouts(SIDES)
            layer.forward = lambda x, layer=layer, layouts=layouts: LaidOut.apply(x, layer.weight, layouts)
    return model


def adapted(model: Any, side: str, dropout: float, rank: int) -> Any:
    """A copy with adapters on all linear layers, run as ``side`` says."""
    if side == "frozen laid out":
        return lay_out(copy.deepcopy(model))
    return inject(copy.deepcopy(model), side, dropout, rank)


def inject(model: Any, side: str, dropout: float, rank: int) -> Any:
    """``model`` itself with adapters on all linear layers, the same numbers for every side, run as ``side`` says."""
    from peft import LoraConfig, get_peft_model

    from efficiency.lora import fuse

    config = LoraConfig(r=rank, lora_dropout=dropout, target_modules="all-linear", modules_to_save=["cell"])
    torch.manual_seed(1)
    model = get_peft_model(model, config, autocast_adapter_dtype=side != "PEFT bf16").train()
    maker = torch.Generator().manual_seed(2)  # on the CPU, whose numbers do not depend on the format
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.copy_(0.01 * torch.randn(parameter.shape, generator=maker))
        if "lora_" in name and side == "PEFT bf16":
            parameter.data = parameter.data.bfloat16()
    if side.startswith("ours"):
        masks = "shared" if side == "ours shared" else "sample"
        fuse(model, masks=masks, **({"prepack": 0} if side == "ours no layouts" else {}))
    return model


def saved_bytes(model: Any, loss_of: Callable[[], Tensor]) -> int:
    """Bytes of unique storages kept for backward, parameters and buffers left out."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    found: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        found.setdefault(tensor.untyped_storage().data_ptr(), tensor)  # held, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = loss_of()
    total = sum(t.untyped_storage().nbytes() for at, t in found.items() if at not in own)
    loss.backward()
    return total


def one_step(model: Any, optimizer: torch.optim.Optimizer, ids: Tensor) -> float:
    """Seconds of processor time that a step takes."""
    start = time.process_time()
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.process_time() - start


def measure(shape: Shape, dropout: float, rounds: int, sides: Sequence[str] = SIDES) -> list[dict[str, Any]]:
    """One row for each side, the frozen model first."""
    from efficiency.lora import kept_beside, laid_out

    base = frozen(shape)
    models = {"frozen": base} | {side: adapted(base, side, dropout, shape.rank) for side in sides}
    ids = torch.randint(shape.vocab, (shape.batch, shape.segments * shape.segment_size))
    saved = {
        side: saved_bytes(model, lambda model=model: model(input_ids=ids, labels=ids).loss)
        for side, model in models.items()
    }
    optimizers = {
        side: torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
        for side, model in models.items()
    }
    times: dict[str, list[float]] = {side: [] for side in models}
    names = list(models)
    for number in range(rounds + 1):
        turn = number % len(names)
        took = {side: one_step(models[side], optimizers[side], ids) for side in names[turn:] + names[:turn]}
        if number:  # the first warms up
            for side in names:
                times[side].append(took[side])
    return [
        {
            "side": side,
            "dropout": dropout,
            "rounds": rounds,
            "seconds": median(times[side]),
            "time_ratio": median(a / b for a, b in zip(times[side], times["frozen"], strict=True)),
            "saved": saved[side],
            "saved_ratio": saved[side] / saved["frozen"],
            "with_copies_ratio": (saved[side] + kept_beside(models[side])) / saved["frozen"],
            "laid_out": laid_out(models[side]),
        }
        for side in names
    ]


def show(rows: list[dict[str, Any]]) -> str:
    """Rows as a table."""
    lines = [
        f"{'side':<17}{'dropout':>8}{'seconds':>9}{'/ frozen':>10}{'saved MB':>10}{'/ frozen':>10}{'copies too':>12}"
        f"{'layouts MB':>12}"
    ]
    for r in rows:
        lines.append(
            f"{r['side']:<17}{r['dropout']:>8}{r['seconds']:>9.3f}{r['time_ratio']:>10.3f}"
            f"{r['saved'] / 1e6:>10.1f}{r['saved_ratio']:>10.3f}{r['with_copies_ratio']:>12.3f}"
            f"{r['laid_out'] / 1e6:>12.1f}"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = Shape()
    for name in Shape.__dataclass_fields__:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(defaults, name))
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.0, 0.05])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--quick", action="store_true", help="a tiny model, two rounds: to test the program itself")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args(argv)
    shape = Shape(**{name: getattr(args, name) for name in Shape.__dataclass_fields__})
    if args.quick:
        shape = Shape(hidden=64, inner=96, layers=2, segment_size=16, memory=2, vocab=100, rank=4, batch=shape.batch)
    rows = [row for p in args.dropout for row in measure(shape, p, 2 if args.quick else args.rounds, args.sides)]
    print(json.dumps(rows, indent=2) if args.json else show(rows))


if __name__ == "__main__":
    main()
