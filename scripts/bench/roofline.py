"""How far reading is from what the machine multiplies: floating-point operations a document needs, and the peak.

The peak is measured in the same process and number format: at the shapes of the model's own products, one segment a
core side by side as the reader runs them, and at one large square on all cores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from subject import settle
from torch import nn

from rmt.backbone import family_of
from rmt.executors.lean import Product
from rmt.executors.side_by_side import each

SQUARE = 2048
LAPS = 7  # of which the fastest counts: what the machine can do, not what it did beside other work
SECONDS = 0.15  # that a lap takes, about


def width_of(config: Any) -> int:
    """Positions of a full segment of an encoder: [CLS] memory [SEP] segment [SEP]."""
    return int(config.segment_size + config.num_memory_tokens + 3)


def products(config: Any) -> list[tuple[int, int, int]]:
    """(rows, inputs, outputs) of a layer's products over one segment."""
    width, hidden, inner = width_of(config), config.hidden_size, config.backbone_config.intermediate_size
    return [(width, hidden, 3 * hidden), (width, hidden, hidden), (width, hidden, inner), (width, inner, hidden)]


def operations(config: Any) -> int | None:
    """Floating-point operations of products and attention that one full segment needs; None where not BERT's layers.

    The last layer is needed at [CLS] and the memory only. A multiplication and an addition are two operations.
    """
    if not family_of(config.backbone_config).like_bert or config.memory != "tokens":
        return None
    width, hidden = width_of(config), config.hidden_size
    inner, rows = config.backbone_config.intermediate_size, 1 + config.num_memory_tokens
    whole = sum(2 * m * k * n for m, k, n in products(config)) + 4 * width * width * hidden
    keys = 2 * width * hidden * 2 * hidden
    last = keys + 2 * rows * (2 * hidden * hidden + 2 * hidden * inner) + 4 * rows * width * hidden
    return int((config.backbone_config.num_hidden_layers - 1) * whole + last)


def fastest(work: Callable[[], Any], operations: float) -> float:
    """Operations per second of the fastest lap."""
    work()
    start = time.perf_counter()
    work()
    settle()
    count = max(1, round(SECONDS / max(time.perf_counter() - start, 1e-6)))
    best = float("inf")
    for _ in range(LAPS):
        start = time.perf_counter()
        for _ in range(count):
            work()
        settle()
        best = min(best, (time.perf_counter() - start) / count)
    return operations / best


def peaks(config: Any, dtype: torch.dtype, device: str) -> dict[str, float]:
    """Operations per second of products alone: at the model's ``own`` shapes, and of a ``square``.

    Args:
        config: of an encoder with BERT's layers.
    """
    layer = []
    with torch.inference_mode():
        for m, k, n in products(config):
            linear = nn.Linear(k, n).to(device, dtype).requires_grad_(False)
            layer.append((Product(linear), torch.randn(m, k).to(device, dtype)))
        square = torch.randn(SQUARE, SQUARE).to(device, dtype)

    def a_layer(_: int) -> None:
        for product, x in layer:
            product(x)

    cores = torch.get_num_threads() if device == "cpu" else 1
    rounds = 8  # layers a core, so that starting the threads is not what is measured
    needed = rounds * cores * sum(2 * m * k * n for m, k, n in products(config))

    def side_by_side() -> None:
        each(lambda core: [a_layer(core) for _ in range(rounds)] and None, range(cores))

    with torch.inference_mode():
        return {"own": fastest(side_by_side, needed), "square": fastest(lambda: square @ square, 2 * SQUARE**3)}


def roofline(reader: Any, rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Achieved operations per second at each length, and the peaks, all in GFLOP/s; None for other models."""
    config = reader.model.config
    needed = operations(config)
    if needed is None:
        return None
    best = peaks(config, reader.dtype, reader.model.device.type)
    achieved = {r["length"]: median(r["reader_tokens_per_s"]) / config.segment_size * needed / 1e9 for r in rows}
    return {"dtype": str(reader.dtype), "achieved": achieved, **{k: v / 1e9 for k, v in best.items()}}


def show(found: dict[str, Any] | None) -> str:
    """One line for each length."""
    if found is None:
        return "operations: not counted for this model"
    own, square = found["own"], found["square"]
    return "\n".join(
        f"operations: {int(length):,} tokens at {got:.0f} GFLOP/s, {got / own:.0%} of the {own:.0f} of products of the "
        f"model's shapes, {got / square:.0%} of the {square:.0f} of a square of {SQUARE}"
        for length, got in found["achieved"].items()
    )
