"""Ways to read one document with one model, timed against reading in sequence, over models, lengths and segment sizes.

    python scripts/bench/executors.py --quick                    # seconds, to see that it runs
    python scripts/bench/executors.py --models llama-30m minilm --lengths 4096 16384 --segments 128 512
    python scripts/bench/executors.py --device cuda --models llama-1b --lengths 131072 --segments 512 1024 --parts speed

Weights are random and of real sizes (scripts/bench/sizes.py): decoders of the LLaMA family with associative memory,
an encoder in MiniLM's shape with memory tokens. In every round each side reads the same document once, one after
another in one process, in an order that turns; ratios are those within a round, and medians over rounds are printed.
Each memory is compared with the one read in sequence. Full attention is one forward of the same backbone over the whole
text, without logits; an encoder's table of positions is made that long. Peak memory is that of a process for each side
and length on a CPU, and what torch allocates on a GPU, where it is measured beside speed.

Expect memory that does not grow with the length, but for full attention's. Run it on a quiet machine. Rounds are kept
in executors.json in --out as they are done: the same command goes on from there, also after --minutes or a kill.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import peak
import sides
import sizes
import subject
import torch
from sides import BASE, FULL, Cell, Subject

from evals.plots import lines
from rmt.errors import InputError
from rmt.executors.precision import as_dtype

QUICK = {"models": ["tiny", "tiny-bert"], "lengths": [64, 128], "segments": [8], "repeats": 2}
FULL_RUN = {"models": ["minilm", "llama-30m"], "lengths": [4096, 16384], "segments": [128, 512], "repeats": 3}
# Of what a layer of one segment takes, on a machine that is kept waiting by Python; for a guess at what comes next.
LAYER_SECONDS = 1e-3


class Kept:
    """Results in a file, written beside it and renamed.

    Args:
        path: of the file; what is there is gone on from.
        settings: what figures belong to.

    Raises:
        InputError: a file that was made with other settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.data: dict[str, Any] = {"settings": settings, "machine": {}, "cells": {}, "memory": {}, "profiles": {}}
        if path.is_file():
            self.data = json.loads(path.read_text(encoding="utf-8"))
            if self.data["settings"] != settings:
                raise InputError(
                    f"--out: expected results of {settings} in {path}, got some of {self.data['settings']}; give "
                    "another folder"
                )

    def save(self) -> None:
        """Write all of it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        beside.write_text(json.dumps(self.data, indent=1) + "\n", encoding="utf-8")
        os.replace(beside, self.path)

    def cell(self, cell: Cell) -> dict[str, Any]:
        """What is known of a cell, to be added to."""
        found: dict[str, Any] = self.data["cells"].setdefault(cell.key, sides.nothing())
        return found


class Bench:
    """One model at a time, on a device, measured into a file.

    Args:
        kept: the file.
        device, dtype: of the models.
        deadline: of ``time.monotonic``, behind which no round begins that is not likely to end before it.
        positions: tokens of the longest text.
        options: further arguments of :class:`sides.Subject`.
    """

    def __init__(self, kept: Kept, device: str, dtype: str, deadline: float, positions: int, **options: Any) -> None:
        self.kept, self.device, self.dtype, self.deadline, self.positions = kept, device, dtype, deadline, positions
        self.options = options
        self.current: Subject | None = None
        wanted = as_dtype(dtype, torch.device(device))
        self.peak = sides.square_peak(wanted, device)
        known = kept.data["machine"]
        self.peak = max(self.peak, known.get("square", 0.0))
        known |= {
            "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "dtype": str(wanted).removeprefix("torch."),
            "square": self.peak,
        }
        self.done = 0

    def subject(self, name: str) -> Subject:
        """The model of this name, in place of the one before."""
        if self.current is None or self.current.name != name:
            self.current = None  # so that its memory is free before the next is made
            if self.device == "cuda":
                torch.cuda.empty_cache()
            say(f"building {name}")
            model = sizes.build(name, self.positions, self.device, self.dtype)
            self.current = Subject(name, model, self.device, self.peak, **self.options)
            for key, cell in self.kept.data["cells"].items():
                if key.split()[0] == name:
                    self._remember(self.current, cell)
        return self.current

    def _remember(self, subject: Subject, cell: dict[str, Any]) -> None:
        """Rates that sides reached in a run before."""
        for here in cell["rounds"]:
            for name, took in here.items():
                needed = cell["full_operations"] if name == FULL else cell["operations"]
                subject.rates[name] = needed * took["tokens"] / took["seconds"]

    def guess(self, subject: Subject, cell: Cell) -> float:
        """Seconds that a round is likely to take."""
        subject.model.config.segment_size = cell.segment
        total, layers = 0.0, subject.model.config.num_hidden_layers
        for name in cell.names:
            rate = subject.rates.get(name, 0.2 * self.peak)
            seconds = sides.operations(subject, cell, name) / rate
            if name not in subject.rates and name != FULL:
                seconds = max(seconds, cell.length / cell.segment * layers * LAYER_SECONDS)
            total += min(seconds, subject.full_limit) if name == FULL else seconds
        return total

    def room(self, seconds: float) -> bool:
        """Whether so much fits before the deadline; the first piece of work always may begin."""
        return not self.done or time.monotonic() + seconds < self.deadline

    def measure(self, cells: Sequence[Cell], repeats: int) -> bool:
        """Add rounds to cells until each has ``repeats`` of them; False where time ran out before."""
        for cell in cells:
            kept = self.kept.cell(cell)
            while len(kept["rounds"]) < repeats:
                now = self.subject(cell.model)
                if not self.room(guess := self.guess(now, cell)):
                    return False
                say(f"{cell.key}: round {len(kept['rounds']) + 1} of {repeats}, about {guess:.0f} s")
                sides.one_round(now, cell, kept)
                self.done += 1
                self.kept.save()
        return True


def say(line: str) -> None:
    """Where it is, on standard error."""
    print(line, file=sys.stderr, flush=True)


def ratios(kept: dict[str, Any], name: str, over: str = BASE) -> list[float]:
    """Tokens per second of a side over another's, of each round that has both."""
    both = [(r[name], r[over]) for r in kept["rounds"] if name in r and over in r]
    return [(a["tokens"] / a["seconds"]) / (b["tokens"] / b["seconds"]) for a, b in both]


def speed_of(kept: dict[str, Any], name: str) -> float | None:
    """Tokens per second of a side, the median; None where it was not measured."""
    found = [r[name]["tokens"] / r[name]["seconds"] for r in kept["rounds"] if name in r]
    return median(found) if found else None


def row(key: str, kept: dict[str, Any], name: str, square: float) -> str:
    """A line of the table."""
    speed = speed_of(kept, name)
    if speed is None:
        return f"| {' | '.join(key.split())} | {name} | | | | | | {kept['notes'].get(name, 'not measured')} |"
    found, full = ratios(kept, name), speed_of(kept, FULL)
    spread = f"{median(found):.2f} ({min(found):.2f} to {max(found):.2f})" if found else ""
    rate = speed * (kept["full_operations"] if name == FULL else kept["operations"])
    differs = f"{kept['gaps'][name]:.1e}" if name in kept["gaps"] else ""
    peaks = [r[name]["peak_mb"] for r in kept["rounds"] if name in r and "peak_mb" in r[name]]
    # What a process got of the cores: fewer than it has threads says that the machine was busy, or that it waited.
    cores = min(r[name]["cores"] for r in kept["rounds"] if name in r)
    memory = [f"peak {max(peaks):,.0f} MB"] if peaks else []
    what = "; ".join([kept["what"][name], f"{cores:.2f} cores", *memory])
    of_full = f"{speed / full:.2f}" if full else ""
    place = " | ".join(key.split())
    rates = f"{rate / 1e9:,.0f} ({rate / square:.0%})"
    return f"| {place} | {name} | {speed:,.0f} | {spread} | {of_full} | {rates} | {differs} | {what} |"


def table(data: dict[str, Any]) -> str:
    """All cells in Markdown."""
    machine = data["machine"]
    head = (
        f"{machine['device']}, {machine['threads']} threads, {machine['dtype']}, torch {machine['torch']}; a square "
        f"product of {sides.SQUARE['cpu' if machine['device'] == 'cpu' else 'cuda']} reaches "
        f"{machine['square'] / 1e9:,.0f} GFLOP/s\n"
    )
    columns = "model | tokens | segment | side | tokens/s | over sequential (least to most) | over full attention"
    out = [head, f"| {columns} | GFLOP/s (of the square) | memory differs by | by |", "|" + "---|" * 10]
    for key, kept in data["cells"].items():
        names = dict.fromkeys([BASE, *(n for n in sides.NAMES if n in kept["what"] or n in kept["notes"])])
        out += [row(key, kept, name, machine["square"]) for name in names]
    return "\n".join(out)


def peaks_table(memory: dict[str, dict[str, float]]) -> str:
    """Peak resident memory of each side over length, and its growth."""
    out = ["| model | segment | side | peak MB while reading, by tokens | longest over shortest |", "|" + "---|" * 5]
    for key, found in memory.items():
        model, segment, name = key.split(maxsplit=2)
        by_length = sorted((int(length), mb) for length, mb in found.items())
        said = ", ".join(f"{length:,}: {mb:,.0f}" for length, mb in by_length)
        out.append(f"| {model} | {segment} | {name} | {said} | {by_length[-1][1] / by_length[0][1]:.3f} |")
    return "\n".join(out)


def measure_memory(bench: Bench, args: argparse.Namespace) -> bool:
    """Peak resident memory of sides that could be measured, a process for each and each length; CPU only."""
    memory = bench.kept.data["memory"]
    for model in args.models:
        for name in args.executors:
            for length in args.lengths:
                known = bench.kept.data["cells"].get(Cell(model, length, args.segments[-1]).key, sides.nothing())
                found = memory.setdefault(f"{model} {args.segments[-1]} {name}", {})
                if str(length) in found or name in known["notes"]:
                    continue
                if not bench.room(60):
                    return False
                say(f"peak memory: {model}, {name}, {length:,} tokens")
                one = ["--peak", model, str(length), str(args.segments[-1]), name, "--dtype", args.dtype]
                done = subprocess.run([sys.executable, __file__, *one], capture_output=True, text=True, check=False)
                if done.returncode:
                    raise RuntimeError(f"{model} {name}: reading failed: {done.stderr.strip()[-2000:]}")
                found[str(length)] = json.loads(done.stdout.splitlines()[-1])["reading_mb"]
                bench.done += 1
                bench.kept.save()
    for empty in [key for key, found in memory.items() if not found]:
        del memory[empty]
    return True


def print_peak(model: str, length: int, segment: int, name: str, dtype: str) -> None:
    """Read once in this process and print the peak of resident memory meanwhile; the model is loaded before."""
    # Others need no table of them that grows with the text: a segment, memory tokens and marks.
    positions = length if name == FULL else segment + 64
    built = Subject(model, sizes.build(model, positions, "cpu", dtype), "cpu", peak=1e12, full_limit=600.0)
    built.model.config.segment_size = segment
    one = sides.side(built, name, length)
    if isinstance(one, str):
        raise InputError(f"--peak: expected a side that can read, got {name}, which {one}; leave it out")
    sizes.attention(built.model, one.attention)
    one.warm()  # also compiles: what the compiler took meanwhile is no part of the peak, what it keeps is
    peak.reset_peak()
    one.run()
    print(json.dumps({"reading_mb": peak.peak_mb()}))


def draw(data: dict[str, Any], out: Path) -> list[Path]:
    """Tokens per second over length by side, a picture for each model and segment size of several lengths."""
    series: dict[tuple[str, str], dict[str, list[tuple[int, float]]]] = {}
    for key, kept in data["cells"].items():
        model, length, segment = key.split()
        for name in kept["what"]:
            if name != "auto" and (speed := speed_of(kept, name)) is not None:
                found = series.setdefault((model, segment), {})
                found.setdefault(name, []).append((int(length), speed))
    made = []
    for (model, segment), curves in series.items():
        if max(len(points) for points in curves.values()) > 1:
            path, title = out / f"executors-{model}-{segment}.png", f"Reading with {model}, segments of {segment}"
            made.append(lines(curves, path, title=f"{title}, {data['machine']['dtype']}", ylabel="tokens/s"))
    return made


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Arguments, with what --quick stands for filled in.

    Raises:
        InputError: an unknown side, or a number below 1.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="toy sizes; figures of no worth")
    parser.add_argument("--models", nargs="+", help=", ".join(sizes.SIZES))
    parser.add_argument("--lengths", nargs="+", type=int, help="tokens of a document")
    parser.add_argument("--segments", nargs="+", type=int, help="tokens of a segment")
    parser.add_argument("--executors", nargs="+", default=list(sides.NAMES), help=", ".join(sides.NAMES))
    parser.add_argument("--repeats", type=int, help="rounds of each cell; 3")
    parser.add_argument("--documents", type=int, default=4, help="that the packed side reads at a time")
    parser.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--parts", nargs="+", choices=("speed", "memory"), default=["speed", "memory"])
    parser.add_argument("--full-limit", type=float, default=60.0, help="seconds that full attention may take")
    parser.add_argument("--minutes", type=float, default=600.0, help="stop then, to go on another time")
    parser.add_argument("--out", type=Path, default=Path("out/bench/executors"), help="folder for JSON and pictures")
    parser.add_argument("--peak", nargs=4, metavar=("MODEL", "LENGTH", "SEGMENT", "SIDE"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    for name, value in (QUICK if args.quick else FULL_RUN).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    for number in (*args.lengths, *args.segments, args.repeats, args.documents):
        if number < 1:
            raise InputError(f"expected lengths, segments, repeats and documents above 0, got {number}; change it")
    if wrong := [name for name in args.executors if name not in sides.NAMES]:
        raise InputError(
            f"--executors: expected some of {', '.join(sides.NAMES)}, got {wrong[0]!r}; choose among these"
        )
    args.device = subject.place(args.device)
    return args


def run(args: argparse.Namespace) -> None:
    """Measure, print, draw."""
    settings = {"device": args.device, "dtype": args.dtype, "documents": args.documents, "quick": args.quick}
    kept = Kept(args.out / "executors.json", settings)
    deadline = time.monotonic() + 60 * args.minutes
    options = {"documents": args.documents, "full_limit": args.full_limit}
    bench = Bench(kept, args.device, args.dtype, deadline, max(args.lengths), **options)
    cells = [
        Cell(model, length, segment, tuple(args.executors))
        for model in args.models
        for length in args.lengths
        for segment in args.segments
    ]
    finished = bench.measure(cells, args.repeats) if "speed" in args.parts else True
    if finished and "memory" in args.parts and args.device == "cpu":
        finished = measure_memory(bench, args)
    kept.save()
    print(table(kept.data))
    if kept.data["memory"]:
        print(f"\n{peaks_table(kept.data['memory'])}")
    for path in draw(kept.data, args.out):
        print(f"\n{path}")
    if not finished:
        print("\nnot finished: run the same command again", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Measure, print, draw; the exit code."""
    try:
        args = parse(argv)
        if args.peak:
            model, length, segment, name = args.peak
            print_peak(model, int(length), int(segment), name, args.dtype)
        else:
            run(args)
    except InputError as error:
        say(f"error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
