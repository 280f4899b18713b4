"""Corr2Cause (Jin et al., arXiv 2306.05836): does a causal relation follow from all the correlations there are?

``graphs.py`` directed acyclic graphs on bit masks; ``relations.py`` the six relations; ``classes.py`` Markov
equivalence classes and what they entail; ``released.py`` the same with the published data's errors; ``words.py`` what
is said of a class; ``solve.py`` a second solver, from the words, on networkx; ``files.py`` published files; ``task.py``
the task; ``scoring.py`` and ``tables.py`` what answers are worth.
"""

from evals.tasks.corr2cause.task import Corr2Cause

__all__ = ["Corr2Cause"]
