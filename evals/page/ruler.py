"""RULER's average and effective length of each run that has the benchmark's tasks, and a note of what was left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evals.memory_eval import MEMORY, Cell, tally
from evals.page.collect import Run
from evals.report import short_count
from evals.tasks.registry import GROUPS
from evals.tasks.ruler_scoring import LINE, averages, effective_length


@dataclass(frozen=True)
class RulerLine:
    """One model: mean score in percent by length over all tasks, or over those that need no files (``offline``)."""

    run: int
    offline: bool
    averages: Mapping[int, float]
    effective: str


def effective_lengths(runs: Sequence[Run]) -> list[RulerLine]:
    """A line for each run that has all 13 tasks at some length, or else the 11 offline ones; other lengths are out."""
    lines = []
    for place, run in enumerate(runs):
        cells = [cell for cell in tally(run.rows) if cell.control == MEMORY]
        for group in ("ruler", "ruler-offline"):
            whole = _whole(cells, GROUPS[group])
            if whole:
                means = averages(whole, GROUPS[group])
                lines.append(RulerLine(place, group != "ruler", means, _effective(means)))
                break
    return lines


def _whole(cells: Sequence[Cell], tasks: Sequence[str]) -> list[Cell]:
    """Cells of the lengths at which none of the tasks is missing."""
    mine = [cell for cell in cells if cell.task in tasks]
    lengths = {cell.length for cell in mine}
    complete = {size for size in lengths if len({cell.task for cell in mine if cell.length == size}) == len(tasks)}
    return [cell for cell in mine if cell.length in complete]


def _effective(means: Mapping[int, float]) -> str:
    """As the paper writes it: "< 4k" where the shortest fails, "> 128k" where none does."""
    # A model that is right in less than one of a hundred would be taken for one whose scores are shares.
    found = effective_length(means) if max(means.values()) >= LINE else None
    if found is None:
        return f"< {short_count(min(means))}"
    return f"> {short_count(found)}" if found == max(means) else short_count(found)


def note(lines: Sequence[RulerLine]) -> str:
    """What the averages are over, where that is not the whole benchmark."""
    if not any(line.offline for line in lines):
        return ""
    count, whole = len(GROUPS["ruler-offline"]), len(GROUPS["ruler"])
    return (
        f"Lines marked “{count} tasks” are over the {count} that need no files, without question answering: "
        f"no figures of the benchmark, which has {whole}."
    )
