"""Tables, targets and pictures of what ``reading.py`` measures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import activations
import peak
import roofline
import speed

from evals.plots import lines

TARGETS = {"speed": 4.0, "memory": 1.05, "activations": 1.10}
LONG, LONG_SPEED = 256, 3.3  # from so many tokens a segment on speed is to reach no more than this


def verdict(part: str, ratio: float, quick: bool, segment_size: int = 128) -> dict[str, Any]:
    """A ratio's target, which speed is to reach and memory not to pass; a quick run is too small to judge."""
    target = LONG_SPEED if part == "speed" and segment_size >= LONG else TARGETS[part]
    met = ratio >= target if part == "speed" else ratio <= target
    return {"target": target, "met": None if quick else met}


def show(part: str, result: dict[str, Any]) -> str:
    """A part's table, and its ratio against the target."""
    body = {"speed": speed.show, "memory": peak.show, "activations": activations.show}[part](result["rows"])
    if part == "speed":
        body = f"{body}\n{roofline.show(result['roofline'])}"
    sign = "at least" if part == "speed" else "at most"
    met = {None: "not judged in a quick run", True: "met", False: "missed"}[result["met"]]
    what = "ratio" if part == "speed" else "ratio of the peaks"
    return f"{body}\n{part}: {what} {result['ratio']:.3f}, target {sign} {result['target']}, {met}\n"


def draw(part: str, result: dict[str, Any], out: Path) -> Path:
    """A part's picture."""
    ratio, rows = result["ratio"], result["rows"]
    if part == "speed":
        how = f"{result['dtype']}, {result['executor']}"
        title = f"Reading, {ratio:.1f} times the reference ({how})"
        return lines(speed.curves(rows), out / "speed.png", title=title, ylabel="tokens/s")
    if part == "memory":
        title = f"Peak memory: longest over shortest, {ratio:.3f}"
        return lines(peak.curves(rows), out / "peak_memory.png", title=title, ylabel="resident memory, MB")
    kinds = dict.fromkeys(row["recurrence"] for row in rows)
    series = {k: [(r["segments"], r["peak"] / 1e6) for r in rows if r["recurrence"] == k] for k in kinds}
    title = f"Training step: checkpointed peak, longest over shortest, {ratio:.2f}"
    path = out / "activations.png"
    return lines(series, path, title=title, ylabel="peak of activations, MB", xlabel="segments", log_y=True)
