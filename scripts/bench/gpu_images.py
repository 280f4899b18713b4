"""Images on a GPU: the one command that times LLaVA-1.5-7B's shapes with a memory, and trains the album's world large.

    python scripts/bench/gpu_images.py --out DIR                  # one GPU with 80 GB; the same command until "done"
    python scripts/bench/gpu_images.py --out DIR --minutes 5 --only see long
    python scripts/bench/gpu_images.py --out DIR --train-album    # the offline world at 10 times the size
    python scripts/bench/gpu_images.py --out DIR --small          # toys on a CPU, a minute; figures of no worth

Random weights, made on the device in bfloat16 (CLIP-L of 336 pixels, 32 layers of 4096); nothing is downloaded.
``see``: images per second of the tower, with its projector behind it, and of the processor on the CPU.
``long``: 100 and 1,000 pages by what `auto` takes, whose peaks should be equal. A page is an image of 576 tokens and
500 words, made as it is read; preparing and encoding it are within the time.
``read``, ``projectors``: 100 pages by each executor, and with 576, 144 and 64 tokens an image; pixels are ready.
``train``: a step of AdamW on 4 segments of 1,024 tokens with an image each, checkpointed, over 4-bit weights (pip
package bitsandbytes) and over those of 16 bits; stage 2 with LoRA.

Memory is 16 gated tokens whose gates stay shut, which suits reading ahead best, or associative. Sides of a part take
turns in one process; a ratio is the median over rounds of those within a round, over the part's first side. A side that
fails leaves its error as a note and the others go on; ``--retry`` tries it again. Peaks are a side's own weights and
what comes and goes. Rounds are kept in gpu_images.json in --out as they are done, tables in gpu_images.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import gpu_album
import image_sides
import image_steps
import subject
import torch
import training_sides
from executors import Kept, say
from image_sides import SEVEN_B, SMALL, Place, Turn

from rmt.errors import InputError

MEMORIES: dict[str, tuple[str, ...]] = {
    "gated": ("sequential", "speculative", "captured"),
    "associative": ("sequential", "wavefront", "captured"),
}
FLAT = 1.05  # a peak over that of a tenth of the length, at most
COUNTED = ("images", "pages", "tokens")


@dataclass(frozen=True)
class Part:
    """Something to measure.

    Attributes:
        group: of what ``--only`` names.
        name: in tables and in the file.
        make: its sides: by name, what makes one ready and gives what takes a turn.
        sides: their names.
        rounds: turns of each.
        guess: seconds that building it and one round are likely to take on an H100; for the budget, not measured.
        alone: whether a side is gone when it has taken its turn, so that all that is allocated is its own.
    """

    group: str
    name: str
    make: Callable[[Place], dict[str, Callable[[], Turn]]]
    sides: tuple[str, ...]
    rounds: int
    guess: float
    alone: bool = False


def parts(shape: image_sides.Shape, rounds: int) -> list[Part]:
    """All parts, by importance."""
    seen = ("tower", "tower + projector", "processor, on the CPU")
    lengths = tuple(f"{count:,} pages" for count in shape.pages)
    found = [
        Part("see", f"see {n} at once", lambda p, n=n: image_sides.seeing(p, n), seen, rounds, 15.0)
        for n in shape.batches
    ]
    found += [
        Part("long", f"long, {memory}", lambda p, m=memory: image_sides.lengths(p, m), lengths, 1, 120.0)
        for memory in MEMORIES
    ]
    found += [
        Part("read", f"read, {memory}", lambda p, m=memory, n=names: image_sides.reading(p, m, n), names, rounds, 60.0)
        for memory, names in MEMORIES.items()
    ]
    kinds = ("mlp", "pooled", "resampler")
    found.append(Part("projectors", "projectors, gated", image_sides.projectors, kinds, rounds, 60.0))
    found += [
        Part(
            "train",
            f"train, stage {n}",
            lambda p, n=n: image_steps.training(p, n),
            ("NF4", "16 bit"),
            1,
            60.0,
            alone=True,
        )
        for n in (1, 2)
    ]
    return found


class Bench:
    """One part at a time, measured into a file.

    Args:
        kept: the file.
        place: where, and of what shape.
        deadline: of ``time.monotonic``, behind which no round begins that is not likely to end before it.
    """

    def __init__(self, kept: Kept, place: Place, deadline: float) -> None:
        self.kept, self.place, self.deadline = kept, place, deadline
        self.done = 0

    def run(self, wanted: Sequence[Part], retry: bool = False) -> bool:
        """Add rounds to parts until each has its own; False where time ran out before."""
        for part in wanted:
            cell = self.kept.data["cells"].setdefault(part.name, {"rounds": [], "notes": {}, "walls": []})
            if retry:
                cell["notes"].clear()
            if not self._part(part, cell):
                return False
        return True

    def _part(self, part: Part, cell: dict[str, Any]) -> bool:
        makers: dict[str, Any] = {}
        ready: dict[str, Turn] = {}
        try:
            while missing := self._missing(part, cell):
                guess = cell["walls"][-1] if ready and cell["walls"] else part.guess
                if self.done and time.monotonic() + guess > self.deadline:
                    return False
                say(f"{part.name}: round {len(cell['rounds']) + 1}, about {guess:.0f} s")
                start, at, here = time.monotonic(), len(cell["rounds"]) % len(missing), {}
                for side in missing[at:] + missing[:at]:
                    try:
                        makers = makers or part.make(self.place)
                        if side not in ready:
                            ready[side] = makers[side]()
                        here[side] = ready[side]()
                    except Exception as error:  # what one side cannot do is no reason to lose the others' figures
                        cell["notes"][side] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                        say(f"{part.name}, {side}: {cell['notes'][side]}")
                    if side not in here or part.alone:
                        ready.pop(side, None)
                        self._still_there()
                if here:
                    cell["rounds"].append(here)
                    cell["walls"].append(time.monotonic() - start)
                self.done += 1
                self.kept.save()
        finally:
            makers, ready = {}, {}  # weights of one part leave before the next are made
            training_sides.free()
        return True

    def _missing(self, part: Part, cell: dict[str, Any]) -> list[str]:
        """Sides that can take a turn, while any of them has too few."""
        able = [side for side in part.sides if side not in cell["notes"]]
        taken = [sum(side in here for here in cell["rounds"]) for side in able]
        return able if able and min(taken) < part.rounds else []

    def _still_there(self) -> None:
        """Refuse to go on where a GPU answers no more: all that follows would fail too.

        Raises:
            InputError: saying so; what was measured is kept.
        """
        training_sides.free()
        try:
            subject.settle()
        except RuntimeError as error:
            self.kept.save()
            raise InputError(f"expected a GPU that answers, got {str(error).splitlines()[0]}; run it again") from error


def rate(took: dict[str, float], what: str) -> float | None:
    """So many a second."""
    return took[what] / took["seconds"] if what in took else None


def ratios(cell: dict[str, Any], side: str, base: str) -> list[float]:
    """How many times as fast as another side, in each round that has both; by pages where there are any, as images of
    fewer tokens are no less to see."""
    both = [(here[side], here[base]) for here in cell["rounds"] if side in here and base in here]
    unit = next((u for u in ("pages", "images", "tokens") if both and u in both[0][0]), "tokens")
    return [(a[unit] / a["seconds"]) / (b[unit] / b["seconds"]) for a, b in both]


def line(part: Part, cell: dict[str, Any], side: str) -> str:
    """A row of the table."""
    turns = [here[side] for here in cell["rounds"] if side in here]
    if not turns:
        return f"| {part.name} | {side} | | | | | | | | {cell['notes'].get(side, 'not measured')} |"
    found = [f"{median(t['seconds'] for t in turns):,.3f}"]
    for what in COUNTED:
        rates = [r for t in turns if (r := rate(t, what)) is not None]
        found.append(f"{median(rates):,.1f}" if rates else "")
    over = ratios(cell, side, part.sides[0])
    spread = f"{median(over):.2f} ({min(over):.2f} to {max(over):.2f})" if over and side != part.sides[0] else ""
    peaks = [t["peak_gb"] for t in turns if "peak_gb" in t]
    gaps = [t["differs"] for t in turns if "differs" in t]
    found += [spread, f"{max(peaks):.2f}" if peaks else "", f"{max(gaps):.1e}" if gaps else ""]
    return f"| {part.name} | {side} | {' | '.join(found)} | {cell['notes'].get(side, '')} |"


def verdicts(data: dict[str, Any], wanted: Sequence[Part]) -> list[str]:
    """Whether memory grows with the length."""
    out = []
    for part in wanted:
        rounds = data["cells"].get(part.name, {"rounds": []})["rounds"]
        peaks = [max((r[side].get("peak_gb", 0.0) for r in rounds if side in r), default=0.0) for side in part.sides]
        if part.group != "long" or not all(peaks):
            continue
        growth = peaks[-1] / peaks[0]
        said = "flat" if growth <= FLAT else "NOT FLAT"
        out.append(f"- {part.name}: peak of {part.sides[-1]} over that of {part.sides[0]}: {growth:.3f}, {said}")
    return out


def report(data: dict[str, Any], wanted: Sequence[Part]) -> str:
    """Tables in Markdown."""
    machine = data["machine"]
    head = f"{machine['device']}, torch {machine['torch']}, transformers {machine['transformers']}, {machine['dtype']}"
    columns = "part | side | seconds | images/s | pages/s | tokens/s | over the first side (least to most) | peak GB"
    columns += " | memory differs by"
    rows = [
        line(part, data["cells"][part.name], side)
        for part in wanted
        if part.name in data["cells"]
        for side in part.sides
    ]
    table = "\n".join([f"| {columns} | note |", "|" + "---|" * 10, *rows])
    said = verdicts(data, wanted)
    return "\n\n".join([head, table, "\n".join(said) or "- peaks are not judged where none were measured"])


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Arguments.

    Raises:
        InputError: a GPU where there is none, an unknown group of parts, or a number that is too small.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    groups = list(dict.fromkeys(part.group for part in parts(SEVEN_B, 1)))
    parser.add_argument("--out", type=Path, required=True, help="folder for the results, and of those before")
    parser.add_argument("--minutes", type=float, default=9.0, help="stop then, to go on another time")
    parser.add_argument("--rounds", type=int, default=3, help="of parts that compare")
    parser.add_argument("--only", nargs="+", default=groups, help=f"some of {', '.join(groups)}")
    parser.add_argument("--retry", action="store_true", help="measure again what failed before")
    parser.add_argument("--small", action="store_true", help="toys on a CPU; figures of no worth")
    parser.add_argument("--train-album", action="store_true", help="train the offline world instead")
    parser.add_argument("--text", default="installed:", help="of --train-album: anything that `rmt train` reads")
    parser.add_argument("--encoder", type=Path, help="of --train-album: a vision tower to take instead of training one")
    args = parser.parse_args(argv)
    if unknown := [name for name in args.only if name not in groups]:
        raise InputError(f"--only: expected some of {', '.join(groups)}, got {unknown[0]!r}; choose among these")
    if args.rounds < 1:
        raise InputError(f"--rounds: expected at least 1, got {args.rounds}; give a larger number")
    args.device = subject.place("cpu" if args.small else "cuda")
    return args


def measure(args: argparse.Namespace, deadline: float) -> bool:
    """All parts that are asked for; whether they are done."""
    import transformers

    place = Place(SMALL if args.small else SEVEN_B, args.device)
    kept = Kept(args.out / "gpu_images.json", {"device": args.device, "small": args.small})
    kept.data["machine"] = {
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "dtype": str(place.dtype).removeprefix("torch."),
    }
    every = parts(place.shape, args.rounds)
    try:
        return Bench(kept, place, deadline).run([part for part in every if part.group in args.only], args.retry)
    finally:
        kept.save()
        text = report(kept.data, every)
        (args.out / "gpu_images.md").write_text(f"{text}\n", encoding="utf-8")
        print(text)


def main(argv: list[str] | None = None) -> int:
    """Measure or train, and print; the exit code, 3 where there is more to do."""
    try:
        args = parse(argv)
        deadline = time.monotonic() + 60 * args.minutes
        if args.train_album:
            finished = gpu_album.train(args.out, args.text, args.encoder, args.small, deadline)
        else:
            finished = measure(args, deadline)
    except InputError as error:
        say(f"error: {error}")
        return 2
    print("\ndone" if finished else "\nnot finished: run the same command again", flush=True)
    return 0 if finished else 3


if __name__ == "__main__":
    sys.exit(main())
