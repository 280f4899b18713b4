"""Many segments as one batch, as long as none of them writes. Ours; exact.

A gated memory with a threshold is left bit for bit unchanged by a segment that says nothing worth keeping
(:class:`rmt.cells.tokens.TokenMemoryCell`). So segments are read ahead with the memory of now, as if all of
them were such; those before the first that writes have been read rightly, that one too, and those behind it
are read again with the new memory. It is speculative execution with the memory as the register: a wrong guess
costs time, never the result.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from threading import Condition

import torch

from rmt.errors import InputError
from rmt.executors.base import ReadingModel, State
from rmt.executors.side_by_side import Dropped, Work, lanes
from rmt.segments import Segment


@dataclass(frozen=True)
class Speculative:
    """Reads ahead within aligned chunks of segments of one document.

    As one batch at a time (``part`` is None, for a GPU): a chunk begins with a small try, and tries double as long as
    nothing writes. Behind a write the rest of the chunk is read a few segments at a time, for where one fact stands
    others do, and a try that fails costs time.

    In parts, side by side on the cores of a CPU (:mod:`rmt.executors.side_by_side`): as many parts as there are cores
    are being read at any time, each with the memory of now. When one writes, those behind it are dropped and read
    again. Parts of several segments begin at half size, at the start of a chunk and for the rest of it behind a write.

    A new chunk begins afresh, whatever happened before it: which segments share a batch follows from the text alone,
    not from the cores that are there, so that a run that was broken at a border of chunks goes on with the very same
    batches (the rounding of a matrix product depends on the rows beside it).

    Attributes:
        batch_segments: segments in a chunk.
        first, most: segments in the first try of a chunk, also in those behind a write, and in the largest; they have
            no meaning for parts.
        part: segments of a part, which runs as one batch in inference mode; None for all of a try.
    """

    batch_segments: int = 32
    first: int = 4
    most: int = 16
    part: int | None = None
    name: str = "speculative"

    def read(self, model: ReadingModel, segments: Iterable[Segment], state: State) -> State:
        """See :class:`rmt.executors.Executor`.

        Raises:
            InputError: the model is in training mode, where gates never close, or a batch of several
                documents.
        """
        if model.training:
            raise InputError("executor: expected a model in evaluation mode, got training mode; call model.eval()")
        rows = next(iter(state.values())).shape[0]
        if rows != 1:
            raise InputError(f"executor: expected one document to read ahead in, got {rows}; read one after another")
        stream = iter(segments)
        while chunk := list(islice(stream, self.batch_segments)):
            for group in _equal_widths(chunk):
                state = self._tries(model, group, state) if self.part is None else self._parts(model, group, state)
        return state

    def _tries(self, model: ReadingModel, group: list[Segment], state: State) -> State:
        at, size, most = 0, self.first, self.most
        while at < len(group):
            end = min(at + size, len(group))
            after, wrote = _ahead(model, state, group[at:end])
            if True in wrote:
                state = _row(after, wrote.index(True))
                end, most = at + wrote.index(True) + 1, self.first
            at, size = end, min(2 * size, most)
        return state

    def _parts(self, model: ReadingModel, group: list[Segment], state: State) -> State:
        assert self.part is not None
        parts = Parts(model, group, state, self.part)
        lanes(parts.run, parts.stop)
        return parts.state


class Part(Work):
    """Segments that a thread reads as one batch.

    Attributes:
        start: the first one's number.
        read: memories after, and which of them differ, or what went wrong; None until it has been read.
    """

    def __init__(self, start: int) -> None:
        super().__init__()
        self.start = start
        self.read: tuple[State, list[bool]] | Exception | None = None


class Parts:
    """Parts of a group, shared out by the threads that read them.

    No thread hands them out: to wake one for each part, on cores that are all at work, takes time from those.

    Args:
        model, group, state: segments, and the memory before them.
        size: segments of a part.

    Attributes:
        state: the memory after all parts that were accepted, in order.
    """

    def __init__(self, model: ReadingModel, group: list[Segment], state: State, size: int) -> None:
        self.model, self.group, self.state = model, group, state
        self._half, self._full = max(1, size // 2), size
        self._size = self._half
        self._at = 0
        self._open: deque[Part] = deque()
        self._changed = Condition()

    def run(self) -> None:
        """What a thread does: takes parts as long as there are any."""
        while (taken := self._take()) is not None:
            part, end, state = taken
            read: tuple[State, list[bool]] | Exception
            try:
                with part:
                    read = _ahead(self.model, state, self.group[part.start : end])
            except Dropped:
                continue
            except Exception as error:  # matters only if the part does
                read = error
            self._give(part, read)

    def stop(self) -> None:
        """No parts are taken any more, and those at work end."""
        with self._changed:
            self._at = len(self.group)
            self._drop()
            self._changed.notify_all()

    def _take(self) -> tuple[Part, int, State] | None:
        with self._changed:
            # Where all have been taken, one that writes may yet send some back.
            self._changed.wait_for(lambda: self._at < len(self.group) or not self._open)
            if self._at == len(self.group):
                return None
            part, end = Part(self._at), min(self._at + self._size, len(self.group))
            self._open.append(part)
            self._at, self._size = end, self._full
            return part, end, self.state

    def _give(self, part: Part, read: tuple[State, list[bool]] | Exception) -> None:
        with self._changed:
            part.read = read
            while self._open and (first := self._open[0]).read is not None:
                self._open.popleft()
                if isinstance(first.read, Exception):
                    raise first.read
                after, wrote = first.read
                if True in wrote:
                    self.state = _row(after, wrote.index(True))
                    self._at = first.start + wrote.index(True) + 1
                    self._size = self._full = self._half
                    self._drop()
            self._changed.notify_all()

    def _drop(self) -> None:
        for part in self._open:
            part.dropped = True
        self._open.clear()


def _ahead(model: ReadingModel, state: State, ahead: list[Segment]) -> tuple[State, list[bool]]:
    """Segments read as one batch, each with the same memory: the memories after, and which of them differ."""
    if len(ahead) == 1:
        after = model.cell(model.core, ahead[0], state).state
        return after, _changed(state, after)
    together = Segment(*(torch.cat(t) for t in zip(*((s.ids, s.mask, s.source) for s in ahead), strict=True)))
    before = {name: t.expand(len(ahead), *t.shape[1:]) for name, t in state.items()}
    after = model.cell(model.core, together, before).state
    return after, _changed(before, after)


def _row(state: State, number: int) -> State:
    """One row of a state."""
    return {name: t[number : number + 1].clone() for name, t in state.items()}


def _changed(before: State, after: State) -> list[bool]:
    """For each row, whether any bit differs."""
    changed = torch.stack([(after[name] != t).flatten(1).any(dim=1) for name, t in before.items()]).any(dim=0)
    rows: list[bool] = changed.tolist()
    return rows


def _equal_widths(chunk: list[Segment]) -> Iterator[list[Segment]]:
    """Runs of segments of one width: the last of a document may be shorter and goes alone, unpadded."""
    start = 0
    for end in range(1, len(chunk) + 1):
        if end == len(chunk) or chunk[end].ids.shape[1] != chunk[start].ids.shape[1]:
            yield chunk[start:end]
            start = end
