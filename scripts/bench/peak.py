"""Peak resident memory of reading one text file, of this process, as JSON.

    python scripts/bench/peak.py TEXT

The whole way is run: text from disk to tokens, tokens to segments, segments to memory. ``reading_mb`` is the
peak from the first character on, everything that is resident counted (Python, torch, weights); ``process_mb``
is the peak since the start, which loading the model may set. Where a GPU reads, ``cuda_mb`` is the peak of what
torch allocates there while reading, weights counted. :func:`over_length` runs it once for each length.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_mb() -> float:
    """Largest resident memory of this process so far, in MB (10^6 bytes).

    On Linux from VmHWM: ``ru_maxrss`` begins there with what the parent process had, so that a large parent
    hides any growth.
    """
    if _STATUS.is_file() and (found := re.search(r"^VmHWM:\s*(\d+) kB", _STATUS.read_text(), re.M)):
        return int(found[1]) * 1024 / 1e6
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def reset_peak() -> bool:
    """Let the peak begin anew at what is resident now; whether the system can do that (Linux)."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def file_bytes(memory: Any) -> int:
    """What a memory takes on disk."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.memory"
        memory.save(path)
        return path.stat().st_size


def over_length(paths: Sequence[Path], options: Sequence[str]) -> list[dict[str, Any]]:
    """One row for each text file, each read in a process of its own.

    Args:
        paths: text files.
        options: further arguments of this program.

    Raises:
        RuntimeError: a process failed; with the end of what it said.
    """
    rows = []
    for path in paths:
        command = [sys.executable, __file__, str(path), *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{path.name}: reading failed: {done.stderr.strip()[-2000:]}")
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    return rows


def ways(rows: Sequence[dict[str, Any]]) -> list[str]:
    """How peaks were counted: ``cuda`` only where a GPU read."""
    return [kind for kind in ("reading", "process", "cuda") if f"{kind}_mb" in rows[0]]


def ratios(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The longest document's peak over the shortest one's; the largest over all ways of counting is ``ratio``."""
    first, last = (pick(rows, key=lambda r: r["length"]) for pick in (min, max))
    each = {f"{kind}_ratio": last[f"{kind}_mb"] / first[f"{kind}_mb"] for kind in ways(rows)}
    return {**each, "ratio": max(each.values())}


def show(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as a table."""
    first = rows[0]
    lines = ["   tokens   peak MB while reading   of the process   memory file bytes   growth"]
    for r in rows:
        growth = r["reading_mb"] / first["reading_mb"]
        lines.append(
            f"{r['length']:>9,}{r['reading_mb']:>24,.1f}{r['process_mb']:>17,.1f}{r['memory_bytes']:>20,}{growth:>9.3f}"
        )
        if "cuda_mb" in r:
            lines[-1] += f"   peak MB on the GPU {r['cuda_mb']:,.1f}"
    return "\n".join(lines)


def curves(rows: Sequence[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """For a plot: MB by length."""
    names = {"reading": "while reading", "process": "whole process", "cuda": "on the GPU"}
    return {names[kind]: [(r["length"], r[f"{kind}_mb"]) for r in rows] for kind in ways(rows)}


def parser() -> argparse.ArgumentParser:
    """Arguments of this program."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("text", type=Path, help="a text file")
    made.add_argument("--model", default="auto", help="auto, fresh, a bundled model, or a folder with one")
    made.add_argument("--segment-size", type=int, default=128, help="tokens")
    made.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    made.add_argument("--executor", default="auto", help="auto, or one of rmt.executors.EXECUTORS")
    made.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    return made


def main(argv: list[str] | None = None) -> None:
    """Read, and print one line of JSON."""
    args = parser().parse_args(argv)
    import torch
    from subject import load

    from rmt.reader import Reader

    model, tokenizer = load(args.model, args.segment_size, args.device)
    reader = Reader(model, tokenizer, dtype=args.dtype, executor=args.executor)
    del model
    on_gpu = reader.model.device.type == "cuda"
    before = peak_mb()
    reset = reset_peak()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    memory = reader.read(args.text, progress=False)
    reading = peak_mb()
    row = {
        "length": memory.meta.tokens_read,
        "reading_mb": reading,
        "process_mb": max(before, reading),
        "peak_was_reset": reset,
        "memory_bytes": file_bytes(memory),
        **({"cuda_mb": torch.cuda.max_memory_allocated() / 1e6} if on_gpu else {}),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
