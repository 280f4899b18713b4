"""Evaluations that say how much a memory holds, and how sure that is.

Scores any model behind the protocol of ``evals.model``; knows nothing of how one is built::

    cells = evaluate(model, documents, log="rows.jsonl", settings={"seed": 0})
    print(table(cells))

Pictures are in ``evals.plots``, which asks for matplotlib when it draws; tasks are in ``evals.tasks``.
"""

from evals.memory_eval import CONTROLS, MEMORY, Cell, Progress, evaluate, paired, tally
from evals.model import Document, MemoryModel, Question, channel_order
from evals.report import table, to_json
from evals.rows import Row, load_rows
from evals.stats import Interval, Proportion, bootstrap, mcnemar, smallest_drop, smallest_effect, student, wilson

__all__ = [
    "CONTROLS",
    "MEMORY",
    "Cell",
    "Document",
    "Interval",
    "MemoryModel",
    "Progress",
    "Proportion",
    "Question",
    "Row",
    "bootstrap",
    "channel_order",
    "evaluate",
    "load_rows",
    "mcnemar",
    "paired",
    "smallest_drop",
    "smallest_effect",
    "student",
    "table",
    "tally",
    "to_json",
    "wilson",
]
