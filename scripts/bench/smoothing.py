"""Error of 8-bit linear layers with and without smoothing, for each alpha, on an encoder and on a decoder.

    python scripts/bench/smoothing.py

A minute or two on one core. The encoder is MiniLM with its real weights, which reads the documentation of this
repository; the decoder is a LLaMA with random weights, two channels of whose norms are 100 times the others (its
readers make up for it, so in floats it is the same model). Products are rounded in floats here, so that the table says
what rounding does and nothing of kernels: weights with a scale for each output, activations with one for each row
("token"), for the whole input ("tensor"), or a measured one ("static"). The number is |y - y'| / |y| of last hidden
states on text that calibration did not see. "powers" is the best alpha with
scales rounded to powers of two.
"multiply" says that layers nothing carries scales for multiply their input. Expect alpha 0.5 within 10% of the best
of the grid, or the search to find better.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from efficiency.smoothquant import collect, find_groups
from efficiency.smoothquant.search import GRID, round_rows, search_alpha
from efficiency.smoothquant.smooth import fold, group_scales
from efficiency.smoothquant.statistics import Statistics
from efficiency.smoothquant.weights import matrix


@dataclass(frozen=True)
class Row:
    """One model under one way of activations.

    Attributes:
        plain: error without smoothing.
        by_alpha: error of each alpha of the grid.
        searched: error with the alpha that the search found for each group.
        powers: error of the best alpha with scales rounded to powers of two.
        calibration_s, search_s: seconds.
    """

    model: str
    activations: str
    plain: float
    by_alpha: dict[float, float]
    searched: float
    powers: float
    calibration_s: float
    search_s: float

    @property
    def best(self) -> float:
        """The alpha with the least error."""
        return min(self.by_alpha, key=self.by_alpha.__getitem__)


def largest_of(x: Tensor, activations: str, channels: Tensor) -> Tensor | None:
    """What 127 stands for in each way of activations; see :data:`efficiency.int8.linear.ACTIVATIONS`."""
    if activations == "token":
        return None
    return x.abs().amax() if activations == "tensor" else channels.amax()


def encoder(quick: bool) -> tuple[nn.Module, list[Tensor]]:
    """MiniLM and token ids of shape (1, 128) each; with ``quick`` a tiny BERT on random ones."""
    if quick:
        from transformers import BertConfig, BertModel

        shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        tiny = BertModel(BertConfig(vocab_size=100, **shape), add_pooling_layer=False)
        return tiny.eval(), list(torch.randint(3, 100, (6, 1, 16)))
    from pathlib import Path

    from transformers import AutoModel, AutoTokenizer

    from rmt.pretrained import of_minilm

    text = "\n".join(path.read_text() for path in sorted(Path("docs").glob("*.md")))
    tokens = of_minilm(AutoTokenizer.from_pretrained)(text, return_tensors="pt", verbose=False).input_ids[0]
    model = of_minilm(AutoModel.from_pretrained, add_pooling_layer=False)
    count = min(40, len(tokens) // 128)
    return model.eval(), list(tokens[: count * 128].view(count, 1, 128))


def decoder(quick: bool) -> tuple[nn.Module, list[Tensor]]:
    """A random LLaMA with planted outliers, and random token ids."""
    from transformers import LlamaConfig, LlamaModel

    size, layers = (32, 2) if quick else (512, 4)
    fields: dict[str, Any] = {"vocab_size": 1000, "hidden_size": size, "intermediate_size": 2 * size}
    fields |= {"num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaModel(LlamaConfig(initializer_range=0.05, **fields)).eval()
    for group in find_groups(model):
        if group.kind == "norm":
            fold(model, group, torch.ones(size).index_fill(0, torch.tensor([3, size // 2]), 0.01))
    return model, list(torch.randint(3, 1000, (6 if quick else 24, 1, 16 if quick else 128)))


def outputs(model: nn.Module, data: list[Tensor]) -> Tensor:
    """Last hidden states."""
    with torch.no_grad():
        return torch.cat([model(input_ids=ids).last_hidden_state for ids in data])


def error(model: nn.Module, layers: list[str], data: list[Tensor], exact: Tensor, activations: str, top: Any) -> float:
    """Relative error with the products of ``layers`` rounded; ``top`` gives the measured maxima of a layer's input."""
    hooks, weights = [], {name: round_rows(matrix(model.get_submodule(name))) for name in layers}
    for name in layers:

        def after(module: Any, args: Any, _: Tensor, name: str = name) -> Tensor:
            x = args[0] * module.multiplier if hasattr(module, "multiplier") else args[0]
            flat = x.flatten(0, -2)
            rounded = round_rows(flat, largest_of(flat, activations, top(name))).view_as(x)
            return nn.functional.linear(rounded, weights[name], module.bias)

        hooks.append(model.get_submodule(name).register_forward_hook(after))
    try:
        return float((outputs(model, data) - exact).norm() / exact.norm())
    finally:
        for hook in hooks:
            hook.remove()


def measure(name: str, model: nn.Module, data: list[Tensor], activations: str, multiply: bool) -> Row:
    """All alphas of one model."""
    half = len(data) // 2
    groups = [group for group in find_groups(model) if multiply or group.kind != "input"]
    layers = list(dict.fromkeys(reader for group in find_groups(model) for reader in group.readers))
    start = time.perf_counter()
    statistics = collect(model, data[:half], layers, groups=groups, samples=64, progress=False)
    calibration = time.perf_counter() - start
    exact, spent = outputs(model, data[half:]), 0.0

    def run(alpha: float | None, powers: bool = False) -> float:
        nonlocal spent
        twin, divided = copy.deepcopy(model), {}
        for group in groups:
            begun = time.perf_counter()
            found = alpha
            if alpha is None:
                found = search_alpha(twin, group, statistics, activations=activations, powers=powers).alpha
            if alpha is None:
                spent += time.perf_counter() - begun
            if found is None or found < 0:
                continue
            scales = group_scales(twin, group, _inputs(statistics, group.readers), found, powers=powers)
            divided |= dict.fromkeys(group.readers, fold(twin, group, scales))

        def top(layer: str) -> Tensor:
            return statistics.channels(layer) / divided.get(layer, torch.ones(1))

        return error(twin, layers, data[half:], exact, activations, top)

    plain = run(-1.0)
    by_alpha = {alpha: run(alpha) for alpha in GRID}
    searched = run(None)
    rounded = run(min(by_alpha, key=by_alpha.__getitem__), powers=True)
    title = f"{name}, multiply" if multiply else name
    return Row(title, activations, plain, by_alpha, searched, rounded, calibration, spent)


def _inputs(statistics: Statistics, readers: tuple[str, ...]) -> Tensor:
    return torch.stack([statistics.channels(name) for name in readers]).amax(dim=0)


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--activations", nargs="+", default=["token", "tensor", "static"])
    parser.add_argument("--quick", action="store_true", help="tiny, to see that it runs")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    first, second = encoder(args.quick), decoder(args.quick)
    rows = []
    for activations in args.activations:
        rows.append(measure("MiniLM", *first, activations, False))
        rows.append(measure("MiniLM", *first, activations, True))
        rows.append(measure("random LLaMA", *second, activations, False))
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return 0
    alphas = "".join(f"{alpha:>8.1f}" for alpha in GRID)
    print(f"{'model':<20}{'activations':<12}{'plain':>8}{alphas}{'search':>8}{'powers':>8}{'0.5/best':>9}  seconds")
    for row in rows:
        numbers = "".join(f"{row.by_alpha[alpha]:>8.4f}" for alpha in GRID)
        ratio = row.by_alpha[0.5] / row.by_alpha[row.best]
        print(
            f"{row.model:<20}{row.activations:<12}{row.plain:>8.4f}{numbers}{row.searched:>8.4f}{row.powers:>8.4f}"
            f"{ratio:>9.2f}  {row.calibration_s:.1f} + {row.search_s:.1f}"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
