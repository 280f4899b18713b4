"""Pictures of a page with the tables that say the same: over length, over distance, by depth, and what reading cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from evals.cost import Cost
from evals.page.collect import Run
from evals.page.numbers import Number, Numbers, name_of, tokens
from evals.page.samples import Samples
from evals.page.svg import Axis, Point, Series, Square, axis_to, curves, heat_map, percent_axis
from evals.positions import Bin, by_depth, by_tokens, by_updates
from evals.report import short_count

DEPTHS = 11
READ = "tokens read"


@dataclass(frozen=True)
class Figure:
    """A picture, whose models it shows, and its numbers as a table: a header and lines of cells.

    A cell is text, or a number that links to its answers. ``note`` is said beside the models.
    """

    ident: str
    title: str
    svg: str
    runs: tuple[int, ...]
    header: tuple[str, ...]
    lines: tuple[tuple[str | Number | None, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class CostLine:
    """What one model took at one length; no ``speed`` of reading where nothing was read."""

    run: int
    length: int
    documents: int
    speed: float | None
    read_seconds: float
    ask_seconds: float
    peak_bytes: int


def over_length(numbers: Numbers, task: str, ident: str) -> Figure:
    """A curve for each model, with its intervals."""
    lengths = numbers.lengths(task)
    series, lines = [], []
    for run, model in enumerate(numbers.runs):
        found = [(length, number) for length in lengths if (number := numbers.get(run, task, length))]
        if found:
            series.append(Series(model.name, run, tuple(_point(model.name, x, n, _tokens(x)) for x, n in found)))
    for length in lengths:
        lines.append((f"{length:,}", *(numbers.get(one.number, task, length) for one in series)))
    return _figure(numbers, task, ident, name_of(task), series, ("tokens",), lines, READ, "tokens read")


def over_distance(numbers: Numbers, samples: Samples, ident: str) -> dict[str, list[Figure]]:
    """By task, where there is evidence: by tokens behind it, and by updates of the memory where segments are known."""
    figures: dict[str, list[Figure]] = {}
    behind = [by_tokens(run.rows) for run in numbers.runs]
    updates = [by_updates(run.rows, run.segment) if run.segment else [] for run in numbers.runs]
    for place, task in enumerate(numbers.tasks):
        for kind, bins, label in (
            ("tokens", behind, "tokens between evidence and question"),
            ("updates", updates, "memory updates between evidence and question"),
        ):
            of_task = [[one for one in found if one.task == task] for found in bins]
            edges = sorted({one.place for found in of_task for one in found})
            if len(edges) > 1:
                title = "By distance in tokens" if kind == "tokens" else "By updates of the memory"
                made = _distance(numbers, samples, task, f"{ident}-{kind}-{place}", title, of_task, label)
                figures.setdefault(task, []).append(made)
    return figures


def heat_maps(numbers: Numbers, samples: Samples, ident: str) -> dict[str, list[Figure]]:
    """Length by depth, by task: one for each model with evidence that stands in more than one place."""
    bins = [by_depth(model.rows, DEPTHS) for model in numbers.runs]
    figures: dict[str, list[Figure]] = {}
    for place, task in enumerate(numbers.rates):
        for run in range(len(numbers.runs)):
            found = [one for one in bins[run] if one.task == task]
            if len({one.place for one in found}) > 1:
                made = _heat(numbers, samples, run, task, f"{ident}-{place}-{run}", found)
                figures.setdefault(made.title, []).append(made)
    return figures


def costs(runs: Sequence[Run]) -> list[CostLine]:
    """By model and length: documents, tokens a second, seconds a document and an answer, peak memory."""
    lines = []
    for place, run in enumerate(runs):
        for length in sorted({cost.length for cost in run.costs}):
            found = [cost for cost in run.costs if cost.length == length]
            lines.append(_cost(place, length, found))
    return lines


def cost_figures(runs: Sequence[Run], lines: Sequence[CostLine], ident: str) -> list[Figure]:
    """Tokens a second, and peak memory, over length."""
    kinds: tuple[tuple[str, str, Callable[[CostLine], float | None], Callable[[float], str]], ...] = (
        ("Reading speed", "tokens a second", lambda line: line.speed, _thousands),
        ("Peak memory", "GiB", lambda line: line.peak_bytes / 2**30, lambda y: f"{y:g}"),
    )
    figures = []
    for number, (title, unit, value, text) in enumerate(kinds):
        series = []
        for run, model in enumerate(runs):
            points = [(line.length, y) for line in lines if line.run == run and (y := value(line)) is not None]
            said = f"{model.name}, "
            series.append(Series(model.name, run, tuple(
                Point(x, y, y, y, "#cost-table", f"{said}{_tokens(x)}: {y:,.4g} {unit}") for x, y in points
            )))  # fmt: skip
        drawn = [one for one in series if one.points]
        top = max((point.y for one in drawn for point in one.points), default=0)
        if top > 0:
            axis = axis_to(top, unit, text)
            name = f"{ident}-{number}"
            desc = f"{title} in {unit} over tokens read, from 0. The numbers are in the table below."
            picture = curves(drawn, axis, ident=name, title=title, desc=desc, x_label=READ, apart=True)
            shown = tuple(one.number for one in drawn)
            figures.append(Figure(name, f"{title}, {unit}", picture, shown, (), ()))
    return figures


def _cost(run: int, length: int, found: Sequence[Cost]) -> CostLine:
    documents, read = sum(c.documents for c in found), sum(c.read_seconds for c in found)
    questions, asked = sum(c.questions for c in found), sum(c.ask_seconds for c in found)
    return CostLine(
        run, length, documents, length * documents / read if length and read > 0 else None,
        read / documents if documents else 0.0, asked / questions if questions else 0.0,
        max(c.peak_bytes for c in found),
    )  # fmt: skip


def _distance(
    numbers: Numbers, samples: Samples, task: str, ident: str, title: str, bins: Sequence[Sequence[Bin]], label: str
) -> Figure:
    series, tables = [], []
    for run, found in enumerate(bins):
        if found:
            made = {one.place: numbers.number(one.cell, samples.link_rows(run, one.rows)) for one in found}
            name = numbers.runs[run].name
            reach = {one.place: _reach(one) for one in found}
            series.append(Series(name, run, tuple(_point(name, x, n, reach[x]) for x, n in made.items())))
            tables.append(made)
    names = {one.place: _reach(one) for found in bins for one in found}
    lines = [(names[place], *(table.get(place) for table in tables)) for place in sorted(names)]
    return _figure(numbers, task, ident, title, series, ("from – to",), lines, label, "distance")


def _figure(
    numbers: Numbers,
    task: str,
    ident: str,
    title: str,
    series: Sequence[Series],
    first: tuple[str, ...],
    lines: Iterable[tuple[str | Number | None, ...]],
    x_label: str,
    over: str,
) -> Figure:
    nats = task in numbers.nats
    axis, chance = _axis(series) if nats else percent_axis(), None if nats else numbers.chance(task)
    unit = "nats a token, lower is better" if nats else "percent right"
    picture = curves(
        series, axis, ident=ident, title=f"{title}: {unit}", x_label=x_label,
        desc=f"{unit} over {over}, a curve with a 95% band for {', '.join(one.name for one in series)}. "
        "The numbers are in the table behind it.",
        line=None if chance is None else (100 * chance, "chance"), apart=x_label == READ,
    )  # fmt: skip
    shown = tuple(one.number for one in series)
    return Figure(ident, title, picture, shown, (*first, *(one.name for one in series)), tuple(lines))


def _axis(series: Sequence[Series]) -> Axis:
    """Nats need not begin at 0: what is compared are small differences."""
    points = [point for one in series for point in one.points]
    low, high = min(p.low for p in points), max(p.high for p in points)
    return axis_to(high + 0.05 * (high - low), "nats a token", low=max(0.0, low - 0.05 * (high - low)))


def _heat(numbers: Numbers, samples: Samples, run: int, task: str, ident: str, bins: Sequence[Bin]) -> Figure:
    lengths = sorted({one.length or 0 for one in bins})
    model = numbers.runs[run].name
    squares, table = [], {}
    for one in bins:
        number = numbers.number(one.cell, samples.link_rows(run, one.rows))
        column, row = lengths.index(one.length or 0), round(one.place * (DEPTHS - 1))
        table[row, column] = number
        said = f"{short_count(one.length or 0)}, depth {100 * one.place:.0f}%: {number.text}%, n={number.n}"
        squares.append(Square(column, row, number.mean, number.href, said))
    depths = [f"{100 * row / (DEPTHS - 1):.0f}%" for row in range(DEPTHS)]
    picture = heat_map(
        squares, [short_count(length) for length in lengths], depths, ident=ident,
        title=f"{name_of(task)}, {model}: percent right by length and depth",
        desc="Columns are lengths in tokens, rows the depth of the evidence from the start (0%) to the end (100%). "
        "The numbers with their intervals are in the table behind it.",
    )  # fmt: skip
    lines = tuple((depths[row], *(table.get((row, column)) for column in range(len(lengths)))) for row in range(DEPTHS))
    header = ("depth", *(short_count(length) for length in lengths))
    sizes = sorted({one.n for one in bins})
    note = f"n={sizes[0]} a square" if len(sizes) == 1 else f"n={sizes[0]} to {sizes[-1]} a square"
    return Figure(ident, name_of(task), picture, (run,), header, lines, note)


def _point(model: str, x: float, number: Number, where: str) -> Point:
    scale = 1 if number.nats else 100
    said = f"{model}, {where}: {number.said}"
    return Point(x, scale * number.mean, scale * number.low, scale * number.high, number.href, said)


def _thousands(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def _tokens(length: float) -> str:
    return tokens(int(length))


def _reach(one: Bin) -> str:
    if math.isinf(one.high):
        return f"{one.low:,.0f} and more"
    last = one.high - 1
    return f"{one.low:,.0f}" if last <= one.low else f"{one.low:,.0f} – {last:,.0f}"
