"""Pictures of results: accuracy over length, and any figure over length (speed, memory).

Colours are those of Okabe and Ito ("Color Universal Design", 2008), which people with any kind of colour
vision tell apart; series differ in marker too. matplotlib is imported when a picture is drawn, and drawn
on without its global state, so that nothing else in the process is changed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from evals.memory_eval import CONTROLS, MEMORY, Cell
from evals.report import short_count
from evals.stats import Proportion

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
_GREYS = {
    "zeroed": ("#4d4d4d", (0, (4, 2))),
    "shuffled": ("#7a7a7a", (0, (1, 1.5))),
    "swapped": ("#a0a0a0", (0, (7, 3))),
}
_INK = "#333333"
_T = TypeVar("_T")


def accuracy_over_length(
    cells: Sequence[Cell],
    path: str | os.PathLike[str],
    *,
    title: str = "What the memory holds",
    chance: float | None = None,
) -> Path:
    """Draw accuracy (percent) by length (tokens, log2; 0 left of a break) to a PNG and return its path.

    A line with its Wilson 95% band per task (n of each point in the legend), tasks a hair's breadth apart
    so that none hides another. Each control is one grey dashed line over all tasks together, successes
    and n added up, so that the picture stays readable; ``chance`` in [0, 1] is a thin line.
    Raises ValueError if no cell holds a score.
    """
    tasks = list(dict.fromkeys(cell.task for cell in cells if cell.control == MEMORY))
    if not tasks:
        raise ValueError('expected cells with control "memory", got none; evaluate before drawing')
    figure, axes = _canvas(title, "tokens read", "right answers, percent")
    lengths = sorted({cell.length for cell in cells})
    for number, task in enumerate(tasks):
        scores = sorted((c for c in cells if (c.task, c.control) == (task, MEMORY)), key=lambda c: c.length)
        _draw_task(axes, number, scores, lengths, _dodge(lengths, number, len(tasks)))
    for control in CONTROLS:
        _draw_control(axes, control, {_at(x, lengths): pooled for x, pooled in _pool(cells, control).items()})
    if chance is not None:
        axes.axhline(100 * chance, color=_INK, linewidth=0.7, zorder=1, label=f"chance, {100 * chance:.0f}%")
    axes.set_ylim(-2, 102)
    axes.set_yticks(range(0, 101, 20))
    _length_axis(axes, lengths)
    sizes = sorted({cell.n for cell in cells if cell.control == MEMORY})
    spread = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    _legend(axes, f"Wilson 95% bands\nn = {spread} per point")
    return _save(figure, path)


def lines(
    series: Mapping[str, Sequence[tuple[int, float]]],
    path: str | os.PathLike[str],
    *,
    title: str,
    ylabel: str,
    xlabel: str = "tokens read",
    log_y: bool = False,
) -> Path:
    """Draw named series of (length in tokens, value) to a PNG and return its path.

    The y axis starts at 0, unless ``log_y``, so that a flat line looks flat and a small gain small.
    Raises ValueError if there is no point to draw.
    """
    drawn = {name: sorted(points) for name, points in series.items() if points}
    if not drawn:
        raise ValueError("expected at least one point, got none; measure before drawing")
    figure, axes = _canvas(title, xlabel, ylabel)
    lengths = sorted({x for points in drawn.values() for x, _ in points})
    for number, (name, points) in enumerate(drawn.items()):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        for part, label in _over_break(points, lambda point: point[0], name):
            x, y = zip(*((_at(length, lengths), value) for length, value in part), strict=True)
            axes.plot(x, y, color=colour, marker=marker, markersize=5, linewidth=1.8, label=label)
    if log_y:
        axes.set_yscale("log")
    else:
        axes.yaxis.set_major_formatter("{x:,.6g}")
        axes.set_ylim(0, 1.1 * max(y for points in drawn.values() for _, y in points) or 1)
    _length_axis(axes, lengths)
    _legend(axes)
    return _save(figure, path)


def _draw_task(axes: Axes, number: int, cells: Sequence[Cell], lengths: Sequence[int], dodge: float) -> None:
    """One task: its rates, and the band of its intervals (a bar where there is one length only)."""
    for scores, label in _over_break(cells, lambda cell: cell.length, cells[0].task.replace("_", " ")):
        _draw_part(axes, number, scores, [_at(cell.length, lengths) * dodge for cell in scores], label)


def _draw_part(axes: Axes, number: int, scores: Sequence[Cell], x: Sequence[float], label: str) -> None:
    """Cells of one task on one side of the break."""
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    low, high = zip(*(cell.interval for cell in scores), strict=True)
    if len(scores) > 1:
        axes.fill_between(x, _percent(low), _percent(high), color=colour, alpha=0.13, linewidth=0)
    else:
        axes.vlines(x, _percent(low), _percent(high), color=colour, alpha=0.4, linewidth=4)
    rates = _percent([cell.rate for cell in scores])
    axes.plot(x, rates, color=colour, marker=marker, markersize=5, linewidth=1.8, label=label, zorder=3)


def _draw_control(axes: Axes, control: str, pooled: Mapping[float, Proportion]) -> None:
    """One control over all tasks; at a single length a short dash, which a line would not show."""
    if not pooled:
        return
    colour, dashes = _GREYS[control]
    x: list[float] = list(pooled)
    rates = _percent([proportion.rate for proportion in pooled.values()])
    if len(x) == 1:
        x, rates = [x[0] / 1.3, x[0] * 1.3], rates * 2
    axes.plot(x, rates, color=colour, linestyle=dashes, linewidth=1.4, label=f"{control} memory", zorder=2)


def _dodge(lengths: Sequence[int], number: int, count: int) -> float:
    """A factor that sets tasks slightly apart, so that equal rates do not hide each other."""
    step = (_at(lengths[-1], lengths) / _at(lengths[0], lengths)) ** 0.006 if len(lengths) > 1 else 1.08
    return float(step ** (number - (count - 1) / 2))


def _at(length: float, lengths: Sequence[int]) -> float:
    """Where a length stands: at itself, and 0, which has no logarithm, well left of the least of the others."""
    others = [other for other in lengths if other > 0] or [1]
    return length if length > 0 else others[0] / max(4.0, (others[-1] / others[0]) ** 0.2)


def _over_break(items: Sequence[_T], length: Callable[[_T], int], label: str) -> list[tuple[list[_T], str]]:
    """What stands at 0, and the rest: no line leads over the break. One of them bears the label."""
    alone, rest = ([item for item in items if bool(length(item)) == side] for side in (False, True))
    parts = [(part, "") for part in (alone, rest) if part]
    return [*parts[:-1], (parts[-1][0], label)]


def _canvas(title: str, xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 4.4), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", color=_INK, fontsize=12, pad=10)
    axes.set_xlabel(xlabel, color=_INK)
    axes.set_ylabel(ylabel, color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(colors=_INK, length=3)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _length_axis(axes: Axes, lengths: Sequence[int]) -> None:
    """Base-2 axis with a tick at each length measured, fewer where their labels would touch; 0 left of a break."""
    axes.set_xscale("log", base=2)
    kept: list[int] = []
    first, last = _at(lengths[0], lengths), _at(lengths[-1], lengths)
    gap = (last / first) ** (1 / 12)
    for length in reversed(lengths):  # the longest is the point of the picture: keep it
        if not kept or _at(kept[-1], lengths) / _at(length, lengths) >= gap:
            kept.append(length)
    names = [short_count(length) if length else "in prompt" for length in kept]
    axes.set_xticks([_at(length, lengths) for length in kept], names)
    axes.minorticks_off()
    if len(lengths) == 1:
        axes.set_xlim(first / 2, first * 2)
    elif lengths[0] == 0:
        middle = math.sqrt(first * lengths[1])
        axes.text(middle, 0, "//", transform=axes.get_xaxis_transform(), ha="center", va="center", color=_INK,
                  bbox={"boxstyle": "square,pad=0.05", "facecolor": "white", "edgecolor": "none"})  # fmt: skip


def _legend(axes: Axes, heading: str | None = None) -> None:
    legend = axes.legend(
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        title=heading,
        alignment="left",
        labelcolor=_INK,
        handlelength=2.6,
    )
    legend.get_title().set(color="#777777", fontsize=8.5)


def _pool(cells: Sequence[Cell], control: str) -> dict[int, Proportion]:
    """Length to proportion of one control over all tasks, lengths rising."""
    sums: dict[int, tuple[int, int]] = {}
    for cell in sorted((c for c in cells if c.control == control), key=lambda c: c.length):
        successes, n = sums.get(cell.length, (0, 0))
        sums[cell.length] = (successes + int(cell.successes), n + cell.n)
    return {length: Proportion(successes, n) for length, (successes, n) in sums.items()}


def _percent(rates: Sequence[float]) -> list[float]:
    return [100 * rate for rate in rates]


def _save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write beside the target and rename: a kill leaves the old picture or the new one, never half."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    options: dict[str, Any] = {"format": "png"}
    try:
        figure.savefig(beside, **options)
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)
    return target
