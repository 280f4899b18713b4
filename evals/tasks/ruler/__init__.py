"""RULER's 13 tasks (Hsieh et al., arXiv 2404.06654), in documents of an exact number of tokens, made as they are read.

Prompts, parameters and scores are the benchmark's (NVIDIA/RULER); its two question-answering tasks need the official
files. What differs is said where it does: lengths are of the document alone, words come from a list of our own, essays
are the user's text, which is not repeated. Scores and the pass line are in ``evals.tasks.ruler_scoring``.
"""

from evals.tasks.ruler.aggregation import CommonWords, FrequentWords
from evals.tasks.ruler.layout import RulerDocument
from evals.tasks.ruler.niah import Niah
from evals.tasks.ruler.qa import QuestionAnswering
from evals.tasks.ruler.tracking import VariableTracking

__all__ = ["CommonWords", "FrequentWords", "Niah", "QuestionAnswering", "RulerDocument", "VariableTracking"]
