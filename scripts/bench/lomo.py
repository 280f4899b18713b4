"""Gradient memory and time of LOMO under recurrence, against plain backward with SGD.

    python scripts/bench/lomo.py

About five minutes on one core. Expect at four segments: plain about 1.07 times the parameters, hooks alone no less,
layer by layer at most 0.40, deferred at most 0.30; and over 600 parameters of a recurrent BERT at 512 tokens, hooks and
their updates at most 1.1 times a plain backward. No weights are needed: random models read random tokens. Where
`lomo-optim` is installed it is measured too.

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


class Deep:
    """A recurrent BERT of many parameters, and backward with what one optimizer does about it.

    Args:
        kind: of :data:`KINDS`.
        hidden: its width; a layer has 16 parameters.
        layers: how many.
    """

    KINDS = ("backward", "backward + SGD", "hooks", "deferred", "lomo-optim")
    SEGMENT = 128

    def __init__(self, kind: str, hidden: int, layers: int) -> None:
        from transformers import BertConfig, BertModel

        from rmt.models.sequence_classification import RMTForSequenceClassification

        torch.manual_seed(0)
        shape = {"hidden_size": hidden, "intermediate_size": 4 * hidden, "num_hidden_layers": layers}
        config = BertConfig(vocab_size=1000, num_attention_heads=hidden // 32, cls_token_id=1, sep_token_id=2, **shape)
        self.model = RMTForSequenceClassification.from_backbone(
            BertModel(config, add_pooling_layer=False), segment_size=self.SEGMENT, num_memory_tokens=4, num_labels=6
        )
        params = list(self.model.parameters())
        self.kind, self.count = kind, len(params)
        self.opt: Any = None
        if kind == "lomo-optim":
            self.opt = importlib.import_module("lomo_optim").Lomo(self.model, lr=LR)
        elif kind == "backward + SGD":
            self.opt = torch.optim.SGD(params, lr=LR, foreach=True)
        elif kind != "backward":
            self.opt = Lomo(params, lr=LR, defer=self.model if kind == "deferred" else None)

    def seconds(self, tokens: int) -> float:
        """Of this process, in backward and whatever the optimizer does before the next forward."""
        ids = torch.randint(3, 1000, (1, tokens), generator=torch.Generator().manual_seed(1))
        loss = self.model(input_ids=ids, labels=torch.zeros(1, dtype=torch.long)).loss
        start = time.process_time()
        if self.kind == "lomo-optim":
            self.opt.fused_backward(loss, LR)
        else:
            loss.backward()
        if self.kind not in ("backward", "lomo-optim"):
            self.opt.step()
        spent = time.process_time() - start
        self.model.zero_grad()
        return spent


def deep(tokens: list[int], hidden: int, layers: int, rounds: int) -> list[dict[str, Any]]:
    """One row for each number of tokens: medians over rounds of each kind's time over that of a backward alone, and
    over that of a backward and SGD in the same round."""
    subjects = {kind: Deep(kind, hidden, layers) for kind in Deep.KINDS if kind != "lomo-optim" or peer()}
    rows = []
    for count in tokens:
        spent: dict[str, list[float]] = {kind: [] for kind in subjects}
        for number in range(rounds + 1):
            for kind, subject in subjects.items():
                seconds = subject.seconds(count)
                if number:
                    spent[kind].append(seconds)
        for kind in subjects:
            over = {base: ratio(spent, kind, base) for base in ("backward", "backward + SGD")}
            row = {"kind": kind, "tokens": count, "seconds": median(spent[kind]), "over": over}
            rows.append(row | {"parameters": subjects[kind].count, "hidden": hidden})
    return rows


CAPTION = """\
gradients: peak gradient memory, with what deferred layers keep, over the bytes of the parameters; time: of a whole
training step over plain backward and SGD in the same order, median over rounds. "by layer": associative memory,
order="layers"; the others have memory tokens and run segment by segment."""
DEEP_CAPTION = """\
a BERT that reads segments of 128 tokens; process time of backward and step, medians over rounds in turn"""


def show(result: dict[str, Any]) -> str:
    """The result as text."""
    lines = []
    if result["rows"]:
        lines.append("kind                     segments  gradients   time")
    for r in result["rows"]:
        lines.append(f"{r['kind']:<25}{r['segments']:>8}{r['gradients']:>11.2f}{r['time']:>7.2f}")
    if result["rows"]:
        lines += [CAPTION, ""]
    if result["deep"]:
        first = result["deep"][0]
        lines.append(f"{first['parameters']} parameters, {first['hidden']} wide; over a backward alone, and with SGD:")
        lines.append("tokens  kind            seconds  alone  with SGD")
    for r in result["deep"]:
        alone, sgd = r["over"].values()
        lines.append(f"{r['tokens']:>6}  {r['kind']:<15}{r['seconds']:>8.2f}{alone:>7.2f}{sgd:>10.2f}")
    return "\n".join([*lines, *([DEEP_CAPTION] if result["deep"] else [])])


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--tokens", type=int, default=8, help="of a segment; the decoder adds 8 of memory")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=1000)
    parser.add_argument("--deep-tokens", type=int, nargs="+", default=[128, 512, 1024], help="of a document")
    parser.add_argument("--deep-hidden", type=int, default=256)
    parser.add_argument("--deep-layers", type=int, default=37, help="of a BERT, 16 parameters each")
    parser.add_argument("--only", choices=["rows", "deep"], help="one part of it")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--quick", action="store_true", help="a small model and two rounds, to see that it runs")
    args = parser.parse_args(argv)
    if args.quick:
        args.layers, args.hidden, args.rounds, args.vocabulary, args.segments = 2, 128, 2, 100, [1, 4]
        args.deep_tokens, args.deep_hidden = [16, 256], 32
    shape = {
        "num_hidden_layers": args.layers,
        "hidden_size": args.hidden,
        "intermediate_size": 3 * args.hidden,
        "vocab_size": args.vocabulary,
    }
    result = {
        "rows": table(args.segments, shape, args.tokens, args.rounds) if args.only != "deep" else [],
        "deep": deep(args.deep_tokens, args.deep_hidden, args.deep_layers, args.rounds) if args.only != "rows" else [],
    }
    print(json.dumps(result, indent=2) if args.json else show(result))


if __name__ == "__main__":
    main()
