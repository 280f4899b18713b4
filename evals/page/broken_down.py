"""Tables of ``evals.breakdowns`` on the page: those of the same shape side by side, with pictures over a number.

The first columns that tell the lines of a table apart name them; what follows is shown for each model. Knows no task.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from evals.breakdowns import Breakdown, Entry, Estimate, breakdowns
from evals.page.collect import Run
from evals.page.figures import Figure
from evals.page.numbers import tokens
from evals.page.samples import clean
from evals.page.svg import Axis, Point, Series, axis_to, curves, percent_axis
from evals.report import entry_text, estimate_text, short_count

_BESIDE = 6  # columns of numbers that fit beside one another; with more, models stand below one another
_PICTURES = 8  # panels of one table at most
_LINEAR = 16  # up to here numbers of an axis stand at equal steps, beyond on a base-2 axis
_NOTE = 600  # characters of a note
_TOKENS = ("tokens", "length")  # columns in which 0 is "nothing read"
_Key = tuple[Entry, ...]


@dataclass(frozen=True)
class Shown:
    """An entry as the page shows it; ``style`` places the bar of a rate, ``whole`` is for a whole number."""

    text: str
    ends: str = ""
    n: int | None = None
    style: str = ""
    whole: bool = False


@dataclass(frozen=True)
class Line:
    """What names it, whose it is (None: all models in their columns), and its entries; None for an empty one.

    ``spans`` says of each name how many lines from here on bear it, 0 where one above said so already.
    """

    spans: tuple[int, ...]
    names: tuple[Shown, ...]
    run: int | None
    entries: tuple[Shown | None, ...]


@dataclass(frozen=True)
class Sheet:
    """Tables of one title and shape, of one model or several.

    Attributes:
        ident: of the element.
        title, notes: as the tables say.
        runs: whose they are.
        names, values: heads of the columns that name lines, and of the others.
        beside: whether each value has a column for each model; else each line is one model's.
        lines: of the table.
        figures: pictures of it.
    """

    ident: str
    title: str
    notes: tuple[str, ...]
    runs: tuple[int, ...]
    names: tuple[str, ...]
    values: tuple[str, ...]
    beside: bool
    lines: tuple[Line, ...]
    figures: tuple[Figure, ...]


def sheets(runs: Sequence[Run], ident: str) -> dict[str, list[Sheet]]:
    """By task, in order of appearance: tables of the same title and columns together, each model's numbers once."""
    found: dict[tuple[str, str, tuple[str, ...]], dict[int, Breakdown]] = {}
    for number, run in enumerate(runs):
        for table in breakdowns(run.rows):
            if table.lines:
                found.setdefault((table.task, table.title, table.columns), {}).setdefault(number, table)
    made: dict[str, list[Sheet]] = {}
    for place, ((task, _, _), tables) in enumerate(found.items()):
        made.setdefault(task, []).append(_sheet(runs, tables, f"{ident}-{place}"))
    order = list(dict.fromkeys(row.task for run in runs for row in run.rows))
    return {task: made[task] for task in order if task in made}


def naming(tables: Sequence[Breakdown]) -> int:
    """How many first columns name a line: the fewest that tell the lines of each table apart, and words behind them."""
    wide = len(tables[0].columns)
    columns = [[line[i] for table in tables for line in table.lines] for i in range(wide)]
    most = next((i for i in range(wide) if any(isinstance(e, Estimate) or e is None for e in columns[i])), wide)
    apart = (
        count
        for count in range(1, most + 1)
        if all(len({line[:count] for line in table.lines}) == len(table.lines) for table in tables)
    )
    count = next(apart, most)
    while count < most and all(isinstance(entry, str) for entry in columns[count]):
        count += 1
    return count


def _sheet(runs: Sequence[Run], tables: dict[int, Breakdown], ident: str) -> Sheet:
    first = next(iter(tables.values()))
    count = naming(list(tables.values()))
    names, values = first.columns[:count], first.columns[count:]
    beside = len(tables) == 1 or len(values) * len(tables) <= _BESIDE
    by_name = {run: dict(_keyed(table, count)) for run, table in tables.items()}
    keys = _order(by_name)
    lines: list[Line] = []
    for key in keys:
        heads = tuple(_named(name, entry) for name, entry in zip(names, key[:count], strict=True))
        if beside:
            entries = tuple(_get(by_name[run], key, i) for i in range(len(values)) for run in tables)
            lines.append(Line((), heads, None, entries))
        else:
            for run in tables:
                if key in by_name[run]:
                    entries = tuple(_get(by_name[run], key, i) for i in range(len(values)))
                    lines.append(Line((), heads, run, entries))
    return Sheet(
        ident,
        clean(first.title),
        tuple(dict.fromkeys(clean(table.note, _NOTE) for table in tables.values() if table.note)),
        tuple(tables),
        names,
        values,
        beside,
        tuple(_spanned(lines, count)),
        tuple(_figures(runs, by_name, keys, first, count, ident)),
    )


def _spanned(lines: Sequence[Line], count: int) -> list[Line]:
    """Names that stand in several lines on end, behind the same names, are said once."""
    columns = []
    for column in range(count):
        runs = [len(list(group)) for _, group in groupby(lines, key=lambda line: line.names[: column + 1])]
        columns.append([size if place == 0 else 0 for size in runs for place in range(size)])
    return [replace(line, spans=tuple(column[place] for column in columns)) for place, line in enumerate(lines)]


def _keyed(table: Breakdown, count: int) -> Iterator[tuple[_Key, _Key]]:
    """What names a line to its other entries; lines of the same name are told apart by their number."""
    seen: dict[_Key, int] = {}
    for line in table.lines:
        name = line[:count]
        seen[name] = seen.get(name, 0) + 1
        yield (*name, seen[name]), line[count:]


def _order(by_name: dict[int, dict[_Key, _Key]]) -> list[_Key]:
    """All names in the order of the tables; one that only a later table has goes behind the one before it there."""
    keys: list[_Key] = []
    for lines in by_name.values():
        place = 0
        for key in lines:
            if key not in keys:
                keys.insert(place, key)
            place = keys.index(key) + 1
    return keys


def _get(lines: dict[_Key, _Key], key: _Key, column: int) -> Shown | None:
    entry = lines[key][column] if key in lines else None
    return None if entry is None else _shown(entry)


def _shown(entry: Entry) -> Shown:
    if not isinstance(entry, Estimate):
        return Shown(clean(entry_text(entry)), whole=isinstance(entry, int))
    text, ends = estimate_text(entry)
    style = ""
    if entry.percent and entry.interval and math.isfinite(entry.value):
        low, high, mean = (100 * min(max(x, 0.0), 1.0) for x in (*entry.interval, entry.value))
        style = f"--l:{low:.1f}%;--h:{high:.1f}%;--r:{mean:.1f}%"
    return Shown(text, ends, entry.n, style)


def _named(name: str, entry: Entry) -> Shown:
    if isinstance(entry, int) and name in _TOKENS:
        return Shown(f"{short_count(entry)}{'' if entry else ' in prompt'}", whole=True)
    return _shown(entry)


def _panel(name: str, entry: Entry) -> str:
    if isinstance(entry, int) and name in _TOKENS:
        return tokens(entry) if entry else "all in the prompt"
    return f"{name} {_shown(entry).text}"


def _figures(
    runs: Sequence[Run],
    by_name: dict[int, dict[_Key, _Key]],
    keys: Sequence[_Key],
    table: Breakdown,
    count: int,
    ident: str,
) -> Iterator[Figure]:
    """Estimates over the last column that names lines, where it holds numbers; a panel for each of those before it."""
    numbers = [key[count - 1] for key in keys] if count else []
    if not all(isinstance(x, int) and x >= 0 for x in numbers):
        return
    entries = [entry for lines in by_name.values() for entry in lines.values()]
    drawn = [i for i in range(len(table.columns) - count) if any(isinstance(line[i], Estimate) for line in entries)]
    panels: dict[_Key, list[_Key]] = {}
    for key in keys:
        panels.setdefault(key[: count - 1], []).append(key)
    panels = {name: mine for name, mine in panels.items() if len({key[count - 1] for key in mine}) > 1}
    if len(panels) * len(drawn) > _PICTURES:
        return
    for column in drawn:
        for number, (panel, mine) in enumerate(panels.items()):
            where = ", ".join(_panel(head, part) for head, part in zip(table.columns, panel, strict=False))
            title = ", ".join(part for part in (table.columns[count + column], where) if part)
            name = f"{ident}-{number}-{column}"
            series = [_series(runs[run].name, run, by_name[run], mine, column, count, table, ident) for run in by_name]
            series = [one for one in series if one.points]
            if series:
                percent = all(e.percent for line in entries if isinstance(e := line[column], Estimate))
                yield _picture(series, title, table.columns[count - 1], name, percent)


def _series(
    model: str,
    run: int,
    lines: dict[_Key, _Key],
    keys: Sequence[_Key],
    column: int,
    count: int,
    table: Breakdown,
    ident: str,
) -> Series:
    points = []
    for key in keys:
        entry = lines[key][column] if key in lines else None
        if isinstance(entry, Estimate) and math.isfinite(entry.value):
            scale = 100 if entry.percent else 1
            low, high = (end if math.isfinite(end) else entry.value for end in entry.interval or (entry.value,) * 2)
            x = key[count - 1]
            assert isinstance(x, int)
            said = f"{model}, {table.columns[count - 1]} {x:,}: {entry_text(entry)}"
            points.append(Point(x, scale * entry.value, scale * low, scale * high, f"#{ident}", said))
    return Series(model, run, tuple(sorted(points, key=lambda point: point.x)))


def _picture(series: Sequence[Series], title: str, over: str, ident: str, percent: bool) -> Figure:
    xs = [point.x for one in series for point in one.points]
    read = over in _TOKENS
    picture = curves(
        series, _axis(series, percent), ident=ident, title=title, x_label="tokens read" if read else over, apart=read,
        linear=not read and max(xs) <= _LINEAR,
        desc=f"{title} over {over}, with intervals, for {', '.join(one.name for one in series)}. "
        "The numbers are in the table above it.",
    )  # fmt: skip
    return Figure(ident, clean(title), picture, tuple(one.number for one in series), (), ())


def _axis(series: Sequence[Series], percent: bool) -> Axis:
    points = [point for one in series for point in one.points]
    low, high = min(point.low for point in points), max(point.high for point in points)
    if percent and low >= 0 and high <= 100:
        return percent_axis()
    return axis_to(high, "", low=min(0.0, low))
