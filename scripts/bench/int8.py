"""Time of a forward in 8 bits over the same in bfloat16, end to end on a CPU, beside torchao's.

    python scripts/bench/int8.py

Some minutes on one core. Backbones with random weights, hidden 1,024 and 6 layers, read 512, 64 and 1 tokens; sides
take turns in one process. A ratio is the median over rounds of the time of bfloat16 over that of a side in the same
round, so more is better; the middle half of the rounds is given beside. Outputs are compared with those of bfloat16.
Sides: ``int8`` is ours (a scale of each row as it comes), ``int8 static`` has one scale an input that was measured
before; ``torchao`` and ``torchao compiled`` are its dynamic 8-bit activations and weights (``pip install torchao``;
left out where it is not there). Expect ours near 1.35, 1.6 and 2.1, torchao compiled near 1.15, 1.0 and 1.25.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor, nn

BASE = "bfloat16"
SIDES = ("int8", "int8 static", "torchao", "torchao compiled")


@dataclass(frozen=True)
class Row:
    """A side at a number of tokens."""

    family: str
    tokens: int
    side: str
    milliseconds: float
    ratio: float
    low: float
    high: float
    error: float


def backbone(family: str, hidden: int, inner: int, layers: int) -> nn.Module:
    """In bfloat16, with random weights."""
    from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel

    torch.manual_seed(0)
    common: dict[str, Any] = {
        "vocab_size": 1000,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, hidden // 64),
    }
    model: nn.Module
    if family == "llama":
        model = LlamaModel(LlamaConfig(**common))
    else:
        model = BertModel(BertConfig(**common), add_pooling_layer=False)
    return model.to(torch.bfloat16).eval()


def quantised(model: nn.Module, side: str, ids: Tensor) -> Any:
    """A copy of the model in 8 bits, as ``side`` says."""
    from efficiency.int8 import Int8Linear, put_together
    from efficiency.surgery import replace_modules

    model = copy.deepcopy(model)
    if side.startswith("torchao"):
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        quantize_(model, Int8DynamicActivationInt8WeightConfig())
        return torch.compile(model) if side == "torchao compiled" else model
    most: dict[str, float] = {}
    if side == "int8 static":
        hooks = [
            layer.register_forward_pre_hook(lambda _, args, name=name: most.update({name: float(args[0].abs().max())}))
            for name, layer in model.named_modules()
            if isinstance(layer, nn.Linear)
        ]
        model(ids)
        for hook in hooks:
            hook.remove()

    def choose(name: str, layer: nn.Module) -> nn.Module | None:
        if not isinstance(layer, nn.Linear):
            return None
        if side == "int8":
            return Int8Linear.from_linear(layer)
        return Int8Linear.from_linear(layer, activations="static", input_scale=most[name] / 127)

    replace_modules(model, choose)
    put_together(model, Int8Linear)
    return model


def measure(family: str, sizes: dict[str, int], tokens: list[int], sides: list[str], rounds: int) -> list[Row]:
    """A row for each number of tokens and side."""
    model, rows = backbone(family, **sizes), []
    given: dict[str, Any] = {"use_cache": False} if family == "llama" else {}
    with torch.inference_mode():
        calibrating = torch.randint(1000, (1, max(tokens)))
        models = {BASE: model} | {side: quantised(model, side, calibrating) for side in sides}
        for count in tokens:
            ids = torch.randint(1000, (1, count))
            right = model(ids, **given)[0].float()
            errors = {
                name: float((m(ids, **given)[0].float() - right).norm() / right.norm()) for name, m in models.items()
            }
            runs = {name: partial(m, ids, **given) for name, m in models.items()}
            times = take_turns(runs, rounds, count)
            for side in sides:
                ratios = [a / b for a, b in zip(times[BASE], times[side], strict=True)]
                low, _, high = quantiles(ratios, n=4)
                middle = 1e3 * median(times[side])
                rows.append(Row(family, count, side, middle, median(ratios), low, high, errors[side]))
    return rows


def take_turns(runs: dict[str, Any], rounds: int, tokens: int) -> dict[str, list[float]]:
    """Seconds of each, a round at a time, the first of which warms up; short ones are run some times a round."""
    names, each = list(runs), max(1, 256 // tokens) if tokens < 256 else 1
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            start = time.perf_counter()
            for _ in range(min(each, 16)):
                runs[name]()
            if number:
                times[name].append((time.perf_counter() - start) / min(each, 16))
    return times


def show(rows: list[Row]) -> str:
    """As a table."""
    lines = [f"{'family':<8}{'tokens':>7}  {'side':<18}{'ms':>9}{'bf16 / it':>11}{'middle half':>16}{'error':>9}"]
    for r in rows:
        between = f"{r.low:.2f} to {r.high:.2f}"
        lines.append(
            f"{r.family:<8}{r.tokens:>7}  {r.side:<18}{r.milliseconds:>9.2f}{r.ratio:>11.2f}{between:>16}"
            f"{r.error:>9.4f}"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=("llama", "bert"), default=["llama", "bert"])
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 64, 1])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--inner", type=int, default=None, help="2,816 for llama and 4,096 for bert unless given")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="tiny models, two rounds: to test the program itself")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if importlib.util.find_spec("torchao") is None and any("torchao" in side for side in args.sides):
        print("torchao is not installed: its sides are left out (pip install torchao)", file=sys.stderr)
        args.sides = [side for side in args.sides if "torchao" not in side]
    if args.quick:
        args.hidden, args.inner, args.layers, args.rounds, args.tokens = 64, 96, 2, 2, [16, 1]
    rows: list[Row] = []
    for family in args.families:
        inner = args.inner or {"llama": 2816, "bert": 4096}[family]
        sizes = {"hidden": args.hidden, "inner": inner, "layers": args.layers}
        rows += measure(family, sizes, args.tokens, args.sides, args.rounds)
    print(json.dumps([asdict(row) for row in rows], indent=2) if args.json else show(rows))


if __name__ == "__main__":
    main()
