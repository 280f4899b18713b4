"""What a page says first: whose results, how many, what differs beyond luck, and what so small a sample cannot show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evals.memory_eval import MEMORY
from evals.page.collect import Run
from evals.page.compare import Comparison
from evals.page.figures import CostLine
from evals.page.numbers import ControlLine, Numbers
from evals.page.samples import clean
from evals.report import short_count

_NAMED = 4  # pairs of models named
_SETTING = 90  # characters of a setting


@dataclass(frozen=True)
class Card:
    """One model at the top of the page."""

    run: int
    name: str
    fingerprint: str
    questions: int
    lengths: str
    speed: str
    peak: str
    facts: tuple[tuple[str, str], ...]


def cards(runs: Sequence[Run], costs: Sequence[CostLine]) -> list[Card]:
    """One for each model."""
    made = []
    for place, run in enumerate(runs):
        mine = [line for line in costs if line.run == place]
        longest = max(mine, key=lambda line: line.length, default=None)
        lengths = sorted({row.length for row in run.rows})
        made.append(
            Card(
                place,
                run.name,
                run.fingerprint,
                sum(row.control == MEMORY for row in run.rows),
                _span(lengths),
                f"{longest.speed:,.0f} tokens/s" if longest and longest.speed else "",
                f"{max(line.peak_bytes for line in mine) / 2**30:.2f} GiB" if mine else "",
                tuple(_facts(run)),
            )
        )
    return made


def headline(runs: Sequence[Run], numbers: Numbers) -> str:
    """One line: models, tasks, lengths, questions."""
    questions = sum(row.control == MEMORY for run in runs for row in run.rows)
    lengths = sorted({row.length for run in runs for row in run.rows})
    parts = [_count(len(runs), "model"), _count(len(numbers.tasks), "task"), _reach(lengths)]
    return " · ".join([*parts, f"{questions:,} scored answers"])


def findings(numbers: Numbers, comparisons: Sequence[Comparison], controls: Sequence[ControlLine]) -> list[str]:
    """A few sentences, each of which the tables below bear out."""
    said = []
    if comparisons:
        found = [one for one in comparisons if one.better]
        verb = "show" if len(found) > 1 else "shows"
        text = (
            f"{len(found) or 'None'} of {_count(len(comparisons), 'paired comparison')} of models {verb} a difference "
            "beyond luck (Holm-corrected p < 0.05)"
        )
        said.append(text + _pairs(comparisons))
    tested = [line for line in controls if line.p_holm is not None]
    if tested:
        said.append(
            f"The memory carries the answer (better than a zeroed memory, Holm-corrected p < 0.05) in "
            f"{sum(line.helps for line in tested)} of {_count(len(tested), 'cell')}."
        )
    rates = [number for task in numbers.rates for line in numbers.results([task])[task] for number in line.numbers]
    sizes = [number.questions for number in rates if number]
    if sizes:
        spread = f"{min(sizes):,}" if min(sizes) == max(sizes) else f"{min(sizes):,} to {max(sizes):,}"
        said.append(f"Each rate rests on {spread} questions; the column “could show” says what would go unseen.")
    if any(number and number.questions < number.n for number in rates):
        said.append("Some answers are samples of one question; their intervals and tests are over questions.")
    if any(number and number.documents < number.questions for number in rates):
        said.append("Some questions share a document, which makes their intervals somewhat too narrow.")
    return said


def _pairs(comparisons: Sequence[Comparison]) -> str:
    """Which models differ, and in how many of their comparisons; the clearest pairs first, a few of them."""
    counts: dict[tuple[str, str], int] = {}
    totals: dict[frozenset[str], int] = {}
    for one in comparisons:
        pair = frozenset((one.first, one.second))
        totals[pair] = totals.get(pair, 0) + 1
        if one.better:
            order = (one.better, one.second if one.better == one.first else one.first)
            counts[order] = counts.get(order, 0) + 1
    named = [
        f"{better} over {worse} in {count} of {totals[frozenset((better, worse))]}"
        for (better, worse), count in sorted(counts.items(), key=lambda item: -item[1])
    ]
    rest = [f"and {len(named) - _NAMED} more pairs"] if len(named) > _NAMED else []
    return (": " if named else "") + "; ".join(named[:_NAMED] + rest) + "."


def _facts(run: Run) -> list[tuple[str, str]]:
    """All that is known of a run beyond its numbers, short."""
    known: dict[str, Any] = {}
    if run.segment:
        known["segment"] = f"{run.segment} tokens"
    known.update((key, value) for key, value in run.about.items() if key not in ("fingerprint", "tasks"))
    for settings in run.settings:
        for key, value in settings.items():
            if key == "tasks" and isinstance(value, dict):
                known.update((f"task {task}", chosen) for task, chosen in value.items())
            else:
                known.setdefault(key, value)
    return [(clean(str(key), 40), clean(_plain(value), _SETTING)) for key, value in known.items()]


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={_plain(item)}" for key, item in value.items()) or "default"
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value)
    return str(value)


def _span(lengths: Sequence[int]) -> str:
    first, last = short_count(lengths[0]), short_count(lengths[-1])
    return first if first == last else f"{first} to {last}"


def _reach(lengths: Sequence[int]) -> str:
    return f"{_span(lengths)} tokens" if lengths[-1] else "all in the prompt"


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
