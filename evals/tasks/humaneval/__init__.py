"""HumanEval (Chen et al., arXiv 2107.03374): write the body of a Python function, checked by its tests in a sandbox."""

from evals.tasks.humaneval.task import HumanEval

__all__ = ["HumanEval"]
