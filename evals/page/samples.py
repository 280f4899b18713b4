"""Which answers stand in the page: a few of each cell, the wrong ones first, each with an id that numbers link to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evals.memory_eval import MEMORY
from evals.page.collect import Run, label
from evals.positions import depth, position
from evals.rows import Row

MOST = 12  # answers of one cell in the page; of a control, a quarter
_ALL = 2000  # answers in the page, about
_TEXT = 160  # characters of a text of one line
_BLOCK, _LINES = 480, 12  # characters and lines of one of several
_DETAIL = 240  # characters of all details of a row
_Cell = tuple[int, str, int, str]


@dataclass(frozen=True)
class Sample:
    """One answer as the page shows it; ``value`` is None where it is just right or wrong.

    ``detail`` is what else its row says of it. Texts of several lines, such as code, keep their lines.
    """

    ident: str
    document: int
    asked: str
    expected: str
    answered: str
    right: bool
    value: float | None
    depth: float | None
    tokens: int | None
    updates: int | None
    detail: str = ""


@dataclass(frozen=True)
class Group:
    """Answers of one model to one task at one length under one control; ``total`` there are, ``right`` fully right."""

    ident: str
    run: int
    task: str
    length: int
    control: str
    total: int
    right: int
    nats: bool
    samples: tuple[Sample, ...]


class Samples:
    """All groups of a page, and the way from a number to its answers."""

    def __init__(self, runs: Sequence[Run], tasks: Sequence[str]) -> None:
        cells: dict[_Cell, list[Row]] = {}
        for number, run in enumerate(runs):
            for row in run.rows:
                cells.setdefault((number, row.task, row.length, row.control), []).append(row)
        most = max(1, min(MOST, _ALL // max(1, len(cells))))
        self.groups: dict[_Cell, Group] = {}
        self._places: dict[tuple[int, tuple[str, int, str, str]], str] = {}
        for key, rows in cells.items():
            number, task, length, control = key
            ident = f"s{number}-{tasks.index(task)}-{length}" + ("" if control == MEMORY else f"-{control}")
            chosen = choose(rows, most if control == MEMORY else max(1, most // 4))
            answers = []
            for place, row in enumerate(chosen):
                self._places[number, row.key] = f"{ident}-{place}"
                answers.append(_sample(f"{ident}-{place}", row, runs[number].segment))
            self.groups[key] = Group(
                ident, number, task, length, control, len(rows),
                sum(row.correct for row in rows), rows[0].scorer == "value", tuple(answers),
            )  # fmt: skip

    def link(self, run: int, task: str, length: int, control: str = MEMORY) -> str:
        """Where the answers of a cell stand."""
        return "#" + self.groups[run, task, length, control].ident

    def link_rows(self, run: int, rows: Sequence[Row]) -> str:
        """Where the first of these answers that is in the page stands; else their cell."""
        for row in rows:
            if (run, row.key) in self._places:
                return "#" + self._places[run, row.key]
        return self.link(run, rows[0].task, rows[0].length, rows[0].control)


def choose(rows: Sequence[Row], most: int) -> list[Row]:
    """At most ``most`` rows, the worst first; each tenth of depth is there where that fits."""
    lower_is_better = rows[0].scorer == "value"
    worst = sorted(rows, key=lambda row: -row.value if lower_is_better else row.value)
    tenths: dict[int, Row] = {}
    for row in worst:
        if row.evidence:
            tenths.setdefault(int(10 * depth(min(row.evidence), row.length) + 0.5), row)
    first = list(tenths.values()) if len(tenths) <= most else []
    taken = {row.key for row in first}
    first += [row for row in worst if row.key not in taken][: most - len(first)]
    order = {row.key: place for place, row in enumerate(worst)}
    return sorted(first, key=lambda row: order[row.key])


def clean(text: str, most: int = _TEXT) -> str:
    """Text that a page can hold: cut to size, no half characters, controls made visible.

    A lone surrogate cannot be encoded, and a C0 control is not allowed in HTML.
    """
    cut = text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"
    whole = cut.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return re.sub(r"[\x00-\x1f\x7f]", lambda m: chr(0x2421 if m[0] == "\x7f" else 0x2400 + ord(m[0])), whole)


def shown(text: str) -> str:
    """As ``clean``; but text of several lines keeps them (a few), so that code can be read."""
    lines = text.replace("\r\n", "\n").strip("\n").expandtabs(4).split("\n")
    if len(lines) < 2:
        return clean(text)
    kept = "\n".join(lines[:_LINES])
    cut = len(lines) > _LINES or len(kept) > _BLOCK
    whole = "\n".join(clean(line, _BLOCK) for line in kept[:_BLOCK].split("\n"))
    return f"{whole}… ({len(lines):,} lines, {len(text):,} characters)" if cut else whole


def details(detail: Mapping[str, Any] | None) -> str:
    """What a row says beyond its score, short: ``verdict: timeout; size: 3x3; seconds: 0.123``."""
    if not isinstance(detail, Mapping):
        return ""
    said = (f"{str(name).replace('_', ' ')}: {_detail(value)}" for name, value in detail.items() if value is not None)
    return clean("; ".join(said), _DETAIL)


def _detail(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Mapping):
        return clean(" ".join(f"{name}={_detail(item)}" for name, item in value.items()), _TEXT // 2)
    if isinstance(value, list | tuple):
        return clean(", ".join(_detail(item) for item in value), _TEXT // 2)
    return clean(str(value), _TEXT // 2)


def _sample(ident: str, row: Row, segment: int | None) -> Sample:
    where = position(row, segment or max(1, row.length))
    binary = row.value in (0, 1) and row.scorer != "value"
    return Sample(
        ident,
        row.document,
        shown(row.asked),
        shown(label(row, row.expected)),
        shown(label(row, row.answered)),
        row.correct,
        None if binary else row.value,
        None if where is None else where.depth,
        None if where is None else where.tokens,
        None if where is None or segment is None else where.updates,
        details(row.detail),
    )


def grouped(groups: Iterable[Group]) -> dict[int, dict[str, list[Group]]]:
    """By model, then by task; lengths rising, the score before its controls."""
    made: dict[int, dict[str, list[Group]]] = {}
    for group in groups:
        made.setdefault(group.run, {}).setdefault(group.task, []).append(group)
    for tasks in made.values():
        for found in tasks.values():
            found.sort(key=lambda group: (group.length, group.control != MEMORY))
    return made
