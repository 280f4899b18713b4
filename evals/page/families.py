"""Models of growing size on the same task: every metric over parameters, with the least score a sample can show.

Whether a curve looks sharp or smooth may be the metric's doing (Schaeffer et al., "Are Emergent Abilities of Large
Language Models a Mirage?", arXiv 2304.15004), so that all metrics of a task stand beside one another. Knows no task.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from evals.cells import MEMORY, samples_of
from evals.page.collect import Run
from evals.page.compare import documents_of
from evals.page.figures import Figure
from evals.page.numbers import Number, Numbers, name_of, tokens
from evals.page.samples import Samples, clean
from evals.page.svg import Axis, Point, Series, axis_to, curves, percent_axis
from evals.rows import Row
from evals.stats import bootstrap, wilson, wilson_clustered

SCORE = "score"
# Metrics of one answer by the names that rows have for them: shown even where no two models differ, and nothing else
# of a row that has several of them.
_NAMED = {
    "exact": "exact match",
    "grade": "multiple choice",
    "edit": "edit similarity",
    "distance": "edit distance",
    "likelihood": "log-likelihood",
    "per_token": "likelihood a token",
    "probability": "likelihood of the answer",
    "brier": "Brier score",
}
_LOWER = ("brier", "distance")
# Those that are no shares, in their own units: they need not be in [0, 1].
_UNITS = {"brier": "", "distance": "edits", "likelihood": "nats a token"}
_MOST = 12  # panels of one task at one length
_Rows = dict[int, list[Row]]  # by run


@dataclass(frozen=True)
class Family:
    """Panels of one task at one length, and whose points they show, small models first."""

    task: str
    length: int
    runs: tuple[int, ...]
    panels: tuple[Figure, ...]


def sizes(runs: Sequence[Run]) -> dict[int, int]:
    """Parameters by run, small first, of runs whose description states a whole number of them."""
    known = {}
    for number, run in enumerate(runs):
        count = run.about.get("parameters")
        if not isinstance(count, bool) and (stated := _number(count)) is not None and stated >= 1 and stated % 1 == 0:
            known[number] = int(stated)
    return dict(sorted(known.items(), key=lambda item: item[1]))


def families(numbers: Numbers, samples: Samples, ident: str) -> dict[str, list[Family]]:
    """By task, where two models of different sizes answered at the same length: nats a token are left out."""
    known = sizes(numbers.runs)
    cells: dict[tuple[str, int], _Rows] = {}
    for run in known:
        for row in numbers.runs[run].rows:
            if row.control == MEMORY and row.task not in numbers.nats:
                cells.setdefault((row.task, row.length), {}).setdefault(run, []).append(row)
    made: dict[str, list[Family]] = {}
    for place, task in enumerate(numbers.tasks):
        for length in numbers.lengths(task):
            rows = cells.get((task, length), {})
            if len({known[run] for run in rows}) > 1:
                name = f"{ident}-{place}-{length}"
                panels = _panels(numbers, samples, known, task, length, rows, name)
                if note := _unlike(numbers.runs, rows, task, length):
                    panels = tuple(replace(panel, note=note) for panel in panels)
                if panels:
                    made.setdefault(task, []).append(Family(task, length, tuple(rows), panels))
    return made


def _unlike(runs: Sequence[Run], rows: _Rows, task: str, length: int) -> str:
    """What of the task's settings differs between these models; a curve over their size is one over that too."""
    asked = [(runs[run].cells.get((task, length), {}).get("tasks") or {}) for run in rows]
    found = [chosen[task] for chosen in asked if isinstance(chosen, Mapping) and isinstance(chosen.get(task), Mapping)]
    every = sorted({name for one in found for name in one})
    names = [name for name in every if len({repr(one.get(name)) for one in found}) > 1]
    said = (f"{name}={' or '.join(dict.fromkeys(str(one.get(name)) for one in found))}" for name in names)
    return clean(f"Not asked alike: {', '.join(said)}") if names else ""


def metrics(rows: _Rows) -> dict[str, dict[int, list[tuple[Row, float]]]]:
    """Metric to its values by run, in [0, 1], of what at least two models have; the score first.

    Of a row's details a metric is what is a number in [0, 1] throughout (or one of those known by name that have other
    units) and says something of the model: what is the same for all models (a size, say) belongs to the question. One
    that is the score itself is not said twice. Rows with several of the metrics that have names here show these, and
    always the same ones.
    """
    scores = {run: [(row, row.value) for row in own] for run, own in rows.items()}
    found = {SCORE: scores} if _in_range(scores) else {}
    names = list(dict.fromkeys(name for own in rows.values() for row in own for name in _details(row)))
    if len(known := [name for name in _NAMED if name in names]) > 1:
        names = known
    for name in names:
        values = {
            run: there
            for run, own in rows.items()
            if (there := [(row, x) for row in own if (x := _number(_details(row).get(name))) is not None])
        }
        if len(values) < 2 or not (name in _UNITS or _in_range(values)):
            continue
        # Where all scores are alike, such as 0, another metric may be the same by chance.
        if values == scores and (name == "exact" or (name not in _NAMED and not _of_questions(values))):
            found = {f"{SCORE} ({name})" if key == SCORE else key: mine for key, mine in found.items()}
        elif name in _NAMED or not _of_questions(values):
            found[name] = values
    return found


def parameters(count: int) -> str:
    """As people say it: 1.2M, 7B."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def _details(row: Row) -> Mapping[str, object]:
    return row.detail if isinstance(row.detail, Mapping) else {}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _in_range(values: Mapping[int, Sequence[tuple[Row, float]]]) -> bool:
    return all(0 <= value <= 1 for own in values.values() for _, value in own)


def _of_questions(values: Mapping[int, Sequence[tuple[Row, float]]]) -> bool:
    """Whether each question has the same value whoever answered it."""
    seen: dict[tuple[int, int], set[float]] = {}
    for own in values.values():
        for row, value in own:
            seen.setdefault((row.document, row.question), set()).add(value)
    return all(len(found) == 1 for found in seen.values())


def _panels(
    numbers: Numbers, samples: Samples, known: Mapping[int, int], task: str, length: int, rows: _Rows, ident: str
) -> tuple[Figure, ...]:
    panels = []
    for place, (metric, values) in enumerate(list(metrics(rows).items())[:_MOST]):
        made = {run: _mean(own, samples.link(run, task, length), metric in _UNITS) for run, own in values.items()}
        chance = numbers.chance(task) if metric.startswith(SCORE) else None
        floor = _floor(metric, values)
        panels.append(_panel(numbers.runs, known, made, metric, task, length, f"{ident}-{place}", chance, floor))
    return tuple(panels)


def _title(metric: str) -> str:
    if metric == f"{SCORE} (exact)":
        return _NAMED["exact"]
    return _NAMED.get(metric, name_of(clean(metric, 60)))


def _mean(values: Sequence[tuple[Row, float]], href: str, plain: bool) -> Number:
    """With Wilson's interval where all is 0 or 1 (over questions, of samples), else a bootstrap over documents.

    ``plain``: no share, whose number is written as it is.
    """
    own = [value for _, value in values]
    rows = [replace(row, score=value) for row, value in values]
    documents, drawn = documents_of(rows), samples_of(rows)
    if not plain and all(value in (0, 1) for value in own):
        sums, counts = [total for total, _ in drawn], [count for _, count in drawn]
        low, high = wilson_clustered(sums, counts) if drawn else wilson(int(sum(own)), len(own))
    else:
        low, high = bootstrap(own, clusters=documents)
    mean = sum(own) / len(own)  # all alike, a resampled mean may be another in its last bit, and be written otherwise
    return Number(
        mean, min(low, mean), max(high, mean), len(own), len(drawn) or len(own), len(set(documents)), href, plain
    )


def _floor(metric: str, values: Mapping[int, Sequence[tuple[Row, float]]]) -> tuple[float, str] | None:
    """Where the resolution of the fewest answers stands, and its name; of nats where p^L is 1/n, if L is known."""
    n = min(len(own) for own in values.values())
    named = f"1/n = {100 / n:.3g}%, n = {n:,}"
    if metric != "likelihood":
        return (1 if metric in _UNITS else 100) / n, named
    lengths = [_number(_details(row).get("tokens")) for own in values.values() for row, _ in own]
    known = [length for length in lengths if length]
    return (-math.log(n) * len(known) / sum(known), f"p^L = 1/n, n = {n:,}") if known else None


def _axis(metric: str, groups: Mapping[str, Sequence[Point]]) -> Axis:
    if metric not in _UNITS:
        return percent_axis()
    points = [point for own in groups.values() for point in own]
    return axis_to(max(0.0, *(point.high for point in points)), "", low=min(0.0, *(point.low for point in points)))


def _panel(
    runs: Sequence[Run],
    known: Mapping[int, int],
    made: Mapping[int, Number],
    metric: str,
    task: str,
    length: int,
    ident: str,
    chance: float | None,
    floor: tuple[float, str] | None,
) -> Figure:
    groups: dict[str, list[Point]] = {}
    scale = 1 if metric in _UNITS else 100
    for run, number in made.items():
        said = f"{runs[run].name}, {parameters(known[run])} parameters: {number.said}"
        ends = (scale * number.mean, scale * number.low, scale * number.high)
        point = Point(known[run], *ends, number.href, said, run)
        groups.setdefault(str(runs[run].about.get("family", "")), []).append(point)
    n = min(number.n for number in made.values())
    unit = _UNITS.get(metric, "percent")
    title = _title(metric) + (", lower is better" if metric in _LOWER else "")
    picture = curves(
        [Series(family, -1, tuple(points)) for family, points in groups.items()], _axis(metric, groups), ident=ident,
        title=f"{name_of(task)}, {title}, {tokens(length)}", x_label="parameters", x_text=parameters,
        desc=f"Mean {title}{f' in {unit}' if unit else ''} over parameters on a logarithmic axis, with 95% intervals; "
        f"{100 / n:.3g} percent is the least rate above 0 that {n} answers can show. The numbers are in the table "
        "behind it.",
        line=None if chance is None else (100 * chance, "chance"), floor=floor,
    )  # fmt: skip
    lines = tuple((f"{parameters(known[run])} · {runs[run].name}", number) for run, number in made.items())
    return Figure(ident, title, picture, (), ("parameters", unit or title), lines)
