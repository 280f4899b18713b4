"""Many segments as one batch, as long as none of them writes. Ours; exact.

A gated memory with a threshold is left bit for bit unchanged by a segment that says nothing worth keeping
(:class:`rmt.cells.tokens.TokenMemoryCell`). So segments are read ahead with the memory of now, as if all of
them were such; those before the first that writes have been read rightly, that one too, and those behind it
are read again with the new memory. It is speculative execution with the memory as the register: a wrong guess
costs time, never the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch

from rmt.errors import InputError
from rmt.executors.base import ReadingModel, State
from rmt.segments import Segment


@dataclass(frozen=True)
class Speculative:
    """Reads ahead within aligned chunks of segments of one document.

    A chunk is tried as one batch. Behind a write the next try ends at the next segment that wrote when it was
    last read ahead, for it will likely do so again; it is small at first and doubles with each success, so
    that wrong guesses cannot cost much. A new chunk starts with a full batch, whatever happened before it:
    which segments share a batch follows from the text alone, so that a run that was broken at a border of
    chunks goes on with the very same batches (the rounding of a matrix product depends on the rows beside
    it).

    Attributes:
        batch_segments: segments in a chunk.
        restart: at most so many segments in the try behind a write.
    """

    batch_segments: int = 32
    restart: int = 4
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
                state = self._group(model, group, state)
        return state

    def _group(self, model: ReadingModel, group: list[Segment], state: State) -> State:
        core, at, size = model.core, 0, len(group)
        guess = [False] * len(group)
        while at < len(group):
            end = min(at + size, len(group))
            if True in guess[at:end]:
                end = guess.index(True, at) + 1
            ahead = group[at:end]
            together = Segment(*(torch.cat(t) for t in zip(*((s.ids, s.mask, s.source) for s in ahead), strict=True)))
            before = {name: t.expand(len(ahead), *t.shape[1:]) for name, t in state.items()}
            after = model.cell(core, together, before).state
            wrote = _changed(before, after)
            if True not in wrote:
                at, size = end, 2 * size
                continue
            guess[at:end] = wrote
            first = wrote.index(True)
            state = {name: t[first : first + 1].clone() for name, t in after.items()}
            at, size = at + first + 1, self.restart if first + 1 < len(wrote) else 2 * size
        return state


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
