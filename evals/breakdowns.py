"""What a run says beyond the mean of a score: tables by size, by verdict, by metric, each task's own.

A task whose rows have more to say names a function here; it gets the rows of one task and returns tables. Commands
print them, ``results.json`` holds them, and the page shows them. Knows no model and no document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module

from evals.memory_eval import MEMORY
from evals.rows import Row
from evals.stats import Interval


@dataclass(frozen=True)
class Estimate:
    """A number with its interval (None where there is none to speak of) and how many cases it is of."""

    value: float
    interval: Interval | None = None
    n: int | None = None
    percent: bool = True


Entry = str | int | Estimate | None


@dataclass(frozen=True)
class Breakdown:
    """A table.

    Attributes:
        task: whose rows it is made of.
        title: what it shows.
        columns: their heads; the first ones name a line.
        lines: entries, as many as there are columns. None is an empty one (nothing to estimate).
        note: what a reader must know of it, in a sentence or two.
    """

    task: str
    title: str
    columns: tuple[str, ...]
    lines: tuple[tuple[Entry, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        assert all(len(line) == len(self.columns) for line in self.lines), self.title


# Name of a task to "module:function" of its rows (of all lengths and controls).
BREAKDOWNS: dict[str, str] = {
    "humaneval": "evals.tasks.humaneval.passes:tables",
    "corr2cause": "evals.tasks.corr2cause.tables:tables",
    "multiplication": "evals.tasks.compositional.tables:tables",
    "dp": "evals.tasks.compositional.tables:tables",
    "puzzle": "evals.tasks.compositional.puzzle.tables:puzzle",
    "arithmetic": "evals.tasks.emergence.breakdown:tables",
    "modified_arithmetic": "evals.tasks.emergence.breakdown:tables",
    "unscramble": "evals.tasks.emergence.breakdown:tables",
    "modular_sums": "evals.tasks.emergence.breakdown:tables",
    "copying": "evals.tasks.emergence.breakdown:tables",
    "image_needle": "evals.tasks.images.tables:tables",
    "image_tagged": "evals.tasks.images.tables:tables",
    "image_counting": "evals.tasks.images.tables:counting",
    "image_unanswerable": "evals.tasks.images.tables:unanswerable",
    "image_open": "evals.tasks.images.tables:free",
}

Maker = Callable[[Sequence[Row]], Sequence[Breakdown]]


def breakdowns(rows: Iterable[Row]) -> list[Breakdown]:
    """All tables of all tasks in ``rows``, in the order in which tasks appear."""
    tasks: dict[str, list[Row]] = {}
    for row in rows:
        tasks.setdefault(row.task, []).append(row)
    found: list[Breakdown] = []
    for task, own in tasks.items():
        if task in BREAKDOWNS:
            module, _, function = BREAKDOWNS[task].partition(":")
            found += getattr(import_module(module), function)(own)
    return found


def of_memory(rows: Iterable[Row]) -> dict[int, list[Row]]:
    """The rows of the score itself, controls left out, by length."""
    lengths: dict[int, list[Row]] = {}
    for row in rows:
        if row.control == MEMORY:
            lengths.setdefault(row.length, []).append(row)
    return dict(sorted(lengths.items()))
