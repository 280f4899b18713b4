"""Many documents side by side: the next segments of all of them as one batch. Exact up to the rounding of a batch.

A document alone gives matrix products of one segment, each waiting for the one before; several documents give
larger ones, and there is nothing between them to wait for. The memory of a segment may be anything with the batch
first: rows of a state are taken out and put in, never looked into.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from jaxtyping import Int

from rmt.errors import InputError
from rmt.executors.base import ReadingModel, State
from rmt.executors.lean import LeanEncoder
from rmt.executors.sequential import Sequential
from rmt.executors.side_by_side import each
from rmt.segments import Segment

Run = Iterable[Int[np.ndarray, " _"]]
SLOTS_A_CORE = 8  # rows of a batch on one core of a CPU; from 4 on gains flatten, and 16 spill its cache
SLOTS_ELSEWHERE = 32  # unmeasured: a GPU wants many more rows than a core does


@dataclass(frozen=True)
class Packed:
    """Reads one document as :class:`rmt.executors.Sequential` does, and many of them side by side.

    Attributes:
        batch_segments: as for a sequential reader, of one document.
        slots: documents that are open at a time; None for 8 a core on a CPU and 32 on anything else.
    """

    batch_segments: int = 32
    slots: int | None = None
    name: str = "packed"

    def __post_init__(self) -> None:
        if self.slots is not None and self.slots < 1:
            raise InputError(f"slots: expected at least 1, got {self.slots}; 8 a core is a good value")

    def read(self, model: ReadingModel, segments: Iterable[Segment], state: State) -> State:
        """See :class:`rmt.executors.Executor`."""
        return Sequential(self.batch_segments).read(model, segments, state)

    def read_many(
        self, model: ReadingModel, runs: Iterable[Run | None], initial: State, width: int
    ) -> Iterator[tuple[int, State]]:
        """The state after each run of segments, in the order in which they end; without gradient.

        A slot takes the next run as soon as its own has ended. Full segments run as one batch without padding; those
        that are shorter (the last of their runs) as one beside it, padded where they differ, which on a CPU costs a
        little less than padding them to full length; each alone where the core is a :class:`LeanEncoder`, which reads
        padding slowly. On a CPU with several cores each has slots of its own (:mod:`rmt.executors.side_by_side`).

        Args:
            model: in evaluation mode.
            runs: token ids of the segments of each document, int64. Asked for one at a time, when there is room, and
                so are the segments. None instead of a run, while another is open, says that there is none for now:
                asked again one segment later.
            initial: the state before anything is read, tensors of shape (1, ...).
            width: tokens of every segment of a run but the last, which may be shorter.

        Yields:
            A run's number, from 0 and without counting None, and its state, tensors of shape (1, ...); that of a run
            without segments is the initial one.

        Raises:
            InputError: a model in training mode.
        """
        if model.training:
            raise InputError("executor: expected a model in evaluation mode, got training mode; call model.eval()")
        device = next(iter(initial.values())).device
        cores = torch.get_num_threads() if device.type == "cpu" else 1
        slots = self.slots or (SLOTS_A_CORE * cores if device.type == "cpu" else SLOTS_ELSEWHERE)
        groups = [_Group({k: t[:0] for k, t in initial.items()}) for _ in range(min(cores, slots))]
        stream, work = _numbered(runs), partial(_step, model, width)
        while True:
            yield from _fill(groups, slots, stream, initial)
            busy = [group for group in groups if group.lanes]
            if not busy:
                return
            for group, state in zip(busy, _run(work, busy), strict=True):
                group.state = state
            for group in busy:
                yield from group.move_on()


@dataclass
class _Lane:
    """A run that is being read: its number, the segments still to come, and the next one."""

    number: int
    coming: Iterator[np.ndarray]
    ids: np.ndarray


@dataclass
class _Group:
    """Runs that share a batch, and their state, a row each."""

    state: State
    lanes: list[_Lane] = field(default_factory=list)

    def add(self, lane: _Lane, initial: State) -> None:
        self.lanes.append(lane)
        self.state = {k: torch.cat([t, initial[k]]) for k, t in self.state.items()}

    def move_on(self) -> list[tuple[int, State]]:
        """Every lane to its next segment; those that have none are taken out, with their states."""
        ended, kept = [], []
        for row, lane in enumerate(self.lanes):
            following = next(lane.coming, None)
            if following is None:
                # Copied outside inference mode, so that what leaves here may enter a training step.
                ended.append((lane.number, {k: t[row : row + 1].clone() for k, t in self.state.items()}))
            else:
                lane.ids = following
                kept.append(row)
        if ended:
            self.lanes = [self.lanes[row] for row in kept]
            self.state = _rows(self.state, kept)
        return ended


def _numbered(runs: Iterable[Run | None]) -> Iterator[tuple[int, Iterator[np.ndarray]] | None]:
    number = 0
    for run in runs:
        if run is None:
            yield None
        else:
            yield number, iter(run)
            number += 1


def _fill(
    groups: list[_Group], slots: int, stream: Iterator[tuple[int, Iterator[np.ndarray]] | None], initial: State
) -> Iterator[tuple[int, State]]:
    """Give free slots a run each, in the group that has fewest; what has no segments has been read."""
    while sum(len(group.lanes) for group in groups) < slots and (found := next(stream, None)) is not None:
        number, coming = found
        first = next(coming, None)
        if first is None:
            yield number, {k: t.clone() for k, t in initial.items()}
        else:
            min(groups, key=lambda group: len(group.lanes)).add(_Lane(number, coming, first), initial)


def _run(work: Callable[[_Group], State], groups: list[_Group]) -> list[State]:
    """Groups side by side, a core each; one alone may have all cores."""
    if len(groups) > 1:
        return each(work, groups)
    with torch.inference_mode():
        return [work(groups[0])]


def _step(model: ReadingModel, width: int, group: _Group) -> State:
    """The states of a group after the next segment of each of its lanes."""
    parts = _parts(model, width, [len(lane.ids) for lane in group.lanes])
    after = []
    for rows in parts:
        before = group.state if len(parts) == 1 else _rows(group.state, rows)
        segment = _segment([group.lanes[row].ids for row in rows], next(iter(before.values())).device)
        after.append(model.cell(model.core, segment, before).state)
    if len(parts) == 1:
        return dict(after[0])
    together = {k: torch.cat([state[k] for state in after]) for k in after[0]}
    places = [row for rows in parts for row in rows]
    return _rows(together, sorted(range(len(places)), key=places.__getitem__))


def _parts(model: ReadingModel, width: int, lengths: Sequence[int]) -> list[list[int]]:
    """Rows that run as one batch: the full ones, and the short ones padded, or each alone where padding is slow."""
    full = [row for row, length in enumerate(lengths) if length == width]
    short = [row for row, length in enumerate(lengths) if length < width]
    if isinstance(model.core, LeanEncoder):
        return [*([full] if full else []), *([row] for row in short)]
    return [rows for rows in (full, short) if rows]


def _rows(state: State, rows: Sequence[int]) -> State:
    """Some rows of a state, copied."""
    return {k: t[torch.tensor(rows, dtype=torch.long, device=t.device)] for k, t in state.items()}


def _segment(rows: Sequence[np.ndarray], device: torch.device) -> Segment:
    """A segment of several documents, padded where their widths differ."""
    lengths = np.array([len(ids) for ids in rows])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.zeros(mask.shape, dtype=np.int64)
    ids[mask] = np.concatenate(rows)
    places = np.where(mask, np.arange(lengths.max()), 0)
    return Segment(*(torch.from_numpy(a).to(device) for a in (ids, mask, places)))
