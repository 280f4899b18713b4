"""Are emergent abilities a mirage of the metric? (Schaeffer, Miranda and Koyejo, arXiv 2304.15004)

The answers of a family of models of growing size under several metrics, with intervals and the resolution floor 1/n;
the emergence score; exact match predicted as p^L; tables and pictures::

    family = load_family(["out/family/1m", "out/family/4m", "out/family/16m"])
    print(table(family, "arithmetic"))
    draw_family(family, "emergence.png")

matplotlib is imported when a picture is drawn.
"""

from evals.emergence.curves import Point, curve, curves
from evals.emergence.family import METRICS, Family, Member, Metric, load_family
from evals.emergence.figures import draw_family, draw_sizes
from evals.emergence.predict import Prediction, SizePoint, by_size, power_law, predict, predictions
from evals.emergence.score import Emergence, emergence, emergence_score
from evals.emergence.tables import score_of, size_table, table

__all__ = [
    "METRICS",
    "Emergence",
    "Family",
    "Member",
    "Metric",
    "Point",
    "Prediction",
    "SizePoint",
    "by_size",
    "curve",
    "curves",
    "draw_family",
    "draw_sizes",
    "emergence",
    "emergence_score",
    "load_family",
    "power_law",
    "predict",
    "predictions",
    "score_of",
    "size_table",
    "table",
]
