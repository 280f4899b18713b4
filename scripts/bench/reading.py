"""Reading speed against the reference, peak memory over length, and activation memory of training.

    python scripts/bench/reading.py                                  # all three, about ten minutes on two cores
    python scripts/bench/reading.py --only speed --text books/       # on a text of yours
    python scripts/bench/reading.py --only speed --max-length 2000000   # long documents; on a GPU where there is one
    python scripts/bench/reading.py --only speed --int8              # the reader with 8-bit linear layers
    python scripts/bench/reading.py --quick                          # seconds, to see that it runs

Expect, on a CPU that multiplies bfloat16 in hardware: reading at least 4.0 times the reference's tokens/s (3.3 with
--segment-size 497) with the same answers; peak memory at 2,000,000 tokens at most 1.05 times that at 20,000;
activations of checkpointed training at 64 segments at most 1.10 times those at 4. Run it on a quiet machine. Speed is
measured in this process, both sides in turn; every length of the second part has a process of its own. Writes
reading.json, speed.png, peak_memory.png and activations.png to --out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import activations
import figures
import peak
import speed
import subject

from rmt.errors import InputError

PARTS = ("speed", "memory", "activations")
SPEED_LENGTHS = (4_000, 16_000, 64_000, 256_000, 1_000_000)
SPEED_LONGEST = 64_000  # unless --max-length asks for longer ones; also tokens of text to spare, for documents to
# begin at different places
MEMORY_LENGTHS = (20_000, 60_000, 200_000, 600_000)
SEGMENTS = (4, 16, 64)
# What --quick changes, where nothing else is asked for.
QUICK = {"max_length": 2_000, "repeats": 2}
FULL = {"max_length": 2_000_000, "repeats": 5}


def ladder(steps: tuple[int, ...], longest: int) -> list[int]:
    """The steps below ``longest``, or a quarter of it where there is none, and ``longest`` itself."""
    return [*([step for step in steps if step < longest] or [max(longest // 4, 1)]), longest]


def measure_speed(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Tokens/s of both sides on the same documents, over length."""
    from rmt.reader import Reader
    from rmt.reference import as_reference

    model, tokenizer = subject.load(args.model, args.segment_size, args.device)
    read = subject.in_bytes(model) if args.int8 else model
    reader, twin = Reader(read, tokenizer, dtype=args.dtype, executor=args.executor), as_reference(model)
    lengths = ladder(SPEED_LENGTHS, args.max_speed_length)
    spare = min(lengths[-1], SPEED_LONGEST)
    text = subject.cut(args.text, tokenizer, lengths[-1] + spare, folder / "speed.txt")
    trained = args.model != "fresh"
    with reader.tokens_of(text, folder / "speed.tokens", progress=False) as background:
        return speed.measure(reader, twin, background, lengths, args.repeats, trained)


def measure_memory(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Peak resident memory over length."""
    _, tokenizer = subject.load("fresh", args.segment_size)  # the tokenizer is MiniLM's for all of them
    options = []
    for name in ("model", "segment_size", "dtype", "executor", "device"):
        options += ["--" + name.replace("_", "-"), str(getattr(args, name))]
    rows: list[dict[str, Any]] = []
    for length in ladder(MEMORY_LENGTHS, args.max_length):
        say(f"memory: {length:,} tokens")
        path = subject.cut(args.text, tokenizer, length, folder / f"{length}.txt")
        rows += peak.over_length([path], options)
        path.unlink()
    return {"rows": rows, **peak.ratios(rows)}


def measure_activations(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Activation memory of one training step, over the number of segments."""
    say("activations: plain and checkpointed training")
    shape = {"layers": 1, "hidden": 64} if args.quick else {"layers": 6, "hidden": 384}
    size = min(args.segment_size, 16) if args.quick else args.segment_size
    rows = activations.table(list(SEGMENTS), segment_size=size, batch_size=1, **shape)
    ratio = next(row["peak_ratio"] for row in reversed(rows) if row["recurrence"] == "checkpointed")
    return {"segment_size": size, **shape, "rows": rows, "ratio": ratio}


MEASURES = {"speed": measure_speed, "memory": measure_memory, "activations": measure_activations}


def say(line: str) -> None:
    """Where it is, on standard error."""
    print(line, file=sys.stderr, flush=True)


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """What the figures belong to."""
    names = ("model", "text", "segment_size", "dtype", "executor", "device", "int8", "quick")
    return {name: getattr(args, name) for name in names}


def keep(path: Path, made_with: dict[str, Any], part: str, result: dict[str, Any]) -> None:
    """Put a part's result into the file, beside other parts that were measured with the same settings."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if known.get("settings") != made_with:
        known = {"settings": made_with}
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    beside.write_text(json.dumps({**known, part: result}, indent=2) + "\n", encoding="utf-8")
    os.replace(beside, path)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Arguments, with what --quick and --model auto stand for filled in: one model for all parts.

    Raises:
        InputError: a number out of its range.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes, figures of no worth")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure")
    parser.add_argument("--model", default="auto", help="auto, fresh, a bundled model, or a folder with one")
    parser.add_argument("--text", default="installed:", help="anything that `rmt read` takes")
    parser.add_argument("--segment-size", type=int, default=128, help="tokens")
    parser.add_argument("--repeats", type=int, help="documents of each length (speed); 5")
    parser.add_argument("--max-length", type=int, help="tokens of the longest document; 2000000, for speed 64000")
    parser.add_argument("--dtype", default="auto", help="the reader's: auto, float32, bfloat16 or float16")
    parser.add_argument("--int8", action="store_true", help="speed of a reader with 8-bit linear layers, uncalibrated")
    parser.add_argument("--executor", default="auto", help="the reader's: auto, or one of rmt.executors.EXECUTORS")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="of speed and memory")
    parser.add_argument("--out", type=Path, default=Path("out/bench"), help="folder for JSON and pictures")
    args = parser.parse_args(argv)
    asked = args.max_length
    for name, value in (QUICK if args.quick else FULL).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    for name, least in (("segment_size", 1), ("repeats", 1), ("max_length", 1_000)):
        if (got := getattr(args, name)) < least:
            option = "--" + name.replace("_", "-")
            raise InputError(f"{option}: expected at least {least}, got {got}; give a larger number")
    args.max_speed_length = asked or min(args.max_length, SPEED_LONGEST)
    args.model, args.device = subject.resolve(args.model), subject.place(args.device)
    return args


def main(argv: list[str] | None = None) -> int:
    """Measure, print, draw; the exit code."""
    try:
        args = parse(argv)
        args.out.mkdir(parents=True, exist_ok=True)
        for part in args.only:
            with tempfile.TemporaryDirectory(prefix="rmt-bench-") as folder:
                result = MEASURES[part](args, Path(folder))
            result |= figures.verdict(part, result["ratio"], args.quick, args.segment_size)
            keep(args.out / "reading.json", settings(args), part, result)
            print(figures.show(part, result))
            print(f"{figures.draw(part, result, args.out)}\n", flush=True)
    except InputError as error:
        say(f"error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
