"""Every number of a page, with its interval and the way to its answers; tables are made of these."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from evals.cells import CONTROLS, MEMORY, Cell, samples_of, tally
from evals.page.collect import Run
from evals.page.compare import documents_of
from evals.page.samples import Samples
from evals.report import short_count
from evals.rows import Row
from evals.stats import bootstrap_p, holm, mcnemar, smallest_drop, smallest_effect


@dataclass(frozen=True)
class Number:
    """A mean score with its 95% interval, as it is written.

    ``questions`` is how many different ones the n answers are to. ``nats`` is whether it is nats a token (lower is
    better) and no rate.
    """

    mean: float
    low: float
    high: float
    n: int
    questions: int
    documents: int
    href: str
    nats: bool

    @property
    def text(self) -> str:
        """Percent with one decimal, or nats with three."""
        return written(self.mean, self.nats)

    @property
    def ends(self) -> str:
        """The interval in brackets."""
        return f"[{written(self.low, self.nats)}, {written(self.high, self.nats)}]"

    @property
    def style(self) -> str:
        """Where the bar of a rate begins, ends and has its mark."""
        return f"--l:{100 * self.low:.1f}%;--h:{100 * self.high:.1f}%;--r:{100 * self.mean:.1f}%"

    @property
    def said(self) -> str:
        """In one line, for a title."""
        unit = " nats" if self.nats else "%"
        return f"{self.text}{unit} {self.ends}, n={self.n}"


@dataclass(frozen=True)
class ResultLine:
    """One task at one length: a number or None for each model, and what so small a sample could show."""

    task: str
    length: int
    numbers: tuple[Number | None, ...]
    power: str


@dataclass(frozen=True)
class ControlLine:
    """One model on one task at one length: its score, its controls, and the test against the zeroed memory."""

    run: int
    task: str
    length: int
    memory: Number
    controls: Mapping[str, Number]
    p_value: float | None
    p_holm: float | None

    @property
    def helps(self) -> bool:
        """Whether the memory is better than a zeroed one beyond luck (corrected p below 0.05)."""
        zeroed = self.controls.get("zeroed")
        if zeroed is None or self.p_holm is None or self.p_holm >= 0.05:
            return False
        return (self.memory.mean < zeroed.mean) if self.memory.nats else (self.memory.mean > zeroed.mean)


class Numbers:
    """All cells of all runs."""

    def __init__(self, runs: Sequence[Run], tasks: Sequence[str], samples: Samples) -> None:
        self.runs, self.tasks = runs, tasks
        self.nats = {row.task for run in runs for row in run.rows if row.scorer == "value"}
        self._found: dict[tuple[int, str, int, str], Number] = {}
        self._rows: list[dict[tuple[str, int], list[Row]]] = []
        for place, run in enumerate(runs):
            self._rows.append({})
            for row in run.rows:
                self._rows[place].setdefault((row.task, row.length), []).append(row)
            for cell in tally(run.rows):
                href = samples.link(place, cell.task, cell.length, cell.control)
                self._found[place, cell.task, cell.length, cell.control] = self.number(cell, href)

    def number(self, cell: Cell, href: str) -> Number:
        """A cell as a number that links to its answers."""
        low, high = cell.interval
        return Number(cell.rate, low, high, cell.n, cell.questions, cell.documents, href, cell.task in self.nats)

    def get(self, run: int, task: str, length: int, control: str = MEMORY) -> Number | None:
        """A number, if there were such questions."""
        return self._found.get((run, task, length, control))

    def lengths(self, task: str) -> list[int]:
        """Rising, over all models; of scores, which a broken run may not have yet where it has controls."""
        return sorted({length for _, name, length, control in self._found if name == task and control == MEMORY})

    @property
    def rates(self) -> list[str]:
        """Tasks whose scores are rates."""
        return [task for task in self.tasks if task not in self.nats and self.lengths(task)]

    def results(self, tasks: Sequence[str]) -> dict[str, list[ResultLine]]:
        """Lines by task, lengths rising."""
        made = {}
        for task in tasks:
            made[task] = [
                ResultLine(task, length, row, self._power(task, row))
                for length in self.lengths(task)
                if any(row := tuple(self.get(run, task, length) for run in range(len(self.runs))))
            ]
        return made

    def controls(self) -> list[ControlLine]:
        """Lines of all models that were asked controls; p-values against the zeroed memory are one Holm family."""
        lines = []
        for task in self.tasks:
            for run in range(len(self.runs)):
                for length in self.lengths(task):
                    score = self.get(run, task, length)
                    found = {name: n for name in CONTROLS if (n := self.get(run, task, length, name))}
                    if score and found:
                        p_value = self._against_zeroed(run, task, length)
                        lines.append(ControlLine(run, task, length, score, found, p_value, None))
        tested = [place for place, line in enumerate(lines) if line.p_value is not None]
        corrected = holm([line.p_value for line in lines if line.p_value is not None])
        for place, p in zip(tested, corrected, strict=True):
            lines[place] = replace(lines[place], p_holm=p)
        return lines

    def _against_zeroed(self, run: int, task: str, length: int) -> float | None:
        """McNemar's exact test where answers are right or wrong, else a bootstrap of the paired differences.

        A bootstrap too where several answers are samples of one question.
        """
        rows = self._rows[run].get((task, length), ())
        zeroed = {(row.digest, row.question): row for row in rows if row.control == "zeroed"}
        scores = [row for row in rows if row.control == MEMORY and (row.digest, row.question) in zeroed]
        pairs = [(row.value, zeroed[row.digest, row.question].value) for row in scores]
        if not pairs:
            return None
        if all(value in (0, 1) for pair in pairs for value in pair) and not samples_of(scores):
            return mcnemar(sum(one > other for one, other in pairs), sum(other > one for one, other in pairs)).p_value
        return bootstrap_p([one - other for one, other in pairs], documents_of(scores))

    def chance(self, task: str) -> float | None:
        """Where all models that know of it agree."""
        found = {run.chance[task] for run in self.runs if task in run.chance}
        return found.pop() if len(found) == 1 else None

    def _power(self, task: str, row: Sequence[Number | None]) -> str:
        """The least fall from the best rate, and the least rise over chance, that the smallest sample would show."""
        there = [number for number in row if number]
        if task in self.nats or not there:
            return ""
        n, best = min(number.questions for number in there), max(number.mean for number in there)
        said = []
        if best > 0:
            drop = smallest_drop(n, min(best, 1.0))
            said.append("no fall" if math.isinf(drop) else f"−{100 * drop:.0f}")
        chance = self.chance(task)
        if chance is not None:
            rise = smallest_effect(n, chance)
            said.append("no rise" if math.isinf(rise) else f"+{100 * rise:.0f} over {100 * chance:.0f}")
        return " / ".join(said)


def written(value: float, nats: bool) -> str:
    """Percent with one decimal, or nats with three."""
    return f"{value:.3f}" if nats else f"{100 * value:.1f}"


def p_text(p: float | None) -> str:
    """Three decimals, never 0."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def name_of(task: str) -> str:
    """A task as people read it."""
    return task.replace("_", " ")


def tokens(length: int) -> str:
    """A length in words; where nothing was read, the problem stands in the question."""
    return f"{short_count(length)} tokens" if length else "0 tokens, all in the prompt"


def signed(value: float, places: int) -> str:
    """With a sign, a minus as long as a plus; what rounds to nothing has none."""
    text = f"{abs(value):.{places}f}"
    return text if not float(text) else ("−" if value < 0 else "+") + text
