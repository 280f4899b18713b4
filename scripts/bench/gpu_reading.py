"""Reading on a GPU: the one command that measures all of it.

    python scripts/bench/gpu_reading.py --out DIR                # an H100 with 80 GB; about half an hour
    python scripts/bench/gpu_reading.py --out DIR --minutes 9    # in pieces: the same command until it says done
    python scripts/bench/gpu_reading.py --out DIR --device cpu --tiny   # a rehearsal with toys, about a minute

In order of importance: decoders of 160M to 8B weights with associative memory at 131,072 tokens in sequence, as a
wavefront and in full attention (the table of diagonal batching, arXiv 2506.05229, one A100); the same at 4,096 tokens
and lengths up to there with what `auto` takes, which must not be slower than the sequence; where the time goes, kernel
by kernel; MiniLM with memory tokens at 2,048,000 tokens from recorded graphs; decoders at 1,048,576 tokens. All in
bfloat16 with random weights, 128 memory tokens in a decoder. Writes gpu_reading.png, and gpu_reading.json, which the
next piece goes on from (it must be in --out).

Expect the wavefront ahead of the sequence from a few tens of thousands of tokens on, most for small models; memory
that does not grow with the length; memories that agree to a few percent, the rounding of bfloat16.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import profile_reading
import sides
import subject
from executors import Bench, Kept, ratios, say, speed_of, table
from sides import BASE, FULL, Cell, Subject
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from evals.plots import lines
from rmt.errors import InputError

# Model, segment: seconds on one A100 at 131,072 tokens by full attention, in sequence and as a wavefront, as published.
PUBLISHED = {
    ("llama-160m", 1024): (2.03, 3.37, 0.855),
    ("llama-1b", 512): (8.16, 8.98, 3.30),
    ("llama-1b", 1024): (8.16, 4.48, 2.48),
    ("llama-1b", 4096): (8.16, 2.35, 2.10),
    ("llama-3b", 1024): (18.2, 8.23, 6.14),
    ("llama-8b", 1024): (30.4, 14.4, 12.6),
}
LONG, LONGEST, GRAPHS = 131_072, 1_048_576, 2_048_000
SHORT = (4096, 8192, 16_384, 32_768, 65_536)  # where the wavefront begins to pay
THREE = (BASE, "wavefront", FULL)
AUTO = (BASE, "wavefront", "auto")
DRAWN = ("llama-1b", 1024)
TINY_TOKENS, TINY_SEGMENT = 256, 64  # what lengths and segments are divided by in a rehearsal
SAME = 0.95  # a ratio of two runs of one program, less what they differ by
# What a kernel is for, by its name in small letters; the first that matches.
KERNELS = {
    "attention": ("flash", "fmha", "attention", "softmax"),
    "matrix products": ("gemm", "gemv", "cutlass", "xmma", "nvjet", "cublas", "splitk"),
    "moving": ("copy", "memcpy", "memset", "cat", "gather", "scatter", "index", "roll", "fill"),
    "norms and sums": ("reduce", "norm", "sum"),
    "element by element": ("elementwise", "vectorized", "pointwise", "triton"),
}
OTHER, WAITING = "other kernels", "the GPU waits"


def cells(models: Sequence[str]) -> tuple[list[Cell], list[Cell]]:
    """What is read before profiles are taken, model by model, and after."""
    first: list[Cell] = []
    for model in models:
        mine = [segment for name, segment in PUBLISHED if name == model]
        first += [Cell(model, LONG, segment, THREE) for segment in mine]
        first += [Cell(model, length, 1024, AUTO) for length in (SHORT if model != "llama-3b" else SHORT[:1])]
        first += [Cell(model, SHORT[0], segment, AUTO) for segment in mine if segment != 1024]
    graphs = [Cell("minilm", GRAPHS, 499, (BASE, "captured", "compiled", "auto"))]
    longest = [Cell(model, LONGEST, segment, THREE) for model, segment in PUBLISHED if model in models]
    return first, graphs + longest


def tiny(cell: Cell) -> Cell:
    """A toy in the place of a cell; every model of one kind becomes the same."""
    model = "tiny-bert" if cell.model == "minilm" else "tiny"
    names = tuple(name for name in cell.names if name != "compiled")
    return Cell(model, cell.length // TINY_TOKENS, max(cell.segment // TINY_SEGMENT, 4), names)


def kinds(times: Iterable[tuple[str, float]], wall: float) -> dict[str, float]:
    """Seconds of kernels by what they are for, and what is left of the time.

    Args:
        times: name and seconds of kernels.
        wall: seconds in all.
    """
    found = dict.fromkeys([*KERNELS, OTHER], 0.0)
    for name, seconds in times:
        small = name.lower()
        found[next((kind for kind, parts in KERNELS.items() if any(p in small for p in parts)), OTHER)] += seconds
    return {**found, WAITING: max(0.0, wall - sum(found.values()))}


def profiled(now: Subject, cell: Cell, name: str) -> dict[str, Any]:
    """Where the time of a side goes: seconds by kind over twice as many segments as layers, and the longest kernels."""
    now.model.config.segment_size = cell.segment
    now.sides.clear()
    length = cell.segment * max(2 * now.model.config.num_hidden_layers, 2 * sides.BATCH)
    one = sides.side(now, name, length)
    if isinstance(one, str):
        return {"note": one}
    one.warm()
    wall = min(sides.timed(now, one)[1]["seconds"] for _ in range(3))
    on_gpu = now.device == "cuda"
    # Kernels alone: a record of what Python does slows it down.
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as seen:
        sides.timed(now, one)
    if not on_gpu:
        times = [(e.key, e.self_cpu_time_total / 1e6) for e in seen.key_averages() if "::" in e.key]
        return {"segments": length // cell.segment, "wall": wall, "kinds": profile_reading.shares(times, wall)}
    kernels = [
        (e.key, e.self_device_time_total / 1e6)
        for e in seen.key_averages()
        if e.device_type == DeviceType.CUDA and not getattr(e, "is_user_annotation", False)
    ]
    longest = sorted(kernels, key=lambda pair: -pair[1])[:8]
    top = [(name[:100], seconds) for name, seconds in longest]
    return {"segments": length // cell.segment, "wall": wall, "kinds": kinds(kernels, wall), "top": top}


def take_profiles(bench: Bench, some: Sequence[tuple[Cell, str]]) -> bool:
    """Profiles that are not there yet; False where time ran out."""
    for cell, name in some:
        key = f"{cell.model} {cell.segment} {name}"
        if key in bench.kept.data["profiles"]:
            continue
        if not bench.room(40):
            return False
        say(f"profile: {key}")
        try:
            found = profiled(bench.subject(cell.model), cell, name)
        except RuntimeError as error:
            found = {"note": f"{type(error).__name__}: {str(error)[:200]}"}
        bench.kept.data["profiles"][key] = found
        bench.done += 1
        bench.kept.save()
    return True


def seconds(kept: dict[str, Any], name: str) -> str:
    """Seconds that a side took, the median; why there are none."""
    found = [r[name]["seconds"] for r in kept["rounds"] if name in r]
    return f"{median(found):.2f}" if found else kept["notes"].get(name, "not measured")


def published_table(data: dict[str, Any], rehearsal: bool) -> str:
    """Seconds beside those that diagonal batching published: full attention / in sequence / wavefront."""
    out = ["| model, segment | tokens | published, A100 | here | wavefront over sequence | memory differs by |"]
    out.append("|" + "---|" * 6)
    for (model, segment), theirs in PUBLISHED.items():
        for length in (LONG, LONGEST):
            cell = Cell(model, length, segment)
            kept = data["cells"].get((tiny(cell) if rehearsal else cell).key)
            if kept is None or not kept["rounds"]:
                continue
            here = " / ".join(seconds(kept, name) for name in (FULL, BASE, "wavefront"))
            said = " / ".join(map(str, theirs)) if length == LONG else ""
            found = ratios(kept, "wavefront")
            ratio = f"{median(found):.2f} ({min(found):.2f} to {max(found):.2f})" if found else ""
            differs = f"{kept['gaps']['wavefront']:.1e}" if "wavefront" in kept["gaps"] else ""
            out.append(f"| {model}, {segment} | {length:,} | {said} | {here} | {ratio} | {differs} |")
    return "\n".join(out)


def checks(data: dict[str, Any]) -> str:
    """Whether `auto` is ever slower than the sequence, and whether memory grows with the length."""
    out = []
    slower = {}
    for key, kept in data["cells"].items():
        if (found := ratios(kept, "auto")) and median(found) < SAME:
            slower[key] = median(found)
    said = ", ".join(f"{key}: {ratio:.2f}" for key, ratio in slower.items())
    out.append(f"auto slower than the sequence: {said or 'nowhere'}")
    peaks: dict[tuple[str, str, str], dict[int, float]] = {}
    for key, kept in data["cells"].items():
        model, length, segment = key.split()
        for here in kept["rounds"]:
            for name, took in here.items():
                if "peak_mb" in took and name in (BASE, "wavefront"):
                    found_at = peaks.setdefault((model, segment, name), {})
                    found_at[int(length)] = max(found_at.get(int(length), 0.0), took["peak_mb"])
    for (model, segment, name), by_length in peaks.items():
        # Before a wavefront has all layers at work it takes less.
        far = sorted(length for length in by_length if length >= LONG)
        if len(far) > 1:
            growth = by_length[far[-1]] / by_length[far[0]]
            out.append(
                f"peak of {model}, {segment}, {name}: {by_length[far[-1]]:,.0f} MB at {far[-1]:,} tokens, {growth:.3f} "
                f"of that at {far[0]:,}"
            )
    return "\n".join(out)


def profiles_table(profiles: dict[str, Any]) -> str:
    """Shares of the time by kind."""
    out = []
    for key, found in profiles.items():
        if "note" in found:
            out.append(f"{key}: {found['note']}")
            continue
        shares = ", ".join(f"{kind} {took / found['wall']:.0%}" for kind, took in found["kinds"].items())
        out.append(f"{key}: {1e3 * found['wall'] / found['segments']:.2f} ms a segment: {shares}")
        out += [f"    {1e3 * took / found['segments']:.3f} ms {name}" for name, took in found.get("top", [])]
    return "\n".join(out)


def draw(data: dict[str, Any], out: Path, rehearsal: bool) -> Path | None:
    """Tokens per second over length of one model, by side; None while there is nothing to draw."""
    curves: dict[str, list[tuple[int, float]]] = {}
    model, segment = DRAWN
    for length in (*SHORT, LONG, LONGEST):
        cell = Cell(model, length, segment)
        kept = data["cells"].get((tiny(cell) if rehearsal else cell).key, sides.nothing())
        for name in THREE:
            if (speed := speed_of(kept, name)) is not None:
                curves.setdefault(name, []).append((length, speed))
    if not curves:
        return None
    title = f"{model}, segments of {segment}, bfloat16, {data['machine']['device']}"
    return lines(curves, out / "gpu_reading.png", title=title, ylabel="tokens/s")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Arguments.

    Raises:
        InputError: a GPU where there is none, or a model that is not in the table.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = list(dict.fromkeys(model for model, _ in PUBLISHED))
    parser.add_argument("--out", type=Path, required=True, help="folder for the results, and of those before")
    parser.add_argument("--minutes", type=float, default=600.0, help="stop then, to go on another time")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of each cell")
    parser.add_argument("--models", nargs="+", default=known, help="decoders to measure")
    parser.add_argument("--full-limit", type=float, default=60.0, help="seconds that full attention may take")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="a rehearsal with toys; figures of no worth")
    args = parser.parse_args(argv)
    if wrong := [model for model in args.models if model not in known]:
        raise InputError(f"--models: expected some of {', '.join(known)}, got {wrong[0]!r}; choose among these")
    if args.device == "cpu" and not args.tiny:
        raise InputError("--device cpu: expected --tiny with it, got real sizes; add --tiny, or use executors.py")
    if args.repeats < 1:
        raise InputError(f"--repeats: expected at least 1, got {args.repeats}; give a larger number")
    subject.place(args.device)
    return args


def run(args: argparse.Namespace) -> bool:
    """Measure, print, draw; whether all of it is done."""
    kept = Kept(args.out / "gpu_reading.json", {"device": args.device, "tiny": args.tiny})
    deadline = time.monotonic() + 60 * args.minutes
    options = {"full_limit": args.full_limit, "rehearsal": args.tiny}
    bench = Bench(kept, args.device, "bfloat16", deadline, 0, **options)
    first, then = cells(args.models)
    some = [(Cell(model, LONG, 1024), name) for model in args.models for name in (BASE, "wavefront")]
    some += [(Cell("minilm", LONG, 499), name) for name in (BASE, "captured")]
    if args.tiny:
        first, then, some = [*map(tiny, first)], [*map(tiny, then)], [(tiny(cell), name) for cell, name in some]
    done = bench.measure(first, args.repeats) and take_profiles(bench, some) and bench.measure(then, args.repeats)
    kept.save()
    data = kept.data
    print(published_table(data, args.tiny), table(data), checks(data), profiles_table(data["profiles"]), sep="\n\n")
    if (picture := draw(data, args.out, args.tiny)) is not None:
        print(f"\n{picture}")
    print("\ndone" if done else "\nnot finished: run the same command again", flush=True)
    return done


def main(argv: list[str] | None = None) -> int:
    """Measure, print, draw; the exit code, 3 where time ran out before the end."""
    try:
        return 0 if run(parse(argv)) else 3
    except InputError as error:
        say(f"error: {error}")
        return 2


if __name__ == "__main__":
    sys.exit(main())
