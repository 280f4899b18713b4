"""SmoothQuant (arXiv 2211.10438): 8-bit linear layers whose inputs were made easy to round, calibrated on rollouts.

``graph`` knows which norm or layer may carry scales, ``collect`` and ``statistics`` what a model's activations are
like, ``smooth`` computes and folds scales, ``multiply`` is what is left where nothing carries them, ``search`` finds
the best alpha, ``quantize`` does it all.
"""

from efficiency.smoothquant.collect import collect
from efficiency.smoothquant.graph import find_groups
from efficiency.smoothquant.quantize import SKIP, smooth_quantize
from efficiency.smoothquant.report import GroupReport, SmoothReport
from efficiency.smoothquant.statistics import Statistics

__all__ = ["SKIP", "GroupReport", "SmoothReport", "Statistics", "collect", "find_groups", "smooth_quantize"]
