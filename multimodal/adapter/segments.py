"""Pictures of segments: which image belongs to which row and segment, and memory cells that show them to the layers.

An image costs no position: a segment carries its images, and around the backbone's run the cell shows them. That is
inside of what a checkpoint computes again. While text is generated, whose segments are not known before, the picture
stands in the state beside the memory, so that it goes wherever a row goes. Knows nothing of how images become prompts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from multimodal.adapter.picture import Picture, showing
from rmt.cache import Decoder, RMTCache
from rmt.cells import AssociativeMemoryCell, TokenMemoryCell
from rmt.cells.tokens import CellOutput
from rmt.errors import InputError
from rmt.memory import Memory
from rmt.segments import Segment

TOKENS, SEEN = "picture", "pictured"  # names in a state
State = dict[str, Tensor]


@dataclass(frozen=True)
class PicturedSegment(Segment):
    """A segment with images.

    Attributes:
        prompts: of its images.
        rows: which row each image belongs to.
    """

    prompts: Float[Tensor, "images tokens hidden"]
    rows: Int[Tensor, " images"]


@dataclass(frozen=True)
class Album:
    """The images of a batch of documents.

    Attributes:
        prompts: of each image.
        rows: which row each belongs to.
        numbers: which segment of that row, counted from 0 in this call; None where each is seen in all of them.
    """

    prompts: Float[Tensor, "images tokens hidden"]
    rows: Int[Tensor, " images"]
    numbers: Int[Tensor, " images"] | None

    def onto(self, segments: list[Segment]) -> list[Segment]:
        """The segments, those that have images with them.

        Raises:
            InputError: a row or a segment that is not there.
        """
        batch = segments[0].ids.shape[0]
        rows = self.rows.tolist()
        if any(not 0 <= row < batch for row in rows):
            raise InputError(f"image_segments: expected rows from 0 to {batch - 1}, got {rows}; correct them")
        if self.numbers is None:
            return [self._on(segment, list(range(len(rows)))) for segment in segments]
        held = torch.stack([segment.active for segment in segments]).sum(dim=0).tolist()
        of: dict[int, list[int]] = {}
        for image, (row, number) in enumerate(zip(rows, self.numbers.tolist(), strict=True)):
            if not 0 <= number < held[row]:
                raise InputError(
                    f"image_segments: expected segments from 0 to {held[row] - 1} in row {row}, got {number} for image "
                    f"{image}; correct it"
                )
            of.setdefault(number, []).append(image)
        return [self._on(s, of[number]) if number in of else s for number, s in enumerate(segments)]

    def _on(self, segment: Segment, images: list[int]) -> Segment:
        return PicturedSegment(segment.ids, segment.mask, segment.source, self.prompts[images], self.rows[images])


_open: ContextVar[Album | None] = ContextVar("album", default=None)


@contextmanager
def opened(album: Album | None) -> Iterator[None]:
    """Inside, documents that are cut into segments have these images; None for none."""
    token = _open.set(album)
    try:
        yield
    finally:
        _open.reset(token)


def album() -> Album | None:
    """That of the documents which are being read."""
    return _open.get()


def with_picture(memory: Memory, picture: Picture) -> Memory:
    """A memory beside which a picture stands, one for each row."""
    return replace(memory, tensors={**memory.tensors, TOKENS: picture.tokens, SEEN: picture.seen})


def without_picture(memory: Memory) -> Memory:
    """The memory alone."""
    return replace(memory, tensors={k: t for k, t in memory.tensors.items() if k not in (TOKENS, SEEN)})


@dataclass(frozen=True)
class PicturedCache(RMTCache):
    """A cache in whose memory pictures stand beside the memory, one for each row."""

    @classmethod
    def of(cls, cache: RMTCache, picture: Picture) -> PicturedCache:
        """A cache that has read nothing yet, with what its rows look at."""
        held = {field.name: getattr(cache, field.name) for field in fields(cache)}
        return cls(**held | {"memory": with_picture(cache.memory, picture)})

    def flush(self, model: Decoder) -> Memory:
        """The memory after everything read, and no picture; see :meth:`rmt.cache.RMTCache.flush`."""
        return without_picture(super().flush(model))


class _Showing:
    """What cells with pictures have in common; stands before a cell among the bases of a class."""

    def forward(self, backbone: nn.Module, segment: Segment, state: State, write: bool = True) -> CellOutput:
        """Read one segment, its pictures shown, or else that of the state; arguments as of the cell."""
        bare, beside = _apart(state)
        picture = _of_state(beside)
        if isinstance(segment, PicturedSegment):
            picture = Picture.of(segment.prompts, segment.rows, segment.ids.shape[0])
        cell: Any = super()
        with showing(picture):
            out: CellOutput = cell.forward(backbone, segment, bare, write)
        return replace(out, state=out.state | beside)

    def open(self, backbone: nn.Module, state: State, memory: Tensor, **inputs: Any) -> Tensor:
        """Last hidden states of an open segment, the picture of the state shown; arguments as of the cell."""
        bare, beside = _apart(state)
        cell: Any = super()
        with showing(_of_state(beside)):
            out: Tensor = cell.open(backbone, bare, memory, **inputs)
        return out


class PicturedTokenMemoryCell(_Showing, TokenMemoryCell):
    """Memory tokens, and pictures that stand in no position."""


class PicturedAssociativeMemoryCell(_Showing, AssociativeMemoryCell):
    """Associative memory, and pictures that stand in no position."""


def _apart(state: State) -> tuple[State, State]:
    """The memory, and what stands beside it."""
    beside = {name: state[name] for name in (TOKENS, SEEN) if name in state}
    return {name: t for name, t in state.items() if name not in beside}, beside


def _of_state(beside: State) -> Picture | None:
    return Picture(beside[TOKENS], beside[SEEN]) if beside else None
