"""Training steps of LoRA over 4-bit weights against the same over bfloat16, when weights run once per segment.

    python scripts/bench/qlora.py                 # 64 tokens a segment; about 2 minutes on one core
    python scripts/bench/qlora.py --tokens 16 64 128 512
    python scripts/bench/qlora.py --budget 0.25 0.5 1 --order segments layers

A model of linear layers with PEFT's LoRA on each (r 16, adapters in bfloat16) runs a document of 8 segments, forward
and backward, whose layers are called segment by segment, or layer by layer. Sides take turns in one process, and a
ratio is the median over rounds of a side's time over that of bfloat16 in the same round. The last column is what the
cache kept. bitsandbytes' Linear4bit stays in training mode: an evaluation pass on CPU would cost it its gradients.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from efficiency import nf4
from efficiency.lora import fuse
from efficiency.qlora import Linear4bit, NF4Linear, nf4_layers, quantize_model, stored_bytes
from efficiency.surgery import replace_modules
from efficiency.weight_cache import WeightCache

BASE = "bfloat16"
THEIRS = "Linear4bit"
FUSED = " fused"


class Layer(nn.Module):
    """Two linear layers around a nonlinearity, beside a residual: the products of a transformer without the rest."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(hidden, hidden, bias=False), nn.Linear(hidden, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Recurrent(nn.Module):
    """Layers that run once per segment.

    Args:
        order: ``segments`` runs all layers for a segment before the next, ``layers`` all segments in a layer.
    """

    def __init__(self, layers: int, hidden: int, order: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(hidden) for _ in range(layers))
        self.order = order

    def forward(self, segments: list[Tensor]) -> Tensor:
        if self.order == "segments":
            done = []
            for x in segments:
                for layer in self.layers:
                    x = layer(x)
                done.append(x)
        else:
            done = segments
            for layer in self.layers:
                done = [layer(x) for x in done]
        return torch.stack([x.float().square().mean() for x in done]).sum()


@dataclass(frozen=True)
class Row:
    """One side under one setting.

    Attributes:
        seconds: of a step, median.
        ratio: to bfloat16, median over rounds.
        kept_mb: by the cache after the last step.
        made: dequantisations of a weight in a step.
    """

    tokens: int
    order: str
    side: str
    seconds: float
    ratio: float
    kept_mb: float
    made: float


def bits_in_place(model: nn.Module) -> nn.Module:
    """The same with bitsandbytes' own layers."""

    def choose(_: str, module: nn.Module) -> nn.Module | None:
        if not isinstance(module, NF4Linear):
            return None
        shape = module.in_features, module.out_features
        twin = Linear4bit(*shape, False, torch.bfloat16, quant_type="nf4", device="meta")
        twin.weight = module.weight
        return twin

    replace_modules(model, choose)
    return model


def side(name: str, layers: int, hidden: int, order: str) -> tuple[Any, WeightCache | None]:
    """The model of a side with its adapters, and its cache; all have the same weights and adapters."""
    torch.manual_seed(0)
    model: nn.Module = Recurrent(layers, hidden, order).to(torch.bfloat16)
    cache, fused = None, name.endswith(FUSED)
    name = name.removesuffix(FUSED)
    if name != BASE:
        half = 2 * sum(p.numel() for p in model.parameters())
        if name.startswith("cache "):
            cache = WeightCache(int(half * float(name.removeprefix("cache "))))
        quantize_model(model, cache=cache)
        if name == THEIRS:
            bits_in_place(model)
    torch.manual_seed(1)
    adapted: Any = get_peft_model(model, LoraConfig(r=16, target_modules=["up", "down"], init_lora_weights=False))
    for parameter in adapted.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(torch.bfloat16)
    if fused:
        assert fuse(adapted, prepack=0) == 2 * layers  # as 4-bit weights run: used as they are
    return adapted.train(), cache


def base_of(name: str) -> str:
    """What a side is compared with."""
    return BASE + FUSED if name.endswith(FUSED) else BASE


def step(model: nn.Module, segments: list[Tensor]) -> float:
    """Seconds of one forward and backward pass."""
    model.zero_grad()
    start = time.perf_counter()
    model(segments).backward()
    return time.perf_counter() - start


def table(
    tokens: list[int], names: list[str], orders: list[str], *, layers: int, hidden: int, segments: int, rounds: int
) -> list[Row]:
    """One row for each number of tokens, order and side; sides take turns in each round."""
    rows = []
    for order in orders:
        sides = {name: side(name, layers, hidden, order) for name in names}
        for count in tokens:
            data = [torch.randn(count, hidden, dtype=torch.bfloat16, requires_grad=True) for _ in range(segments)]
            for model, _ in sides.values():
                step(model, data)
            times: dict[str, list[float]] = {name: [] for name in names}
            made = {name: cache.misses for name, (_, cache) in sides.items() if cache}
            for turn in range(rounds):
                for name in names[turn % len(names) :] + names[: turn % len(names)]:
                    times[name].append(step(sides[name][0], data))
            for name, (_, cache) in sides.items():
                ratio = median(t / base for t, base in zip(times[name], times[base_of(name)], strict=True))
                again = 0.0 if name == base_of(name) else 2.0 * segments
                if cache:
                    again = (cache.misses - made[name]) / rounds / (2 * layers)
                kept = cache.used_bytes / 1e6 if cache else 0.0
                rows.append(Row(count, order, name, median(times[name]), ratio, kept, again))
    return rows


def agreement(hidden: int) -> dict[str, float]:
    """Largest difference of an adapter's gradient to that over bfloat16 layers with the dequantised weights."""
    base, _ = side("cache 1", 2, hidden, "segments")
    data = [torch.randn(16, hidden, dtype=torch.bfloat16) for _ in range(3)]
    step(base, data)
    wanted = {name: p.grad.float() for name, p in base.named_parameters() if p.grad is not None}
    found = {}
    other, _ = side(BASE, 2, hidden, "segments")
    weights = {name: layer.dequantised(torch.bfloat16) for name, layer in nf4_layers(base)}
    for name, weight in weights.items():
        other.get_submodule(name).weight.data = weight
    theirs, _ = side(THEIRS, 2, hidden, "segments")
    for label, model in ((BASE, other), (THEIRS, theirs)):
        step(model, data)
        grads = {name: p.grad.float() for name, p in model.named_parameters() if p.grad is not None}
        found[label] = max(float((grads[n] - g).norm() / g.norm()) for n, g in wanted.items())
    return found


def storage(hidden: int) -> str:
    """Bits a weight as written to a file, and the relative error of a round trip."""
    torch.manual_seed(0)
    weight = torch.randn(hidden, hidden) * 0.02
    stored = nf4.quantize(weight)
    error = float((nf4.dequantize(stored) - weight).norm() / weight.norm())
    layer, half = stored_bytes(quantize_model(nn.Sequential(nn.Linear(hidden, hidden, bias=False))))
    return (
        f"{nf4.bits_per_weight(stored):.3f} bits a weight of {hidden} x {hidden} ({half / layer:.2f} times less "
        f"than 16 bits), round trip error {error:.4f}"
    )


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[64], help="of a segment")
    parser.add_argument("--segments", type=int, default=8)
    parser.add_argument("--layers", type=int, default=4, help="of two products each")
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--budget", type=float, nargs="+", default=[1.0], help="of the cache, in models of 16 bits")
    parser.add_argument("--order", nargs="+", choices=("segments", "layers"), default=["segments"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="tiny, to see that it runs")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args(argv)
    if args.quick:
        args.tokens, args.layers, args.hidden, args.rounds = [4], 2, 64, 2
    names = [BASE, THEIRS, "no cache", *(f"cache {budget:g}" for budget in args.budget)]
    names += [BASE + FUSED, *(f"cache {budget:g}{FUSED}" for budget in args.budget)]
    rows = table(
        args.tokens,
        names,
        args.order,
        layers=args.layers,
        hidden=args.hidden,
        segments=args.segments,
        rounds=args.rounds,
    )
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return 0
    print(storage(args.hidden))
    gaps = ", ".join(f"{name} {gap:.1e}" for name, gap in agreement(args.hidden).items())
    print(f"gradients of adapters, relative difference to those with the cache: {gaps}")
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__}, {threads} thread(s), {args.layers} layers, {args.segments} segments")
    print("tokens  order      side               ms a step   / bf16   dequantised a step   kept MB")
    for row in rows:
        print(
            f"{row.tokens:>6}  {row.order:<9}  {row.side:<16}{1e3 * row.seconds:>12.1f}{row.ratio:>9.2f}"
            f"{row.made:>21.2f}{row.kept_mb:>10.1f}"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
