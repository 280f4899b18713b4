"""One segment after another: right for every cell and every batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rmt.executors.base import ReadingModel, State
from rmt.segments import Segment


@dataclass(frozen=True)
class Sequential:
    """Reads segments in order, each with the memory that the one before left.

    Attributes:
        batch_segments: has no part in the result; a reader hands over so many at a time.
    """

    batch_segments: int = 32
    name: str = "sequential"

    def read(self, model: ReadingModel, segments: Iterable[Segment], state: State) -> State:
        """See :class:`rmt.executors.Executor`."""
        core = model.core
        for segment in segments:
            state = model.cell(core, segment, state).state
        return state
