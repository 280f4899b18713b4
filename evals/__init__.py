"""Evaluations that say how much a memory holds, and how sure that is.

Scores any model behind the protocols of ``evals.model``; knows nothing of how one is built::

    cells = run(model, ["paper", "qa1"], source, lengths=[4_000, 64_000], n=32, folder="out/qa")
    print(table(cells))

Tasks are in ``evals.tasks``, by name in ``evals.tasks.registry``; pictures in ``evals.plots``, which asks for
matplotlib when it draws.
"""

from evals.memory_eval import CONTROLS, MEMORY, Cell, Progress, evaluate, paired, tally
from evals.model import Document, MemoryModel, Model, Question, Score, channel_order
from evals.report import table, to_json
from evals.rows import Row, load_header, load_rows
from evals.runner import run
from evals.stats import Interval, Proportion, bootstrap, mcnemar, smallest_drop, smallest_effect, student, wilson

__all__ = [
    "CONTROLS",
    "MEMORY",
    "Cell",
    "Document",
    "Interval",
    "MemoryModel",
    "Model",
    "Progress",
    "Proportion",
    "Question",
    "Row",
    "Score",
    "bootstrap",
    "channel_order",
    "evaluate",
    "load_header",
    "load_rows",
    "mcnemar",
    "paired",
    "run",
    "smallest_drop",
    "smallest_effect",
    "student",
    "table",
    "tally",
    "to_json",
    "wilson",
]
