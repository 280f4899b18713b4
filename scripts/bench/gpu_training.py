"""Training on a GPU: the one command that measures what adapters, 4-bit weights and LOMO save under recurrence.

    python scripts/bench/gpu_training.py --out DIR                # one GPU with 80 GB; about ten minutes
    python scripts/bench/gpu_training.py --out DIR --minutes 9    # in pieces: the same command until it says done
    python scripts/bench/gpu_training.py --out DIR --report       # the tables in Markdown of what was measured
    python scripts/bench/gpu_training.py --out DIR --rehearse     # toys on a CPU, some seconds

Llama-shaped models of 1B and 8B weights, random and in bfloat16, read one document of 4 and of 16 segments of 1,024
tokens and make a training step. Sides take turns in one process, and a ratio is the median over rounds of those within
a round. Learning rates are zero: all sides train the same weights, which stay as they are, and their losses are
compared. In one group adapters of rank 16 (PEFT's default, PEFT with adapters in bfloat16, ours; the two ways over
4-bit weights, with a cache of all of them in 16 bit and with none), all with AdamW; in the next all weights (AdamW,
SGD, LOMO with deferred gradients, lomo-optim); in the last associative memory, where LOMO goes layer by layer.

``saved`` is what forward leaves for backward, ``peak`` what a step takes at most over what was there before it, with
gradients and what comes and goes (on a CPU unknown, and ``saved`` what autograd keeps outside checkpoints). ``holds``
is what a side holds between steps if it is alone: weights, state of the optimizer, caches. PEFT, bitsandbytes and
lomo-optim (pip packages peft, bitsandbytes>=0.50, lomo-optim) are not needed: sides without them are left out with a
note, and measured when the command runs again with them. Rounds are kept in gpu_training.json in --out as they are
done; a side that ran out of memory is not tried again.

Expect ours over PEFT's default at 1.15 times the tokens per second or more with 0.70 of its activations at most, and
4-bit weights with a cache at 1.15 times the step over 16-bit ones at most; LOMO with deferred gradients to save little
here, as segments of 1,024 tokens are past its bound, and layer by layer to save most of the gradients.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sizes
import subject
import torch
import training_report
import training_sides as sides
from executors import Kept, say
from training_sides import GROUPS, Setting, Shop

from rmt.errors import InputError

# How gradients go back, by model and segments; elsewhere segments are computed again.
WAYS = {
    ("llama-1b", 4): ("plain",),
    ("llama-1b", 16): ("checkpointed", "plain"),
    ("llama-8b", 4): ("checkpointed", "plain"),
    ("tiny", 2): ("plain", "checkpointed"),
}
RATE = {"cuda": 2e14, "cpu": 2e9}  # operations per second, for a guess at what a first round takes
LEAST = {"cuda": 0.5, "cpu": 0.0}  # seconds of a side's steps in a round
BUILD = 5e-10  # seconds a weight, to make a side


@dataclass(frozen=True)
class Cell:
    """One piece of work: a group of sides trains a model on a document of so many segments."""

    model: str
    group: str
    segments: int
    recurrence: str

    @property
    def key(self) -> str:
        """Its name in a file of results."""
        return " | ".join((self.model, self.group, str(self.segments), self.recurrence))


def cells(models: Sequence[str], segments: Sequence[int], groups: Sequence[str]) -> list[Cell]:
    """All work, what targets are about first, and of a model and group what is sure to fit first."""
    found = []
    for some in (("adapters",), ("weights", "by layer")):
        for model, group in ((model, group) for model in models for group in some if group in groups):
            ways = [(count, WAYS.get((model, count), ("checkpointed",))) for count in segments]
            for choice in range(2):
                found += [Cell(model, group, count, way[choice]) for count, way in ways if choice < len(way)]
    return found


def estimated(cell: Cell, setting: Setting) -> int:
    """Bytes that training all weights with AdamW takes."""
    from efficiency.footprint import estimate, fake, give_fake
    from rmt.cli.training_estimate import one_segment

    model = sizes.for_training(cell.model, sides.MEMORY[cell.group], setting.segment, setting.tokens, "meta")
    with fake():
        give_fake(model)
        passed = sum(tensor.nbytes for tensor in model.cell.initial(1).values())
        kept = None if cell.recurrence == "plain" else 1
        options: dict[str, Any] = {"times": cell.segments, "kept": kept, "memory_bytes": passed}
        return estimate(model, one_segment(model, 1, setting.segment), optimizer="adamw", **options).total


class Bench:
    """Measures cells into a file, the weights of one model and group at a time.

    Args:
        kept: the file.
        setting: of all sides.
        only: sides to measure; those of a group.
        card: bytes of the GPU; None to leave out nothing by an estimate.
        deadline: of ``time.monotonic``, behind which no round begins that is not likely to end before it.
    """

    def __init__(self, kept: Kept, setting: Setting, only: Sequence[str], card: float | None, deadline: float) -> None:
        self.kept, self.setting, self.only, self.card, self.deadline = kept, setting, only, card, deadline
        self.place: tuple[str, str] | None = None
        self.shop: Shop | None = None
        self.done = 0

    def measure(self, some: Sequence[Cell], rounds: int) -> bool:
        """Add rounds until each side has ``rounds`` of them or a note; False where time ran out before."""
        for cell in some:
            kept = self.kept.data["cells"].setdefault(cell.key, {"rounds": [], "notes": {}, "told": {}, "walls": []})
            names = self._names(cell, kept)
            while wanted := [name for name in names if name not in kept["notes"]]:
                fewest = min(sum(name in r for r in kept["rounds"]) for name in wanted)
                if fewest >= rounds:
                    break
                guess = self._guess(cell, kept, len(wanted))
                if self.done and time.monotonic() + guess > self.deadline:
                    return False
                say(f"{cell.key}: round {fewest + 1} of {rounds}, about {guess:.0f} s")
                self._round(cell, kept, wanted)
                self.done += 1
        return True

    def _names(self, cell: Cell, kept: dict[str, Any]) -> list[str]:
        """Sides to measure; notes say why others are not."""
        names = [name for name in GROUPS[cell.group] if name in self.only]
        for name in names:
            if note := sides.lacking(name):
                kept["notes"][name] = note
            elif not kept["notes"].get(name, "").startswith("does not fit"):
                kept["notes"].pop(name, None)  # a package or a mend may have come since
        waits = "AdamW" in names and not kept["notes"].get("AdamW") and not kept["rounds"]
        if waits and self.card is not None and (needed := estimated(cell, self.setting)) > self.card:
            kept["notes"]["AdamW"] = f"does not fit: an estimate of {needed / 1e9:.3g} GB, of {self.card / 1e9:.3g}"
        return names

    def _guess(self, cell: Cell, kept: dict[str, Any], count: int) -> float:
        """Seconds that a round is likely to take."""
        if kept["walls"]:
            return max(kept["walls"][-2:])
        config = sizes.llama(sizes.SIZES[cell.model], self.setting.segment)
        weights = config.num_hidden_layers * sizes.weights(config) + config.vocab_size * config.hidden_size
        tokens = cell.segments * self.setting.segment
        step = 8 * weights * tokens / RATE[self.setting.device]
        build = BUILD * weights if (cell.model, cell.group) != self.place else 0.0
        return count * (build + 2 * step + LEAST[self.setting.device])

    def _enter(self, cell: Cell) -> Shop:
        place = (cell.model, cell.group)
        if self.shop is None or self.place != place:
            if self.shop is not None:
                self.shop.drop()
            self.shop = None
            sides.free()  # before the next model is made
            say(f"building {cell.model}")
            self.shop, self.place = Shop(*place, self.setting), place
        return self.shop

    def _round(self, cell: Cell, kept: dict[str, Any], names: list[str]) -> None:
        """A turn of each side, in an order that turns from round to round; one without a figure gets a note."""
        start, here = time.monotonic(), {}
        at = len(kept["rounds"]) % len(names)
        for name in names[at:] + names[:at]:
            if (took := self._attempt(cell, kept, name)) is not None:
                here[name] = took
        if here:
            kept["rounds"].append(here)
            kept["walls"].append(time.monotonic() - start)
        self.kept.save()

    def _attempt(self, cell: Cell, kept: dict[str, Any], name: str) -> dict[str, float] | None:
        shop = self._enter(cell)
        while True:
            try:
                side, ids, device = shop.side(name, cell.recurrence), shop.ids(cell.segments), self.setting.device
                if cell.key not in side.warm:
                    kept["told"][name] = sides.warm_up(side, ids, device)
                    side.warm.add(cell.key)
                return sides.turn(side, ids, device, LEAST[device])
            except Exception as error:  # what one library cannot do is no reason to lose the others' figures
                full, said = sides.full(error), f"{type(error).__name__}: {str(error).strip()[:200]}"
            side = None
            # Once more where others were in the way. Frames of the error are gone here, and what they held with them.
            shop.sides.pop(name, None)
            if full and shop.drop():
                say(f"{name}: memory ran out; again without the others")
                continue
            shop.drop()
            if not full and "CUDA error" in said:
                self.kept.save()
                raise InputError(f"{name}: expected a step, got {said}; the GPU is lost to this process, run it again")
            kept["notes"][name] = f"does not fit: {said}" if full else said
            say(f"{name}: {kept['notes'][name]}")
            self.kept.save()
            return None


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Arguments.

    Raises:
        InputError: a GPU where there is none, or a value that is not known.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = list(dict.fromkeys(name for names in GROUPS.values() for name in names))
    parser.add_argument("--out", type=Path, required=True, help="folder for the results, and of those before")
    parser.add_argument("--minutes", type=float, default=600.0, help="stop then, to go on another time")
    parser.add_argument("--rounds", type=int, default=3, help="of each cell")
    parser.add_argument("--models", nargs="+", default=["llama-1b", "llama-8b"], help=", ".join(sizes.SIZES))
    parser.add_argument("--segments", nargs="+", type=int, default=[4, 16], help="of a document")
    parser.add_argument("--segment-size", type=int, default=1024, help="tokens")
    parser.add_argument("--memory-tokens", type=int, default=16)
    parser.add_argument("--groups", nargs="+", choices=list(GROUPS), default=list(GROUPS))
    parser.add_argument("--only", nargs="+", choices=known, default=known, metavar="SIDE", help=", ".join(known))
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--dropout", type=float, default=0.0, help="of adapters")
    parser.add_argument("--budget", type=float, default=1.0, help="of QLoRA's cache, in models of 16 bits")
    parser.add_argument("--card", type=float, help="gigabytes to judge estimates by; those of the GPU")
    parser.add_argument("--rehearse", action="store_true", help="toys on a CPU; figures of no worth")
    parser.add_argument("--report", action="store_true", help="print what was measured, measure nothing")
    args = parser.parse_args(argv)
    if args.rehearse:
        args.models, args.segments, args.segment_size, args.memory_tokens, args.rank = ["tiny"], [2], 16, 4, 4
    for name in args.models:
        if name not in sizes.SIZES or sizes.SIZES[name].bert:
            decoders = ", ".join(name for name, size in sizes.SIZES.items() if not size.bert)
            raise InputError(f"--models: expected some of {decoders}, got {name!r}; choose among these")
    for number in (*args.segments, args.segment_size, args.memory_tokens, args.rank, args.rounds):
        if number < 1:
            raise InputError(f"expected sizes, rank and rounds above 0, got {number}; change it")
    args.device = "cpu" if args.rehearse else "cuda"
    if not args.report:
        subject.place(args.device)
    return args


def opened(args: argparse.Namespace) -> Kept:
    """The file of results."""
    path = args.out / "gpu_training.json"
    if args.report and not path.is_file():
        raise InputError(f"--out: expected results in {path}, got none; measure first, without --report")
    names = ("device", "segment_size", "memory_tokens", "rank", "dropout", "budget")
    settings = {name: getattr(args, name) for name in names}
    if args.report:  # of whatever settings it was made with
        settings = json.loads(path.read_text(encoding="utf-8"))["settings"]
    return Kept(path, settings)


def run(args: argparse.Namespace) -> bool:
    """Measure, print; whether all of it is done."""
    kept = opened(args)
    if args.report:
        print(training_report.report(kept.data))
        return True
    kept.data["machine"] = {
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "torch": torch.__version__,
    }
    card = args.card and 1e9 * args.card
    if card is None and args.device == "cuda":
        card = torch.cuda.get_device_properties(0).total_memory
    s = Setting(args.device, args.segment_size, args.memory_tokens, args.rank, args.dropout, args.budget)
    bench = Bench(kept, s, args.only, card, time.monotonic() + 60 * args.minutes)
    done = bench.measure(cells(args.models, args.segments, args.groups), args.rounds)
    kept.save()
    print(training_report.report(kept.data))
    print("\ndone" if done else "\nnot finished: run the same command again", flush=True)
    return done


def main(argv: list[str] | None = None) -> int:
    """Measure and print; the exit code, 3 where time ran out before the end."""
    try:
        return 0 if run(parse(argv)) else 3
    except InputError as error:
        say(f"error: {error}")
        return 2


if __name__ == "__main__":
    sys.exit(main())
