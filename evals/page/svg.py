"""Pictures as inline SVG text: curves with bands, and heat maps; numbers in, markup out.

Colours are classes (``s0`` of a series, ``h0`` of a rate), so that the page's themes decide; series differ in marker
and, past six, in dashes and hollow markers. Every point is a link with a title. All text is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from evals.report import short_count

WIDTH, HEIGHT = 420, 250  # units of the viewBox, about a pixel each in a column of a wide page
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 14, 12, 38
_STYLES = 6  # colours and markers before they repeat, with dashes
_EDGE = 18.0  # units left free at both ends of the axis
_BANDS = 3  # series that may have bands; more of them would lie over one another
_APART = 72.0  # units between 0 and the first number of a broken axis
_IN_PROMPT = "in prompt"  # what 0 tokens read are called
_DODGE = 7.0  # units between series, so that equal numbers do not hide each other


@dataclass(frozen=True)
class Point:
    """One number (``x`` >= 0; 0 stands at the left edge), its interval, where it links and what it says.

    ``number`` is whose marker it bears, where the points of a series are of several models.
    """

    x: float
    y: float
    low: float
    high: float
    href: str
    said: str
    number: int | None = None


@dataclass(frozen=True)
class Series:
    """Points of one model; ``number`` is its colour and its marker everywhere on the page, -1 where it is of many."""

    name: str
    number: int
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Axis:
    """A vertical axis from ``low`` to ``high`` with ticks and how they are written."""

    low: float
    high: float
    ticks: tuple[float, ...]
    text: Callable[[float], str]
    label: str


def percent_axis() -> Axis:
    """0 to 100."""
    return Axis(0, 100, (0, 25, 50, 75, 100), lambda y: f"{y:.0f}", "right, percent")


def axis_to(top: float, label: str, text: Callable[[float], str] | None = None, low: float = 0.0) -> Axis:
    """From ``low`` to a round number above ``top``, about four ticks; ``low`` is rounded down."""
    span = max(top - low, abs(top) * 1e-3, 1e-9)
    power = 10 ** math.floor(math.log10(span / 4))
    step = next(power * step for step in (1, 2, 2.5, 5, 10) if power * step >= span / 4)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(top / step - 1e-9)
    ticks = tuple(round(step * i, 12) for i in range(first, max(last, first + 1) + 1))
    return Axis(ticks[0], ticks[-1], ticks, text or (lambda y: f"{y:,.6g}"), label)


def curves(
    series: Sequence[Series],
    axis: Axis,
    *,
    ident: str,
    title: str,
    desc: str,
    x_label: str = "tokens read",
    line: tuple[float, str] | None = None,
    apart: bool = False,
    linear: bool = False,
    floor: tuple[float, str] | None = None,
    x_text: Callable[[int], str] = short_count,
) -> str:
    """Lines over a base-2 (or ``linear``) axis with a band for the intervals; whiskers for one point, or many series.

    ``line`` is a level to compare with, such as chance, and its name; ``floor`` another, below which nothing can be
    seen, named under the axis where no curve lies over it. ``ident`` makes the ids of the picture. With
    ``apart`` 0 is no small number but another case (nothing read, all in the prompt): it has a place of its own to the
    left of a broken axis, named, and no line leads over the break but a dotted one.
    """
    ticks = sorted({point.x for one in series for point in one.points})
    apart = apart and bool(ticks) and ticks[0] <= 0
    place = _linear(ticks) if linear else _x_scale(ticks, apart)
    parts = [_open(ident, title, desc, WIDTH, HEIGHT), _grid(axis), *_x_ticks(ticks, place, x_text, apart)]
    if apart and len(ticks) > 1:
        parts.append(_break((place(ticks[0]) + place(ticks[1])) / 2))
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(f'<text class="axis" x="{middle:g}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>')
    for level in (line, floor):
        if level is not None:
            kind = "level" if level is line else "level floor"
            parts.append(f'<path class="{kind}" d="M{_LEFT} {_y(axis, level[0]):.1f}H{WIDTH - _RIGHT}"/>')
    shifts = _shifts(len(series), ticks, place)
    for one, shift in zip(series, shifts, strict=True):
        alone = tuple(point for point in one.points if apart and point.x <= 0)
        rest = one.points[len(alone) :]
        if len(rest) > 1 and len(series) <= _BANDS:
            parts += [_band(rest, one.number, axis, place, shift), _whiskers(alone, one.number, axis, place, shift)]
        else:
            parts.append(_whiskers(one.points, one.number, axis, place, shift))
    parts += [_line(one, axis, place, shift, apart) for one, shift in zip(series, shifts, strict=True)]
    if line is not None:  # its name above all, or a band would lie over it
        y = _y(axis, line[0]) - 4
        parts.append(f'<text class="axis named" x="{_LEFT + 4}" y="{y:.1f}">{escape(line[1])}</text>')
    if floor is not None:
        x, y = WIDTH - _RIGHT, HEIGHT - 4
        parts.append(f'<text class="axis" x="{x}" y="{y}" text-anchor="end">\u22ef {escape(floor[1])}</text>')
    return "".join((*parts, "</svg>"))


@dataclass(frozen=True)
class Square:
    """One number of a heat map, in [0, 1], at a column and a row of it."""

    column: int
    row: int
    rate: float
    href: str
    said: str


def heat_map(
    squares: Sequence[Square], columns: Sequence[str], rows: Sequence[str], *, ident: str, title: str, desc: str
) -> str:
    """Squares with their percent written in them; what nobody asked stays empty with a dash."""
    wide = max(34.0, min(64.0, 300 / max(1, len(columns))))
    tall, left, top = 22, 46, 22
    width, height = left + wide * len(columns) + 2, top + tall * len(rows) + 4
    parts = [_open(ident, title, desc, width, height, max_width=round(width * 1.15))]
    parts.append(f'<text class="axis" x="{left - 7}" y="{top - 7}" text-anchor="end">depth</text>')
    for number, name in enumerate(columns):
        x = left + wide * (number + 0.5)
        parts.append(f'<text class="axis" x="{x:.1f}" y="{top - 7}" text-anchor="middle">{escape(name)}</text>')
    for number, name in enumerate(rows):
        y = top + tall * (number + 0.5) + 4
        parts.append(f'<text class="axis" x="{left - 7}" y="{y:.1f}" text-anchor="end">{escape(name)}</text>')
    filled = {(square.column, square.row) for square in squares}
    for column in range(len(columns)):
        for row in range(len(rows)):
            if (column, row) not in filled:
                x, y = left + wide * (column + 0.5), top + tall * (row + 0.5) + 4
                parts.append(f'<text class="axis" x="{x:.1f}" y="{y:.1f}" text-anchor="middle">–</text>')
    for square in squares:
        x, y = left + wide * square.column, top + tall * square.row
        level = heat_level(square.rate)
        parts.append(
            f'<a href="{escape(square.href)}"><title>{escape(square.said)}</title>'
            f'<rect class="h{level}" x="{x + 1:.4g}" y="{y + 1}" width="{wide - 2:.4g}" height="{tall - 2}"/>'
            f'<text class="t{level}" x="{x + wide / 2:.4g}" y="{y + 15}">'
            f"{100 * square.rate:.0f}</text></a>"
        )
    return "".join((*parts, "</svg>"))


def heat_level(rate: float) -> int:
    """Which of ten colours: 0 for less than a tenth, 9 from nine tenths on."""
    return min(9, max(0, int(rate * 10 + 1e-9)))


def marker(number: int, x: float = 7, y: float = 7, size: float = 4.5) -> str:
    """The shape of a series, around (x, y)."""
    shape = number % _STYLES
    style = f'class="mark s{shape}{" hollow" if number >= _STYLES else ""}"'
    if shape == 0:
        return f'<circle {style} cx="{x:.1f}" cy="{y:.1f}" r="{size * 0.95:.1f}"/>'
    s = size
    corners = {
        1: [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
        2: [(0, -1.1), (1.05, 0.8), (-1.05, 0.8)],
        3: [(0, -1.2), (1.2, 0), (0, 1.2), (-1.2, 0)],
        4: [(0, 1.1), (1.05, -0.8), (-1.05, -0.8)],
        5: [(-1.1, -0.4), (-0.4, -0.4), (-0.4, -1.1), (0.4, -1.1), (0.4, -0.4), (1.1, -0.4),
            (1.1, 0.4), (0.4, 0.4), (0.4, 1.1), (-0.4, 1.1), (-0.4, 0.4), (-1.1, 0.4)],
    }[shape]  # fmt: skip
    path = "L".join(f"{x + s * dx:.1f} {y + s * dy:.1f}" for dx, dy in corners)
    return f'<path {style} d="M{path}Z"/>'


def _open(ident: str, title: str, desc: str, width: float, height: float, max_width: int = 0) -> str:
    limit = f' style="max-width:{max_width}px"' if max_width else ""
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="group" aria-labelledby="{ident}-t {ident}-d"{limit}>'
        f'<title id="{ident}-t">{escape(title)}</title><desc id="{ident}-d">{escape(desc)}</desc>'
    )


def _x_scale(ticks: Sequence[float], apart: bool = False) -> Callable[[float], float]:
    """Base-2 places; 0 stands one halving left of the smallest number, a single length in the middle.

    With ``apart`` 0 has the left edge, and the numbers begin beyond the break of the axis.
    """
    least = min((x for x in ticks if x > 0), default=1)
    low = math.log2(least) - (1 if ticks and ticks[0] <= 0 and not apart else 0)
    high = math.log2(max(*ticks, least)) if ticks else 1
    left, right = _LEFT + _EDGE, WIDTH - _RIGHT - _EDGE
    first = left + _APART if apart and len(ticks) > 1 else left

    def place(x: float) -> float:
        if x <= 0 and first > left:
            return left
        if high <= low:
            return (first + right) / 2
        at = math.log2(x) if x > 0 else low
        return first + (at - low) / (high - low) * (right - first)

    return place


def _linear(ticks: Sequence[float]) -> Callable[[float], float]:
    """Places on a plain axis; a single number in the middle."""
    low, high = min(ticks, default=0), max(ticks, default=1)
    left, right = _LEFT + _EDGE, WIDTH - _RIGHT - _EDGE
    return lambda x: left + ((x - low) / (high - low) if high > low else 0.5) * (right - left)


def _shifts(count: int, ticks: Sequence[float], place: Callable[[float], float]) -> list[float]:
    """How far each series stands from its true place: apart, but never into the next tick."""
    gaps = [place(right) - place(left) for left, right in pairwise(ticks)]
    step = min(_DODGE, 0.35 * min(gaps, default=60) / max(1, count), 2 * _EDGE / max(1, count))
    return [(rank - (count - 1) / 2) * step for rank in range(count)]


def _y(axis: Axis, value: float) -> float:
    share = (min(max(value, axis.low), axis.high) - axis.low) / (axis.high - axis.low)
    return HEIGHT - _BOTTOM - share * (HEIGHT - _BOTTOM - _TOP)


def _grid(axis: Axis) -> str:
    lines, texts = [], []
    for tick in axis.ticks:
        y = _y(axis, tick)
        lines.append(f"M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}")
        texts.append(f'<text class="axis" x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{axis.text(tick)}</text>')
    return f'<path class="grid" d="{"".join(lines)}"/>' + "".join(texts)


def _x_ticks(
    ticks: Sequence[float], place: Callable[[float], float], text: Callable[[int], str], apart: bool = False
) -> list[str]:
    """A tick at each number, fewer labels where they would touch; the largest is the point of it: keep it."""
    parts, last = [], math.inf
    for tick in reversed(ticks):
        x = place(tick)
        if last - x < 34:
            continue
        last = x
        name = _IN_PROMPT if apart and tick <= 0 else text(int(tick))
        parts.append(f'<text class="axis" x="{x:.1f}" y="{HEIGHT - 22}" text-anchor="middle">{escape(name)}</text>')
    return parts


def _colour(number: int) -> str:
    return f"s{number % _STYLES}" if number >= 0 else "plain"


def _break(x: float) -> str:
    """Two strokes across the foot of the picture: what is left of them is on no scale."""
    y = HEIGHT - _BOTTOM
    return f'<path class="break" d="M{x - 5:.1f} {y + 5}l4 -10M{x + 1:.1f} {y + 5}l4 -10"/>'


def _band(points: Sequence[Point], number: int, axis: Axis, place: Callable[[float], float], shift: float) -> str:
    edge = [f"{place(p.x) + shift:.1f} {_y(axis, p.high):.1f}" for p in points]
    edge += [f"{place(p.x) + shift:.1f} {_y(axis, p.low):.1f}" for p in reversed(points)]
    return f'<path class="band {_colour(number)}" d="M{"L".join(edge)}Z"/>'


def _whiskers(points: Sequence[Point], number: int, axis: Axis, place: Callable[[float], float], shift: float) -> str:
    path = ""
    for point in points:
        x, low, high = place(point.x) + shift, _y(axis, point.low), _y(axis, point.high)
        path += f"M{x:.1f} {low:.1f}V{high:.1f}M{x - 3:.1f} {low:.1f}h6M{x - 3:.1f} {high:.1f}h6"
    return f'<path class="whisker {_colour(number)}" d="{path}"/>' if path else ""


def _line(one: Series, axis: Axis, place: Callable[[float], float], shift: float, apart: bool = False) -> str:
    colour = _colour(one.number) + (" dashed" if one.number >= _STYLES else "")
    at = [f"{place(p.x) + shift:.1f} {_y(axis, p.y):.1f}" for p in one.points]
    parts = []
    if apart and len(at) > 1 and one.points[0].x <= 0:  # over the break
        parts.append(f'<path class="line over {colour}" d="M{at[0]}L{at[1]}"/>')
        at = at[1:]
    if len(at) > 1:
        parts.append(f'<path class="line {colour}" d="M{"L".join(at)}"/>')
    for point in one.points:
        shape = marker(one.number if point.number is None else point.number, place(point.x) + shift, _y(axis, point.y))
        parts.append(f'<a href="{escape(point.href)}"><title>{escape(point.said)}</title>{shape}</a>')
    return "".join(parts)
