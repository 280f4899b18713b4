"""Gradient memory and time of LOMO under recurrence, against plain backward with SGD.

    python scripts/bench/lomo.py

About three minutes on one core. Expect at four segments: plain about 1.25 times the parameters, hooks alone no less,
layer by layer at most 0.40, deferred at most 0.30; and a backward with 600 hooked parameters at most 1.1 times a plain
one. No weights are needed: random LLaMAs read random tokens. Where `lomo-optim` is installed it is measured too.

Gradient memory is every storage of a parameter's shape that backward makes, every storage that ``step`` makes, and the
factors that deferred layers keep (inputs too, though the graph may hold them as well, and each for each weight).
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import time
import weakref
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from efficiency.lomo import Lomo

LR = 1e-4
SETTINGS = {
    "plain": {},
    "hooks": {},
    "lomo-optim": {},
    "deferred": {},
    "deferred, clipped": {},
    "deferred, checkpointed": {"recurrence": "checkpointed"},
    "plain, by layer": {"memory": "associative", "order": "layers"},
    "hooks, by layer": {"memory": "associative", "order": "layers"},
}
Step = Callable[[Callable[[], Tensor]], None]


class GradientMemory(TorchDispatchMode):
    """The peak of bytes that gradients take; see the module.

    Args:
        model: whose parameters' shapes are looked for.
        held: bytes of factors kept now.
    """

    def __init__(self, model: nn.Module, held: Callable[[], int]) -> None:
        super().__init__()
        self.held, self.live, self.peak, self.everything, self.counting = held, 0, 0, False, False
        shapes = {tuple(p.shape) for p in model.parameters()}
        self.shapes = shapes | {s[::-1] for s in shapes}
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        self._known.update(p.untyped_storage() for p in model.parameters())

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        before = {t.untyped_storage() for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        # With gradient enabled it is a checkpoint that computes activations again.
        if self.counting and (self.everything or not torch.is_grad_enabled()):
            for made in tree_iter(out):
                if isinstance(made, Tensor) and made.untyped_storage() not in before:
                    self._count(made)
            self.peak = max(self.peak, self.live + self.held())
        return out

    def _count(self, made: Tensor) -> None:
        storage = made.untyped_storage()
        if storage in self._known or not (self.everything or tuple(made.shape) in self.shapes):
            return
        size = storage.nbytes()
        self._known.add(storage)
        weakref.finalize(storage, self._release, size)
        self.live += size

    def _release(self, size: int) -> None:
        self.live -= size


class Subject:
    """A model, and a training step of some kind.

    Args:
        kind: of ``SETTINGS``.
        fields: of the recurrent model.
        shape: of the LLaMA.
    """

    def __init__(self, kind: str, shape: dict[str, int], tokens: int) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM

        from rmt.models.causal_lm import RMTForCausalLM

        torch.manual_seed(0)
        heads = shape["hidden_size"] // 64
        inner = LlamaForCausalLM(LlamaConfig(num_attention_heads=heads, max_position_embeddings=256, **shape))
        self.kind, self.tokens, self.vocabulary = kind, tokens, shape["vocab_size"]
        self.model = RMTForCausalLM.from_backbone(
            inner, segment_size=tokens, num_memory_tokens=4, **SETTINGS[kind]
        ).train()
        params = list(self.model.parameters())
        self.bytes = sum(p.nbytes for p in params)
        self.opt: Any
        if kind.startswith("plain"):
            self.opt = torch.optim.SGD(params, lr=LR)
        elif kind == "lomo-optim":
            self.opt = importlib.import_module("lomo_optim").Lomo(self.model, lr=LR)
        else:
            clip = 1.0 if kind.endswith("clipped") else None
            self.opt = Lomo(params, lr=LR, defer=self.model if "deferred" in kind else None, clip_norm=clip)

    def loss(self, segments: int) -> Tensor:
        """Of a random document of so many segments."""
        ids = torch.randint(self.vocabulary, (1, segments * self.tokens), generator=torch.Generator().manual_seed(1))
        loss: Tensor = self.model(ids, labels=ids).loss
        return loss

    def backward(self, loss: Tensor) -> None:
        """Backward in the optimizer's way."""
        if self.kind == "lomo-optim":
            self.opt.fused_backward(loss, LR)
        else:
            loss.backward()

    def finish(self) -> None:
        """What the optimizer does behind backward."""
        if self.kind != "lomo-optim":
            self.opt.step()
            self.opt.zero_grad()

    def train(self, segments: int) -> None:
        """One step."""
        self.backward(self.loss(segments))
        self.finish()

    def peak(self, segments: int) -> float:
        """Gradient memory of one step over the parameters' bytes."""
        loss = self.loss(segments)
        held = self.opt.held if isinstance(self.opt, Lomo) else int
        with GradientMemory(self.model, held) as memory:
            memory.counting = True
            self.backward(loss)
            memory.everything = True
            self.finish()
        return memory.peak / self.bytes


def interleaved(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each run in each round, the runs in turn, after one round to warm up."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number:
                found[name].append(time.perf_counter() - start)
    return found


def ratio(seconds: dict[str, list[float]], name: str, base: str) -> float:
    """Median over rounds of one's time over another's."""
    return median(a / b for a, b in zip(seconds[name], seconds[base], strict=True))


def table(counts: list[int], shape: dict[str, int], tokens: int, rounds: int) -> list[dict[str, Any]]:
    """One row for each kind and number of segments."""
    subjects = {kind: Subject(kind, shape, tokens) for kind in SETTINGS if kind != "lomo-optim" or peer()}
    rows = []
    for count in counts:
        seconds = interleaved({kind: partial(s.train, count) for kind, s in subjects.items()}, rounds)
        for kind, subject in subjects.items():
            base = "plain, by layer" if kind.endswith("by layer") else "plain"
            time_ratio = ratio(seconds, kind, base)
            rows.append({"kind": kind, "segments": count, "gradients": subject.peak(count), "time": time_ratio})
    return rows


def peer() -> bool:
    """Whether lomo-optim can be imported."""
    return importlib.util.find_spec("lomo_optim") is not None


def many(layers: int, hidden: int, rows: int, rounds: int) -> dict[str, Any]:
    """Backward alone of a chain of linear layers, two parameters each, over a plain backward."""

    def chain() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(*[nn.Linear(hidden, hidden) for _ in range(layers)])

    x = torch.randn(rows, hidden)
    models = {kind: chain() for kind in ("plain", "hooks", *(["lomo-optim"] if peer() else []))}
    opts = {"hooks": Lomo(models["hooks"].parameters(), lr=LR)}
    if peer():
        opts["lomo-optim"] = importlib.import_module("lomo_optim").Lomo(models["lomo-optim"], lr=LR)
    sgd = torch.optim.SGD(models["plain"].parameters(), lr=LR)
    spent: dict[str, list[float]] = {kind: [] for kind in (*models, "plain + SGD", "hooks + step")}
    for number in range(rounds + 1):
        for kind, model in models.items():
            loss = model(x).square().mean()
            start = time.perf_counter()
            if kind == "lomo-optim":
                opts[kind].fused_backward(loss, LR)
            else:
                loss.backward()
            behind = time.perf_counter()
            if kind == "plain":
                sgd.step()
            elif kind == "hooks":
                opts[kind].step()
            done = time.perf_counter()
            if kind == "plain":
                sgd.zero_grad()
            if number:
                spent[kind].append(behind - start)
                if kind != "lomo-optim":
                    spent["plain + SGD" if kind == "plain" else "hooks + step"].append(done - start)
    ratios = {kind: ratio(spent, kind, "plain") for kind in spent}
    return {"parameters": 2 * layers, "hidden": hidden, "rows": rows, "ratios": ratios}


CAPTION = """\
gradients: peak gradient memory, with what deferred layers keep, over the bytes of the parameters; time: of a whole
training step over plain backward and SGD in the same order, median over rounds. "by layer": associative memory,
order="layers"; the others have memory tokens and run segment by segment."""


def show(result: dict[str, Any]) -> str:
    """The result as text."""
    lines = ["kind                     segments  gradients   time"]
    for r in result["rows"]:
        lines.append(f"{r['kind']:<25}{r['segments']:>8}{r['gradients']:>11.2f}{r['time']:>7.2f}")
    cost = result["hooks"]
    lines += [CAPTION, f"backward of {cost['parameters']} parameters ({cost['hidden']} wide, {cost['rows']} rows):"]
    return "\n".join([*lines, *(f"  {kind:<14}{value:>6.2f}" for kind, value in cost["ratios"].items())])


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--tokens", type=int, default=8, help="of a segment; the decoder adds 8 of memory")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=1000)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--quick", action="store_true", help="a small model and two rounds, to see that it runs")
    args = parser.parse_args(argv)
    if args.quick:
        args.layers, args.hidden, args.rounds, args.vocabulary, args.segments = 2, 128, 2, 100, [1, 4]
    shape = {
        "num_hidden_layers": args.layers,
        "hidden_size": args.hidden,
        "intermediate_size": 3 * args.hidden,
        "vocab_size": args.vocabulary,
    }
    result = {
        "rows": table(args.segments, shape, args.tokens, args.rounds),
        "hooks": many(300, 128, 32, 4 if args.quick else 8 * args.rounds),
    }
    print(json.dumps(result, indent=2) if args.json else show(result))


if __name__ == "__main__":
    main()
