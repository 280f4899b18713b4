"""Where the evidence of an answer stood: depth, distance in tokens, distance in updates of the memory.

    grid = by_depth(rows, depths=11)          # a heat map: one Bin for each length and depth
    curve = by_updates(rows, segment=499)     # one Bin for each distance, all lengths together

Pure functions of rows and a segment size; knows nothing of models, files or pictures. Where an answer needs several
facts, the first one counts, because a memory must hold it longest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from evals.memory_eval import MEMORY, Cell, tally
from evals.rows import Row
from evals.stats import Interval


@dataclass(frozen=True)
class Position:
    """Where the evidence of one answer stood in its document.

    Attributes:
        depth: in [0, 1], start / (length - tokens of the evidence): 0 at the start, 1 where nothing follows.
        tokens: from the end of the evidence to the end of the document.
        updates: how often the memory is written after the segment in which the evidence ends.
        crosses: whether a segment border cuts the evidence (any range of it).
    """

    depth: float
    tokens: int
    updates: int
    crosses: bool


@dataclass(frozen=True)
class Bin:
    """Rows that belong together, and their score; ``low`` <= place < ``high``.

    Attributes:
        task, control: as in rows.
        length: tokens of the documents; None where all lengths stand together.
        low, high: what the bin reaches over: depth, tokens or updates. Behind the last edge ``high`` is infinite.
        place: where to draw it: a depth of the grid, else ``low``.
        rows: the rows themselves, so that a number can be followed to its samples.
    """

    task: str
    control: str
    length: int | None
    low: float
    high: float
    place: float
    rows: tuple[Row, ...]

    @property
    def cell(self) -> Cell:
        """The score with its interval, as an evaluation gives it; length 0 where all stand together."""
        (cell,) = tally(replace(row, length=self.length or 0) for row in self.rows)
        return cell

    @property
    def n(self) -> int:
        """Answers in it."""
        return len(self.rows)

    @property
    def rate(self) -> float:
        """The mean score."""
        return self.cell.rate

    @property
    def interval(self) -> Interval:
        """95%: Wilson's for rights and wrongs, a bootstrap of the mean for other scores."""
        return self.cell.interval


def depth(evidence: tuple[int, int], length: int) -> float:
    """start / (length - tokens of the evidence), in [0, 1]; 0 for evidence that is the whole document.

    Raises ValueError on a range that is empty or not inside the document.
    """
    start, stop = _checked(evidence, length)
    room = length - (stop - start)
    return start / room if room else 0.0


def position(row: Row, segment: int) -> Position | None:
    """Where a row's evidence stood, for a memory written every ``segment`` tokens; None for a row without evidence.

    A document of ``length`` tokens is ceil(length / segment) segments, the last one shorter. The question is not a
    segment of it. Raises ValueError on a segment below 1 or evidence outside the document.
    """
    if segment < 1:
        raise ValueError(f"segment: expected at least 1 token, got {segment}; give the model's segment size")
    if not row.evidence:
        return None
    ranges = [_checked(evidence, row.length) for evidence in row.evidence]
    first = min(ranges)
    last = (row.length - 1) // segment
    return Position(
        depth(first, row.length),
        row.length - first[1],
        last - (first[1] - 1) // segment,
        any(start // segment != (stop - 1) // segment for start, stop in ranges),
    )


def by_depth(rows: Iterable[Row], depths: int = 11, control: str = MEMORY) -> list[Bin]:
    """A bin for each task, length and depth: of ``depths`` depths from 0 to 1, each row goes to the nearest.

    Rows without evidence, and depths where nothing stands, are left out. Raises ValueError on fewer than 2 depths.
    """
    if depths < 2:
        raise ValueError(f"depths: expected at least 2, from 0 to 1, got {depths}; 11 makes steps of a tenth")
    steps = depths - 1

    def edges(row: Row) -> tuple[float, float, float]:
        near = math.floor(depth(min(row.evidence), row.length) * steps + 0.5)
        return max(0.0, (near - 0.5) / steps), min(1.0, (near + 0.5) / steps), near / steps

    return _bins(rows, control, edges, pooled=False)


def by_tokens(
    rows: Iterable[Row], edges: Sequence[int] | None = None, control: str = MEMORY, pooled: bool = True
) -> list[Bin]:
    """A bin for each task and distance in tokens from the end of the evidence to that of the document.

    Args:
        rows: of one model.
        edges: where bins begin, rising from 0; None for 0, 1, 2, 4, 8 and so on.
        control: which rows.
        pooled: all lengths together; else a bin for each.
    """
    return _by_distance(rows, lambda row: row.length - min(row.evidence)[1], edges, control, pooled)


def by_updates(
    rows: Iterable[Row],
    segment: int,
    edges: Sequence[int] | None = None,
    control: str = MEMORY,
    pooled: bool = True,
) -> list[Bin]:
    """As ``by_tokens``, by how often the memory was written since the segment in which the evidence ended."""

    def updates(row: Row) -> int:
        where = position(row, segment)
        assert where is not None
        return where.updates

    return _by_distance(rows, updates, edges, control, pooled)


def by_border(rows: Iterable[Row], segment: int, control: str = MEMORY, pooled: bool = True) -> list[Bin]:
    """Two bins for each task: evidence inside one segment (``place`` 0) and evidence that a border cuts (1)."""

    def edges(row: Row) -> tuple[float, float, float]:
        where = position(row, segment)
        assert where is not None
        return where.crosses, where.crosses + 1, where.crosses

    return _bins(rows, control, edges, pooled)


def _by_distance(
    rows: Iterable[Row], distance: Callable[[Row], int], edges: Sequence[int] | None, control: str, pooled: bool
) -> list[Bin]:
    if edges is not None and (list(edges) != sorted(set(edges)) or not edges or edges[0] != 0):
        raise ValueError(f"edges: expected numbers that rise from 0, got {list(edges)}; begin with 0")

    def reach(row: Row) -> tuple[float, float, float]:
        far = distance(row)
        if edges is None:
            low = 1 << far.bit_length() >> 1
            return low, max(1, 2 * low), low
        number = sum(edge <= far for edge in edges)
        return edges[number - 1], edges[number] if number < len(edges) else math.inf, edges[number - 1]

    return _bins(rows, control, reach, pooled)


def _bins(
    rows: Iterable[Row], control: str, edges: Callable[[Row], tuple[float, float, float]], pooled: bool
) -> list[Bin]:
    """Bins by task in order of appearance, then length, then place; of rows with evidence alone."""
    groups: dict[tuple[str, int | None, float, float, float], list[Row]] = {}
    for row in rows:
        if row.control == control and row.evidence:
            groups.setdefault((row.task, None if pooled else row.length, *edges(row)), []).append(row)
    tasks = list(dict.fromkeys(task for task, *_ in groups))
    made = [
        Bin(task, control, length, low, high, place, tuple(group))
        for (task, length, low, high, place), group in groups.items()
    ]
    return sorted(made, key=lambda made: (tasks.index(made.task), made.length or 0, made.place))


def _checked(evidence: tuple[int, int], length: int) -> tuple[int, int]:
    start, stop = evidence
    if not 0 <= start < stop <= length:
        raise ValueError(f"evidence: expected a range inside 0 to {length}, got {start} to {stop}; see how it was made")
    return start, stop
