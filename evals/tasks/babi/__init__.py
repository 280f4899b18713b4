"""bAbI stories (Weston et al., arXiv 1502.05698): read from the original files, made offline, and solved.

story = make(2, seed=0, index=5)          # tasks 1 to 10, everything from (seed, index)
solve(2, story.facts, story.question)     # reads the sentences alone
stories = load("tasks_1-20_v1-2/en-10k", 2)  # the original files, tasks 1 to 20
"""

from evals.tasks.babi.files import load, parse
from evals.tasks.babi.generate import MADE, make
from evals.tasks.babi.solve import solutions, solve
from evals.tasks.babi.story import Story

__all__ = ["MADE", "Story", "load", "make", "parse", "solutions", "solve"]
