"""Pictures of a family: the same answers under several metrics over parameters, and exact match over target length.

In the look of ``evals.plots``: light ground, intervals as bands, series that differ in colour and marker. The
resolution floor 1/n is a line in every panel. matplotlib is imported when a picture is drawn.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.emergence.curves import Point, curves
from evals.emergence.family import METRICS, Family, answers, lengths_of, tasks_of, tokens_of
from evals.emergence.predict import Prediction, SizePoint, by_size, predictions
from evals.plots import COLOURS, MARKERS
from evals.report import short_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GREY, FLOOR = "#333333", "#777777", "#b00020"
DASHES = (0, (4, 2))
# What a picture of a family shows where it is there; `exact` comes twice, the second time on a log axis.
PANELS = ("exact", "exact log", "grade", "edit", "likelihood", "brier")
DEPTH = 300  # how far below the floor a log axis reaches
_HEADS = {"exact": "all or nothing", "grade": "all or nothing", "exact log": "the same, log axis"}


def draw_family(
    family: Family,
    path: str | os.PathLike[str],
    *,
    tasks: Sequence[str] | None = None,
    length: int | None = None,
    panels: Sequence[str] = PANELS,
    title: str = "The same answers under several metrics",
) -> Path:
    """Draw metrics over parameters (log axis), a panel each and a series a task, to a PNG and return its path.

    Exact match stands once on a linear and once on a log axis; p^L is dashed in both.

    Args:
        family: members that answered the tasks.
        tasks: which; None for all there are, six at most.
        length: tokens of background; None for the least at which all were asked.
        panels: metrics by name ("exact log" for the log axis); those that no answer has are left out.

    Raises:
        ValueError: no answers to draw, or more tasks than colours.
    """
    chosen = list(tasks or tasks_of(family))
    if not 0 < len(chosen) <= len(COLOURS):
        raise ValueError(f"tasks: expected 1 to {len(COLOURS)} to draw together, got {len(chosen)}; name some")
    lengths = {task: _length(family, task, length) for task in chosen}
    found = {task: curves(family, task, lengths[task]) for task in chosen}
    made = {task: predictions(family, task, lengths[task]) for task in chosen}
    shown = [panel for panel in panels if any(panel.split()[0] in metrics for metrics in found.values())]
    if not shown:
        raise ValueError(f"expected answers with one of {', '.join(panels)}, got none; evaluate the family first")
    figure, grid = canvas(len(shown), title)
    for axes, panel in zip(grid, shown, strict=False):
        metric, log = panel.split()[0], panel.endswith(" log")
        dress(axes, METRICS[metric].label, _HEADS.get(panel, "counts tokens or probabilities"))
        floors = [1 / p.n for metrics in found.values() for p in metrics.get(metric, [])]
        for number, task in enumerate(chosen):
            points = found[task].get(metric, [])
            draw_points(axes, points, number, task.replace("_", " "), log=log)
            if metric == "exact":
                draw_prediction(axes, made[task], number)
        if metric == "exact" and any(made.values()):
            axes.plot([], [], color=GREY, linestyle=DASHES, linewidth=1.3, label="predicted, p^L")
            axes.plot([], [], color=GREY, linestyle=":", linewidth=1.3, label="mean of exp(nats)")
        _limits(axes, metric, max(floors), log, [p for metrics in found.values() for p in metrics.get(metric, [])])
        draw_floor(axes, floors, _as_nats(family, chosen, lengths) if metric == "likelihood" else None)
        parameter_axis(axes, sorted({m.parameters for m in family}))
    legend(figure, grid, "95% intervals as bands")
    return save(figure, path)


def draw_sizes(
    family: Family, path: str | os.PathLike[str], *, task: str, length: int | None = None, title: str | None = None
) -> Path:
    """Draw exact match over the size of the target, a panel a model, p^L dashed, to a PNG and return its path.

    The log axis makes a geometric decay a straight line. ValueError if no answer has a size.
    """
    chosen = _length(family, task, length)
    each = {(m.name, m.parameters): by_size(m, task, chosen) for m in sorted(family, key=lambda m: m.parameters)}
    each = {member: points for member, points in each.items() if points}
    if not each:
        raise ValueError(f"task: expected answers to {task} with a size, got none; evaluate the family on it")
    figure, grid = canvas(len(each), title or f"{task.replace('_', ' ')}: exact match over the size of the target")
    least = min(1 / p.measured.n for points in each.values() for p in points)
    for axes, ((name, parameters), points) in zip(grid, each.items(), strict=False):
        dress(axes, f"{name}, {short_count(parameters)} parameters", "", xlabel="size of the target")
        _draw_sizes(axes, points, least)
    legend(figure, grid, "Wilson 95% bands; a rate of 0\nlies on the lower edge")
    return save(figure, path)


def _draw_sizes(axes: Axes, points: Sequence[SizePoint], least: float) -> None:
    """One model. A rate of 0 is drawn on the lower edge, which stands for 0 and all below a third of the floor."""
    edge = least / 3
    x = [p.size for p in points]
    low, high = zip(*(p.measured.interval for p in points), strict=True)
    _log(axes)
    axes.fill_between(x, [max(edge, v) for v in low], high, color=COLOURS[0], alpha=0.15, linewidth=0)
    rates = [max(edge, p.measured.rate) for p in points]
    axes.plot(x, rates, color=COLOURS[0], marker="o", markersize=5, linewidth=1.8, label="measured", clip_on=False)
    for kind, label, colour in (("power", "p^L", COLOURS[1]), ("product", "mean of exp(nats)", COLOURS[2])):
        held = [(p.size, y) for p in points if (y := getattr(p, kind)) is not None]
        if held:
            axes.plot(*zip(*held, strict=True), color=colour, linestyle=DASHES, linewidth=1.4, label=label)
    draw_floor(axes, [1 / p.measured.n for p in points])
    axes.set_ylim(edge, 1.4)
    axes.set_xticks(x)


# The parts, which other pictures of the same kind are made of ---------------------------------------


def canvas(count: int, title: str, across: int = 3, beside: float = 2.0) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` panels, at most ``across`` in a row, with room (inches) for a legend beside them."""
    from matplotlib.figure import Figure

    columns = min(across, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(3.3 * columns + beside, 2.75 * rows + 0.55), dpi=110, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", color=INK, fontsize=12)
    grid: Any = figure.subplots(rows, columns, squeeze=False)
    flat: list[Axes] = list(grid.ravel())
    for spare in flat[count:]:
        spare.set_visible(False)
    return figure, flat[:count]


def dress(axes: Axes, heading: str, under: str, xlabel: str = "parameters") -> None:
    """Headings, spines and grid of one panel; ``under`` says in grey what kind of metric it is."""
    axes.set_title(heading, loc="left", color=INK, fontsize=10, pad=16 if under else 6)
    if under:
        axes.text(0, 1.03, under, transform=axes.transAxes, color=GREY, fontsize=8)
    axes.set_xlabel(xlabel, color=INK, fontsize=8.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(colors=INK, length=3, labelsize=8)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)


def draw_points(axes: Axes, points: Sequence[Point], number: int, label: str, *, log: bool = False) -> None:
    """One series with its band; on a log axis a value of 0 is not drawn, and its band reaches down to the edge."""
    if not points:
        return
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    edge = points[0].floor / DEPTH if log else -math.inf
    x = [p.parameters for p in points]
    low, high = [max(edge, p.interval.low) for p in points], [p.interval.high for p in points]
    axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
    y = [math.nan if log and p.value <= 0 else p.value for p in points]
    axes.plot(x, y, color=colour, marker=marker, markersize=4.5, linewidth=1.7, label=label, zorder=3)


def draw_prediction(axes: Axes, made: Sequence[Prediction], number: int) -> None:
    """p^L over parameters, dashed, and the mean of exp(nats), dotted, in the colour of their series."""
    if made:
        x, y = [p.parameters for p in made], [p.power for p in made]
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(x, y, color=colour, linestyle=DASHES, linewidth=1.3, zorder=2)
        axes.plot(x, [p.product for p in made], color=colour, linestyle=":", linewidth=1.3, zorder=2)


def draw_floor(axes: Axes, floors: Sequence[float], nats: float | None = None, beside: str = "p^L = 1/n") -> None:
    """The resolution floor 1/n as a line, and in the legend.

    ``nats``: where it lies on an axis of nats a token; ``beside`` is what is written at the line then.
    """
    high, low = max(floors), min(floors)
    said = f"{high:.2g}" if math.isclose(high, low) else f"{low:.2g} to {high:.2g}"
    axes.axhline(high if nats is None else nats, color=FLOOR, linewidth=0.9, linestyle=(0, (1, 1.5)), zorder=1)
    axes.plot([], [], color=FLOOR, linewidth=0.9, linestyle=(0, (1, 1.5)), label=f"resolution floor 1/n\n= {said}")
    if nats is not None:
        place: Any = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points"}
        axes.annotate(beside, (0.99, nats), (0, -3), color=FLOOR, fontsize=7, ha="right", va="top", **place)


def parameter_axis(axes: Axes, counts: Sequence[int]) -> None:
    """A log axis with a tick at each size, fewer where their labels would touch."""
    axes.set_xscale("log")
    gap = (counts[-1] / counts[0]) ** (1 / 6)
    kept: list[int] = []
    for count in reversed(counts):
        if not kept or kept[-1] / count >= gap:
            kept.append(count)
    axes.set_xticks(kept, [short_count(count) for count in kept])
    axes.minorticks_off()
    if len(counts) == 1:
        axes.set_xlim(counts[0] / 2, counts[0] * 2)


def legend(figure: Figure, grid: Sequence[Axes], heading: str) -> None:
    """One legend for all panels, at the right, that names each thing once."""
    named: dict[str, Any] = {}
    for axes in grid:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    made = figure.legend(
        list(named.values()),
        list(named),
        loc="outside right upper",
        frameon=False,
        title=heading,
        alignment="left",
        labelcolor=INK,
        handlelength=2.4,
        fontsize=8.5,
    )
    made.get_title().set(color=GREY, fontsize=8.5)


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a PNG of 256 colours beside the target and rename: a kill leaves the old or the new one, never half."""
    from PIL import Image

    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        drawn = BytesIO()
        figure.savefig(drawn, format="png")
        Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(beside, "PNG", optimize=True)
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)
    return target


def _length(family: Family, task: str, length: int | None) -> int | None:
    held = lengths_of(family, task)
    return length if length is not None or not held else held[0]


def _log(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")


def _limits(axes: Axes, metric: str, floor: float, log: bool, points: Sequence[Point]) -> None:
    """Whole ranges, so that a small gain looks small; nats from the least seen to 0."""
    if log:
        _log(axes)
        axes.set_ylim(floor / DEPTH, 1.5)
    elif METRICS[metric].rate or metric in ("edit", "per_token", "probability"):
        axes.set_ylim(-0.02, 1.02)
    elif metric == "likelihood":
        axes.set_ylim(1.15 * min(min(p.interval.low for p in points), -0.1), 0.02)
    else:
        axes.set_ylim(0, 1.1 * max(p.interval.high for p in points) or 1)


def _as_nats(family: Family, tasks: Sequence[str], lengths: Mapping[str, int | None]) -> float:
    """Nats a token at which p^L is 1/n, for the mean L and the fewest n of the tasks that are drawn."""
    rows = [row for m in family for task in tasks for row in answers(m, task, lengths[task])]
    tokens = [t for row in rows if (t := tokens_of(row)) is not None]
    fewest = min(len(found) for m in family for task in tasks if (found := answers(m, task, lengths[task])))
    return -math.log(fewest) * len(tokens) / sum(tokens) if tokens else 0.0
