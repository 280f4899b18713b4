"""Scorers of multiplication and dynamic programming: 1 for the right final answer, and what else an answer shows.

Everything is made of the canonical problem (a row's ``asked``), so a log can be scored again. With the option
"scratchpad" the labels of the computation graph's nodes are added (see ``scratchpads.labelled``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from evals.scorers import Assessed
from evals.tasks.compositional.long_multiplication import LongMultiplication
from evals.tasks.compositional.maximum_sum import NonAdjacent, final_list
from evals.tasks.compositional.scratchpads import final_number, labelled

_TIMES = r"(?:times|multiplied by|by|[x*\u00d7\u00b7]|\\times)"


def multiplication(answered: Any, answers: Sequence[str], asked: str, option: str = "") -> Assessed:
    """1 if the final number (see ``scratchpads.final_number``) is the product.

    Where the text says the problem again ("1 times 7", "1 x 7", "1 * 7"), its numbers are no answer: of a product with
    1 the question alone would be right.

    The detail says what number it was (``said``, None for none) and whether its ``first`` and ``last`` digit are right,
    as models get these right more often than the whole (sec. 3.2.1).
    """
    problem = LongMultiplication.parse(asked)
    again = rf"(?<![\w.,]){problem.x}\s*{_TIMES}\s*{problem.y}(?![\w]|[.,]\d)"
    said = final_number(re.sub(again, "it", str(answered), flags=re.IGNORECASE))
    right = said is not None and str(said) == problem.answer
    detail: dict[str, Any] = {
        "said": said,
        "first": said is not None and str(said)[0] == problem.answer[0],
        "last": said is not None and said >= 0 and str(said)[-1] == problem.answer[-1],
    }
    return Assessed(float(right), {**detail, **_steps(problem, answered, option)})


def dp(answered: Any, answers: Sequence[str], asked: str, option: str = "") -> Assessed:
    """1 if the final list (see ``maximum_sum.final_list``) is the right one.

    The detail says what list it was (``said``, None for none), whether it is ``allowed`` (as long as it must be, of 1
    and 2, no neighbours chosen), and by how much its sum falls ``short`` of the best (None where it is not allowed); an
    allowed one that falls short by 0 and is wrong is not the lexicographically smallest.
    """
    problem = NonAdjacent.parse(asked)
    said = final_list(str(answered))
    total = None if said is None else problem.total(said)
    detail: dict[str, Any] = {
        "said": None if said is None else list(said),
        "allowed": total is not None,
        "short": None if total is None else problem.graph.values["dp[0]"] - total,
    }
    right = said == problem.graph.values["output"]
    return Assessed(float(right), {**detail, **_steps(problem, answered, option)})


def _steps(problem: LongMultiplication | NonAdjacent, answered: Any, option: str) -> dict[str, Any]:
    if option not in ("", "scratchpad"):
        raise ValueError(f"scorer: expected no option or scratchpad, got {option!r}; name one of these")
    return labelled(problem, str(answered)) if option else {}
