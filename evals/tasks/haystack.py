"""Where things stand in a haystack: a stretch of the background, one fact at a fixed place, others around it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evals.tasks.base import Source
from evals.tasks.documents import Insert, place

Fact = tuple[str, np.ndarray]


def check(source: Source, length: int, beyond: int = 0) -> None:
    """Raises ValueError unless the background holds a document of ``length`` tokens and ``beyond`` more."""
    if length < 1:
        raise ValueError(f"length: expected at least 1 token, got {length}; ask for a longer document")
    if len(source.background) < length + beyond:
        raise ValueError(
            f"background: expected at least {length + beyond:,} tokens for a document of {length:,} (text is never "
            f"tiled), got {len(source.background):,}; give more text or ask for a shorter document"
        )


def begin(rng: np.random.Generator, source: Source, length: int) -> int:
    """Where in the background a document begins: anywhere that leaves ``length`` tokens of it."""
    return int(rng.integers(len(source.background) - length + 1))


def offset(depth: float, length: int, size: int) -> int:
    """First token of what is ``size`` tokens long and stands at ``depth`` (0 start, 1 end), to the nearest token."""
    return int(depth * (length - size) + 0.5)


def around(
    rng: np.random.Generator, length: int, fixed: Fact, at: int, others: Sequence[Fact], keep: bool = False
) -> tuple[Insert, ...]:
    """One fact (text, tokens) at token ``at``, the others anywhere on either side of it, none inside another.

    Each of the others chooses a side by the number of places that are free there. ``keep`` marks the others as worth
    remembering too. Raises ValueError where they do not fit.
    """
    text, ids = fixed
    rooms = [at, length - at - len(ids)]
    sides: list[list[Fact]] = [[], []]
    for other in others:
        free = [max(0, room - len(other[1]) + 1) for room in rooms]
        if min(rooms) < 0 or not any(free):
            needed = len(ids) + sum(len(ids) for _, ids in others)
            raise ValueError(
                f"length: expected room for {len(others) + 1} facts ({needed} tokens) around token {at}, got {length}; "
                "ask for longer documents or fewer facts"
            )
        side = int(rng.random() * sum(free) >= free[0])
        sides[side].append(other)
        rooms[side] -= len(other[1])
    if min(rooms) < 0:
        raise ValueError(f"length: expected room for a fact of {len(ids)} tokens, got {length}; ask for longer ones")
    before = place(rng, at, [(*other, keep, False) for other in sides[0]])
    behind = place(rng, length - at - len(ids), [(*other, keep, False) for other in sides[1]])
    shift = at + len(ids)
    return (
        *before,
        Insert(at, text, ids, True),
        *(Insert(insert.offset + shift, insert.text, insert.ids, insert.keep) for insert in behind),
    )
