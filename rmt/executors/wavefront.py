"""All layers at work at once, each on a segment of its own: for memory that is local to a layer.

See :mod:`rmt.orders`. As many segments as the model has layers are on their way at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain, islice

from rmt import layers, orders
from rmt.executors.base import ReadingModel, State
from rmt.executors.captured import Record
from rmt.executors.replay import replayed
from rmt.executors.sequential import Sequential
from rmt.executors.side_by_side import each
from rmt.orders import Diagonal
from rmt.segments import Segment
from rmt.stack import stack_of, unlike


@dataclass(frozen=True)
class Wavefront:
    """Runs the pairs of a layer and a segment that are ready as one batch, or side by side on the cores of a CPU.

    Attributes:
        batch_segments: segments handed over at a time. The first and the last few of them find some layers idle, so
            this should be many times the number of layers.
        batched: whether pairs run as one batch, their layers' weights stacked (:mod:`rmt.stack`); else, and where the
            layers are not alike, side by side on threads of one core each, in inference mode.
        least: fewer segments than this are read in order.
        record: where given, how full diagonals are recorded, to be replayed (:mod:`rmt.executors.replay`); only
            ``batched``.
    """

    batch_segments: int = 256
    batched: bool = True
    least: int = 2
    record: Record | None = None
    name: str = "wavefront"
    _runs: dict[tuple[int, int], Diagonal] = field(default_factory=dict, repr=False, compare=False)

    def read(self, model: ReadingModel, segments: Iterable[Segment], state: State) -> State:
        """See :class:`rmt.executors.Executor`.

        Args:
            model: with associative memory.
            segments, state: in order, and what was remembered before.
        """
        stream = iter(segments)
        first = list(islice(stream, self.least))
        if len(first) < self.least:
            return Sequential().read(model, first, state)
        for _, store in orders.wavefront(model.cell, model.core, chain(first, stream), state, self._run(model)):
            after = store
        return after.state()

    def _run(self, model: ReadingModel) -> Diagonal:
        """How this model's diagonals are run; recordings are kept with their model."""
        cell, core = model.cell, model.core
        if not self.batched or unlike(layers.layers_of(core, cell.family)):
            return orders.one_by_one(cell, core, each)
        stack = stack_of(core, cell.family)
        if self.record is None:
            return orders.stacked(cell, stack)
        which = id(cell), id(stack)  # both are kept alive by what was recorded
        if which not in self._runs:
            self._runs[which] = replayed(cell, stack, self.record)
        return self._runs[which]
