"""Results as text a person reads and JSON a script reads. Pictures are in ``evals.plots``."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from evals.breakdowns import Breakdown, Entry, Estimate
from evals.cells import CONTROLS, MEMORY, NATS, RATE, Cell
from evals.stats import smallest_drop


def table(cells: Sequence[Cell]) -> str:
    """A fixed-width table: a block per task, a line per length (tokens), at most 80 columns.

    The score stands first with its Wilson 95% interval and n, the controls beside it in whole percent
    with theirs. A control asked of fewer questions than the score is marked, and its n stated below.
    """
    if not cells:
        return "no results"
    controls = [control for control in CONTROLS if any(cell.control == control for cell in cells)]
    by_key = {(cell.task, cell.length, cell.control): cell for cell in cells}
    notes: list[str] = []
    lines = [["tokens", "n", MEMORY, *controls]]
    titles: dict[int, str] = {}
    for task in dict.fromkeys(cell.task for cell in cells):
        titles[len(lines)] = task
        for length in sorted({cell.length for cell in cells if cell.task == task}):
            score = by_key.get((task, length, MEMORY))
            line = [f"{length:,}", str(score.n) if score else "-", _score(score)]
            for control in controls:
                cell = by_key.get((task, length, control))
                line.append(_control(cell, score))
                if cell and score and cell.n != score.n:
                    notes.append(f"* {task}, {length:,} tokens, {control}: n={cell.n}")
            lines.append(line)
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    out: list[str] = []
    for number, line in enumerate(lines):
        if number in titles:
            out += ["", titles[number]]
        numbers = [text.rjust(width) for text, width in zip(line[:2], widths[:2], strict=True)]
        texts = [text.ljust(width) for text, width in zip(line[2:], widths[2:], strict=True)]
        out.append(("  " + "  ".join(numbers + texts)).rstrip())
    out += ["", *_meaning(cells), *_power_note(cells), *_cluster_note(cells), *notes]
    return "\n".join(out)


def _meaning(cells: Sequence[Cell]) -> list[str]:
    """What the numbers are."""
    rates = [cell for cell in cells if cell.unit == RATE]
    said = []
    if any(not cell.values for cell in rates):
        said.append("Percent right, Wilson 95% interval.")
    if partial := list(dict.fromkeys(cell.task for cell in rates if cell.values)):
        said.append(f"Where answers can be right in part ({', '.join(partial)}): mean score, bootstrap 95% interval.")
    if len(rates) < len(cells):
        said.append(
            "In nats a token, bootstrap 95% interval: less is better, and less than zeroed is what memory helps."
        )
    return said


def _cluster_note(cells: Sequence[Cell]) -> list[str]:
    """Where several questions share a document: they are not quite independent."""
    scores = [cell for cell in cells if cell.control == MEMORY]
    said = []
    if drawn := [cell for cell in scores if cell.samples]:
        said.append("Samples of one question count together, so that intervals are over questions:")
        said += [f"  {c.task}, {c.length:,} tokens: {c.n} answers to {c.questions} questions" for c in drawn]
    if shared := [cell for cell in scores if cell.documents < cell.questions]:
        said.append("Questions that share a document make an interval somewhat too narrow:")
        said += [f"  {c.task}, {c.length:,} tokens: {c.questions} questions to {c.documents} documents" for c in shared]
    return said


def to_json(cells: Sequence[Cell], **extra: Any) -> str:
    """Cells as JSON text, rates and interval ends as fractions; ``extra`` is added at the top level."""
    return json.dumps({**extra, "confidence": 0.95, "cells": [_record(cell) for cell in cells]}, indent=2)


def short_count(count: int) -> str:
    """A number of tokens as people say it: 4000 and 4096 are ``4k``, 1,000,000 and 1,048,576 ``1M``."""
    base = 1000 if count % 1000 == 0 or count % 1024 else 1024
    for unit, power in (("M", 2), ("k", 1)):
        if count >= base**power:
            return f"{count / base**power:.3g}{unit}" if count < 1000 * base**power else f"{count // base**power}{unit}"
    return str(count)


def breakdown_text(tables: Sequence[Breakdown]) -> str:
    """Tables of ``evals.breakdowns`` for a terminal: columns aligned, numbers with interval and n, notes below."""
    return "\n\n".join(_breakdown(table) for table in tables)


def breakdown_json(tables: Sequence[Breakdown]) -> list[dict[str, Any]]:
    """Tables of ``evals.breakdowns`` as JSON can hold them, for ``to_json(cells, breakdowns=...)``.

    An estimate is an object with ``value``, ``low``, ``high``, ``n`` and ``percent`` (whether people read it in
    percent; the numbers themselves are fractions). What is undefined (not finite) is null.
    """
    return [
        {
            "task": table.task,
            "title": table.title,
            "columns": list(table.columns),
            "lines": [[_plain(entry) for entry in line] for line in table.lines],
            "note": table.note,
        }
        for table in tables
    ]


def estimate_text(estimate: Estimate) -> tuple[str, str]:
    """A number as people read it, and its interval in brackets or nothing; percent with one decimal."""
    ends = estimate.interval
    return _number(estimate.value, estimate.percent), (
        f"[{', '.join(_number(end, estimate.percent) for end in ends)}]" if ends else ""
    )


def entry_text(entry: Entry) -> str:
    """An entry of a breakdown in one line."""
    if entry is None:
        return "-"
    if isinstance(entry, Estimate):
        size = "" if entry.n is None else f"n={entry.n:,}"
        return " ".join(part for part in (*estimate_text(entry), size) if part)
    if isinstance(entry, int):
        return f"{entry:,}"
    # What a model said may stand here: nothing that moves a cursor, or text against its direction.
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(entry.split()))


def _breakdown(table: Breakdown) -> str:
    lines = [list(table.columns), *([entry_text(entry) for entry in line] for line in table.lines)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.columns))]
    # Whole numbers end below one another, all else begins so.
    whole = [all(isinstance(line[i], int | None) for line in table.lines) for i in range(len(widths))]
    out = [f"{table.task}: {table.title}"]
    for line in lines:
        cells = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, whole, strict=True)
        ]
        out.append(("  " + "  ".join(cells)).rstrip())
    return "\n".join([*out, *textwrap.wrap(table.note, 80)])


def _number(value: float, percent: bool) -> str:
    if not math.isfinite(value):
        return "undefined"
    if percent:
        return f"{100 * value:.1f}"
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.4g}"


def _plain(entry: Entry) -> Any:
    if not isinstance(entry, Estimate):
        return entry
    low, high = entry.interval or (None, None)
    numbers = {"value": entry.value, "low": low, "high": high}
    finite = {name: None if x is None or not math.isfinite(x) else float(x) for name, x in numbers.items()}
    return {**finite, "n": entry.n, "percent": entry.percent}


def _record(cell: Cell) -> dict[str, Any]:
    low, high = cell.interval
    plain = {name: value for name, value in asdict(cell).items() if name not in ("values", "samples")}
    return {**plain, "rate": cell.rate, "low": low, "high": high}


def _score(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    low, high = cell.interval
    if cell.unit == NATS:
        return f"{cell.rate:.3f} [{low:.3f}, {high:.3f}]"
    return f"{100 * cell.rate:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _control(cell: Cell | None, score: Cell | None) -> str:
    if cell is None:
        return "-"
    low, high = cell.interval
    mark = "*" if score and score.n != cell.n else ""
    if cell.unit == NATS:
        return f"{cell.rate:.3f}{mark}"
    # Ends are rounded outwards: whole percent must not make an interval look narrower than it is.
    ends = f"[{math.floor(100 * low)},{math.ceil(100 * high)}]"
    return f"{100 * cell.rate:.0f} {ends}{mark}"


def _power_note(cells: Sequence[Cell]) -> list[str]:
    """What a table with several lengths can not show: a fall smaller than this would likely go unseen."""
    scores = [cell for cell in cells if cell.control == MEMORY and cell.unit == RATE]
    if len({cell.length for cell in scores}) < 2:
        return []
    smallest = min(cell.questions for cell in scores)
    drop = smallest_drop(smallest, 0.97)
    if drop > 0.97:
        return [f"n={smallest} is too small to show a fall between lengths."]
    return [f"With n={smallest} a fall from 97 percent is likely seen if it is {100 * drop:.0f} points or more."]
