"""Full-parameter training that does not hold the gradients of all weights at a time, under recurrence too.

Knows nothing of segments and memories: a layer that is called many times before one backward is all it sees.
"""

from efficiency.lomo.rules import AdaLomo, Lomo

__all__ = ["AdaLomo", "Lomo"]
