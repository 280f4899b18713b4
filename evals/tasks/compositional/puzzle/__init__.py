"""The logic grid puzzle (Einstein's riddle) of "Faith and Fate" (Dziri et al., arXiv 2305.18654)."""

from evals.tasks.compositional.puzzle.task import Puzzle, training

__all__ = ["Puzzle", "training"]
