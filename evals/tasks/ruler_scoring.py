"""RULER's scores, its pass line and its averages (Hsieh et al., arXiv 2404.06654; NVIDIA/RULER, scripts/eval).

Both scores are recall by containment: an answer is searched in what was said, whatever else was said. Who names every
number of the document, or repeats all of it, scores 1. That is the benchmark's choice, and its figures are only
comparable under it; where it matters, look at the rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evals.memory_eval import MEMORY, Cell
from evals.tasks.registry import GROUPS

LINE = 85.6  # per cent: Llama-2-7B-chat at 4k, the paper's threshold


def string_match_all(answered: Any, answers: Sequence[str], asked: str = "") -> float:
    """Share of the answers that what was said contains, whatever its case: all tasks but qa."""
    said = _plain(answered)
    return sum(answer.lower() in said for answer in answers) / len(answers)


def string_match_part(answered: Any, answers: Sequence[str], asked: str = "") -> float:
    """1 if what was said contains one of the answers, whatever its case: qa_1 and qa_2."""
    said = _plain(answered)
    return float(any(answer.lower() in said for answer in answers))


def _plain(answered: Any) -> str:
    """As the benchmark cleans predictions before it scores them."""
    return re.sub(r"[\x00-\x1f]", "\n", str(answered).strip()).strip().lower()


def averages(cells: Iterable[Cell], tasks: Sequence[str] = GROUPS["ruler"]) -> dict[int, float]:
    """Mean score of ``tasks`` in per cent at each length, each task weighing the same; controls are left out.

    Raises ValueError where a length misses one of the tasks: the mean of others is not the benchmark's.
    """
    rates: dict[int, dict[str, float]] = {}
    for cell in cells:
        if cell.control == MEMORY and cell.task in tasks:
            rates.setdefault(cell.length, {})[cell.task] = cell.rate
    for length, known in rates.items():
        missing = [task for task in tasks if task not in known]
        if missing:
            raise ValueError(
                f"averages: expected cells of {len(tasks)} tasks at {length} tokens, got none of {', '.join(missing)}; "
                "run them, or name the tasks there are (GROUPS['ruler-offline'] needs no files)"
            )
    return {length: 100 * sum(known.values()) / len(known) for length, known in sorted(rates.items())}


def effective_length(
    scores: Mapping[int, float] | Iterable[Cell], line: float = LINE, tasks: Sequence[str] = GROUPS["ruler"]
) -> int | None:
    """The longest length at which the average, there and at every shorter length, reaches the line (section 4).

    Args:
        scores: cells of a run, or per cent by length (tokens).
        line: per cent.
        tasks: whose average it is, where cells are given.

    Returns:
        A length in tokens; None where the shortest fails. A run that never fails gives its longest length, and the
        paper then writes "> 128k".
    """
    effective = None
    for length, average in sorted(_percent(scores, tasks).items()):
        if average < line:
            break
        effective = length
    return effective


def weighted_averages(
    scores: Mapping[int, float] | Iterable[Cell], tasks: Sequence[str] = GROUPS["ruler"]
) -> tuple[float, float]:
    """wAvg. (inc) and wAvg. (dec) in per cent: weights 1 to n by rising length, and n to 1.

    Lengths are ordered, not weighed by their tokens: the paper's six double each time. ValueError on no scores.
    """
    ordered = [average for _, average in sorted(_percent(scores, tasks).items())]
    total = len(ordered) * (len(ordered) + 1) / 2
    rising = sum(weight * average for weight, average in enumerate(ordered, start=1)) / total
    falling = sum(weight * average for weight, average in enumerate(reversed(ordered), start=1)) / total
    return rising, falling


def _percent(scores: Mapping[int, float] | Iterable[Cell], tasks: Sequence[str]) -> Mapping[int, float]:
    given = scores if isinstance(scores, Mapping) else averages(scores, tasks)
    if not given:
        raise ValueError("scores: expected at least one length, got none; give cells of the tasks, or per cent")
    if isinstance(scores, Mapping) and 0 < max(given.values()) <= 1:  # of cells they are per cent, however low
        raise ValueError(f"scores: expected per cent, got {max(given.values())} at most; multiply shares by 100")
    return given
