"""Training and test problems that never meet, and sizes that were never trained on. Knows no task.

In distribution are the sizes a model was trained on, out of distribution greater ones (arXiv 2305.18654, sec. 3.2).
Within a size, whether a problem may be trained on follows from a hash of its text alone: so training data made
anywhere, under any seed, holds no test problem.
"""

from __future__ import annotations

import hashlib

SPLITS = ("all", "train", "test")
SHARE = 10  # one problem in so many is for tests


def held_out(problem: str) -> bool:
    """Whether a problem (its canonical text, such as "12*34") is for tests."""
    return int.from_bytes(hashlib.sha256(problem.encode()).digest()[:8], "big") % SHARE == 0


def belongs(problem: str, split: str) -> bool:
    """Whether a problem is of this split; all are of "all". Raises ValueError on an unknown one."""
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}; name one of these")
    return split == "all" or held_out(problem) == (split == "test")
