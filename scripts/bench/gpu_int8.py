"""8-bit reading on a GPU: the one command that measures its speed and memory over bfloat16.

    python scripts/bench/gpu_int8.py --out DIR                # one GPU with 80 GB; some minutes
    python scripts/bench/gpu_int8.py --out DIR --minutes 9    # in pieces: the same command until it says done
    python scripts/bench/gpu_int8.py --out DIR --quick        # toys on a CPU, some seconds; figures of no worth

Llama-shaped models of 1B and 8B weights, random, with associative memory (scripts/bench/sizes.py), made on the device;
linear layers of their blocks become 8-bit one at a time, over the same other weights. ``prefill`` reads 4,096 tokens in
segments of 1,024, ``decode`` writes 32 tokens after 16. ``int8`` is one 8-bit layer for each of the model's
(``efficiency.int8.cuda.int8_linear_cuda``), ``int8 fused`` also has an MLP of two products, its gate in the kernel that
rounds. ``torchao`` (pip package torchao) is left out with a note where it is not installed, and measured when the
command runs again with it. Sides take turns in one process, timed by CUDA events; a ratio is the median over rounds of
those within a round. ``peak`` is what a side's weights take and what comes and goes at most, as if it were alone.

Expect int8 to prefill at 1.3 times bfloat16 or more. Embeddings stay as they are: weights of the 8B shape take a little
over half, those of 1B about 0.6. Rounds are kept in gpu_int8.json in --out as they are done, tables in gpu_int8.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import sizes
import subject
import torch
import training_sides
from executors import Kept, say
from torch import Tensor, nn
from training_report import gigabytes, over

from efficiency.int8 import Int8Linear
from efficiency.int8.cuda import gated_quantise, int8_linear_cuda, int8_product, quantise_rows, support
from efficiency.surgery import replace_modules
from rmt.errors import InputError

BASE = "bf16"
SIDES = (BASE, "int8", "int8 fused", "torchao")
TARGETS = {"speed": 1.3, "peak": 0.6}  # of prefill over bfloat16: at least, at most
STEPS = 3  # of a side in a round


class Layer(Int8Linear):
    """A layer on 8-bit integers."""

    def forward(self, x: Tensor) -> Tensor:
        """The product."""
        given: dict[str, Any] = {"activations": self.activations, "input_scale": self.input_scale}
        return int8_linear_cuda(x, self.weight, self.weight_scale, self.bias, **given)


class MLP(nn.Module):
    """down(silu(gate x) * (up x)) in two products; rows are rounded once for both, and once in the gate."""

    def __init__(self, gate: nn.Linear, up: nn.Linear, down: nn.Linear) -> None:
        super().__init__()
        both, self.down = [Int8Linear.from_linear(layer) for layer in (gate, up)], Int8Linear.from_linear(down)
        for name in ("weight", "weight_scale"):
            joined = torch.cat([getattr(layer, name).data for layer in both])
            self.register_parameter(name, nn.Parameter(joined, requires_grad=False))

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        both = int8_product(quantise_rows(x), self.weight, self.weight_scale, dtype=x.dtype)
        gate, up = both.chunk(2, dim=-1)
        return int8_product(gated_quantise(gate, up), self.down.weight, self.down.weight_scale, dtype=x.dtype)


def lacking(name: str) -> str:
    """What to install for a side, in words; empty where all is there."""
    return "needs pip install torchao" if name == "torchao" and not training_sides.has("torchao") else ""


def made(name: str, base: Any) -> Any:
    """A side's model, over the weights of ``base`` that it does not turn into integers."""
    model = training_sides.twin(base, trained=False)
    if name == "torchao":
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        quantize_(model, Int8DynamicActivationInt8WeightConfig(), lambda module, at: in_block(at, module))
    elif name != BASE:

        def choose(at: str, module: nn.Module) -> nn.Module | None:
            if name == "int8 fused" and at.endswith(".mlp"):
                return MLP(module.gate_proj, module.up_proj, module.down_proj)
            return Layer.from_linear(module) if in_block(at, module) else None

        replace_modules(model, choose)
    return model


def in_block(at: str, module: nn.Module) -> bool:
    """Whether it is a linear layer of one of the model's blocks."""
    return isinstance(module, nn.Linear) and ".layers." in at


def work(kind: str, model: Any, segment: int, device: str) -> Callable[[], Tensor]:
    """What is timed, and gives logits or tokens."""
    model.config.segment_size = segment
    length = 4 * segment if kind == "prefill" else 16
    ids = torch.randint(0, model.config.vocab_size, (1, length), generator=torch.Generator().manual_seed(3)).to(device)
    if kind == "prefill":
        return lambda: model(input_ids=ids, logits_to_keep=1).logits
    new = 32 if device == "cuda" else 4
    return lambda: model.generate(ids, max_new_tokens=new, min_new_tokens=new, do_sample=False)


def once(call: Callable[[], Tensor], device: str) -> float:
    """Seconds of a call: by events on a GPU, of the processor on a CPU."""
    if device == "cpu":
        start = time.process_time()
        call()
        return time.process_time() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def held(model: Any) -> int:
    """Bytes of all its weights, each once."""
    found = {t.data_ptr(): stored(t) for t in (*model.parameters(), *model.buffers())}
    return sum(found.values())


def stored(tensor: Tensor) -> int:
    """Bytes of a tensor, of a quantised one of torchao with its parts."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return tensor.nbytes
    return sum(stored(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])


class Bench:
    """One model at a time, measured into a file; see :class:`gpu_training.Bench` for what is alike."""

    def __init__(self, kept: Kept, args: argparse.Namespace) -> None:
        self.kept, self.args = kept, args
        self.deadline = time.monotonic() + 60 * args.minutes
        self.name: str | None = None
        self.models: dict[str, Any] = {}
        self.done = 0
        self.reference: Tensor | None = None

    def enter(self, name: str, sides: list[str]) -> None:
        """Have the sides of this model, and no other's."""
        if self.name != name:
            self.models, self.name, self.reference = {}, name, None
            training_sides.free()
            say(f"building {name}")
            self.models[BASE] = sizes.build(name, 4096, self.args.device, "bfloat16")
        for side in sides:
            if side not in self.models:
                self.models[side] = made(side, self.models[BASE])

    @torch.no_grad()
    def round(self, kind: str, cell: dict[str, Any], sides: list[str]) -> None:
        """A turn of each side, in an order that turns from round to round."""
        at, here = len(cell["rounds"]) % len(sides), {}
        for side in sides[at:] + sides[:at]:
            try:
                here[side] = self.turn(kind, side)
            except Exception as error:  # what one side cannot do is no reason to lose the others' figures
                if side == BASE:
                    raise
                cell["notes"][side] = f"{type(error).__name__}: {str(error).strip()[:200]}"
                say(f"{side}: {cell['notes'][side]}")
        cell["rounds"].append(here)
        self.kept.save()
        self.done += 1

    def turn(self, kind: str, side: str) -> dict[str, float]:
        """What a side takes: seconds, bytes, and how far the logits are from those of bfloat16."""
        device, gpu = self.args.device, self.args.device == "cuda"
        call = work(kind, self.models[side], self.args.segment, device)
        first = call()  # also times ways of products, and compiles
        subject.settle()
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() if gpu else 0
        took: dict[str, float] = {"seconds": median(once(call, device) for _ in range(STEPS))}
        took["held"] = held(self.models[side])
        if gpu:
            took["peak"] = took["held"] + torch.cuda.max_memory_allocated() - before
        if kind == "prefill":
            if self.reference is None:
                self.reference = work(kind, self.models[BASE], self.args.segment, device)().float()
            took["differs"] = float((first.float() - self.reference).norm() / self.reference.norm())
        return took

    def run(self) -> bool:
        """All cells; False where time ran out before."""
        for name in self.args.models:
            for kind in ("prefill", "decode"):
                cell = self.kept.data["cells"].setdefault(f"{name} | {kind}", {"rounds": [], "notes": {}})
                cell["notes"] = {side: note for side in SIDES if (note := lacking(side))}
                while sides := [side for side in SIDES if side not in cell["notes"]]:
                    if min(sum(side in r for r in cell["rounds"]) for side in sides) >= self.args.rounds:
                        break
                    if self.done and time.monotonic() > self.deadline:
                        return False
                    self.enter(name, sides)
                    say(f"{name} | {kind}: round {len(cell['rounds']) + 1}")
                    self.round(kind, cell, sides)
        return True


def ratio(cell: dict[str, Any], side: str, what: str) -> float | None:
    """Of a side over bfloat16, the median over rounds: how many times as fast, or of bytes; None where not measured."""
    pairs = [(r[side], r[BASE]) for r in cell["rounds"] if side in r and what in r[side]]
    found = [over(b[what], a[what]) if what == "seconds" else over(a[what], b[what]) for a, b in pairs]
    kept = [x for x in found if x is not None]
    return median(kept) if kept else None


def report(data: dict[str, Any]) -> str:
    """Tables and targets in Markdown."""
    machine, rows, said = data["machine"], [], []
    for key, cell in data["cells"].items():
        for side in SIDES:
            here = [r[side] for r in cell["rounds"] if side in r]
            if not here:
                rows.append(f"| {key} | {side} | | | | | | | {cell['notes'].get(side, 'not measured')} |")
                continue
            last, speed, peak = here[-1], ratio(cell, side, "seconds"), ratio(cell, side, "peak")
            figures = [
                f"{1e3 * median(r['seconds'] for r in here):,.1f}",
                f"{speed:.2f}",
                gigabytes(last["held"]),
                gigabytes(last.get("peak")),
                "" if peak is None else f"{peak:.2f}",
                f"{last['differs']:.1e}" if "differs" in last else "",
            ]
            rows.append(f"| {key} | {side} | {' | '.join(figures)} | |")
            if key.endswith("prefill") and side.startswith("int8"):
                for what, value, target in (("speed", speed, TARGETS["speed"]), ("peak", peak, TARGETS["peak"])):
                    if value is None or machine["device"] == "cpu":
                        continue
                    met = value >= target if what == "speed" else value <= target
                    bound = f"at {'least' if what == 'speed' else 'most'} {target}"
                    said.append(f"- {key}: {what} of {side} {value:.2f}, {bound}: {'met' if met else 'missed'}")
    columns = "ms | speed over bf16 | holds GB | peak GB | peak over bf16 | logits differ by | note"
    head = f"{machine['device']}, torch {machine['torch']}, products: {machine['products']}, bfloat16 activations"
    table = "\n".join([f"| model | work | side | {columns} |", "|" + "---|" * 10, *rows])
    return "\n\n".join([head, table, "\n".join(said) or "- targets are not judged in a rehearsal"])


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Arguments.

    Raises:
        InputError: a GPU where there is none, an unknown model, or a number below 1.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results, and of those before")
    parser.add_argument("--minutes", type=float, default=600.0, help="stop then, to go on another time")
    parser.add_argument("--rounds", type=int, default=5, help="of each piece of work")
    parser.add_argument("--segment", type=int, default=1024, help="tokens; prefill reads four of them")
    parser.add_argument("--models", nargs="+", default=["llama-1b", "llama-8b"])
    parser.add_argument("--quick", action="store_true", help="toys on a CPU; figures of no worth")
    args = parser.parse_args(argv)
    if args.quick:
        args.models, args.segment, args.rounds = ["tiny"], 16, min(args.rounds, 2)
    args.device = subject.place("cpu" if args.quick else "cuda")
    for name in args.models:
        if name not in sizes.SIZES or sizes.SIZES[name].bert:
            decoders = ", ".join(name for name, size in sizes.SIZES.items() if not size.bert)
            raise InputError(f"--models: expected some of {decoders}, got {name!r}; choose among these")
    if min(args.rounds, args.segment) < 1:
        raise InputError(f"expected rounds and segments above 0, got {args.rounds}, {args.segment}; change it")
    return args


def main(argv: list[str] | None = None) -> int:
    """Measure and print; the exit code, 3 where there is more to do."""
    try:
        args = parse(argv)
        kept = Kept(args.out / "gpu_int8.json", {"device": args.device, "segment": args.segment})
        found = support(torch.device(args.device))
        kept.data["machine"] = {
            "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
            "torch": torch.__version__,
            "products": f"{found.products} {found.why}".strip(),
        }
        finished = Bench(kept, args).run()
        kept.save()
        text = report(kept.data)
        (args.out / "gpu_int8.md").write_text(f"{text}\n", encoding="utf-8")
        print(f"{text}\n\n{'done' if finished else 'not finished: run the same command again'}")
    except InputError as error:
        say(f"error: {error}")
        return 2
    return 0 if finished else 3


if __name__ == "__main__":
    sys.exit(main())
