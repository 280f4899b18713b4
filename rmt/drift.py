"""How far two models' memories of one document are apart, segment by segment. Knows nothing of what made them differ.

What is rounded in one segment feeds the next: a small error of one pass says little about a thousand segments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch

from rmt.executors import ReadingModel, Sequential
from rmt.executors.base import State
from rmt.segments import Segment


@dataclass(frozen=True)
class Gap:
    """Two memories after a segment.

    Attributes:
        segment: its number, from 0.
        error: |b - a| / max(|a|, |b|) with |.| over all numbers of a memory that are not counts; 0 where both are zero.
        wrote: whether the segment changed a bit of the first model's memory, and of the second's.
    """

    segment: int
    error: float
    wrote: tuple[bool, bool]


def gaps(
    one: ReadingModel, other: ReadingModel, segments: Iterable[Segment], first: State, second: State | None = None
) -> Iterator[Gap]:
    """Read one document with two models, each with its own memory, and compare after every segment.

    In constant memory, segment after segment, without gradient.

    Args:
        one, other: in evaluation mode, of one configuration: models, or what :func:`rmt.executors.writer` gives.
        segments: of one document.
        first: state before it, of the first model.
        second: of the second; None for the same.
    """
    order, states = Sequential(), [first, first if second is None else second]
    stream = iter(segments)
    number = 0
    while some := list(islice(stream, 1)):
        with torch.inference_mode():
            after = [order.read(m, some, state) for m, state in zip((one, other), states, strict=True)]
        changed = [
            any(not torch.equal(t, new[name]) for name, t in old.items())
            for old, new in zip(states, after, strict=True)
        ]
        yield Gap(number, apart(*after), (changed[0], changed[1]))
        states, number = after, number + 1


def apart(one: State, other: State) -> float:
    """The distance of two states over the larger norm, from 0 to 2; nan where one holds a number that is none."""
    a, b = (
        torch.cat([t.double().flatten() for _, t in sorted(state.items()) if t.is_floating_point()])
        for state in (one, other)
    )
    size = torch.maximum(a.norm(), b.norm())
    return float((a - b).norm() / size) if bool(size) else 0.0
