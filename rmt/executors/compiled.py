"""A segment's step through ``torch.compile``: a way to run a part, under an executor that orders the parts.

Compiling takes a good part of a minute the first time, and seconds in a later process, which finds most of the work in
the cache on disk that torch keeps. So the beginning of a document runs without it, a fixed number of segments: what a
segment is run by follows from its place in the document alone, and a document read in pieces, or by a run that was
broken, has the bits of one read at once.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from rmt.executors.base import Executor, ReadingModel, State
from rmt.executors.lean import LeanEncoder
from rmt.segments import Segment

# Segments at the beginning of a document that run without; it takes so many to win back what compiling costs. Measured
# with llama-rmt in bfloat16 on one core: 2.9 s from the cache, over 0.35 ms that each segment wins (docs/results.md).
LEAST = 8192


@dataclass(frozen=True)
class Compiled:
    """Reads as ``order`` does, with the step of full segments compiled; short ones and padded ones run as they are.

    Attributes:
        order: which segments run when, and which together.
        rows: segments of a batch that is compiled; None for any number, each compiled by itself.
        least: segments at the beginning of a document that run without (:meth:`at`).
        backend: of ``torch.compile``.
    """

    order: Executor
    rows: int | None = None
    least: int = LEAST
    backend: str = "inductor"
    name: str = "compiled"
    _steps: dict[int, Step] = field(default_factory=dict, repr=False, compare=False)

    @property
    def batch_segments(self) -> int:
        """See :class:`rmt.executors.Executor`."""
        return self.order.batch_segments

    def at(self, segment: int) -> Executor:
        """What reads from this segment of a document on, counted from 0."""
        return self if segment >= self.least else self.order

    def read(self, model: ReadingModel, segments: Iterable[Segment], state: State) -> State:
        """See :class:`rmt.executors.Executor`."""
        if (step := self._steps.get(id(model))) is None:
            step = self._steps[id(model)] = Step(model, self.rows, self.backend)
        step.training = model.training
        return self.order.read(step, segments, state)


@dataclass(frozen=True)
class Stepped:
    """What a compiled step gives: the memory after it."""

    state: State


class Step:
    """A model for reading (:class:`rmt.executors.ReadingModel`) whose step is compiled, a shape at a time.

    Args:
        model: what runs else; kept, and left as it is.
        rows, backend: see :class:`Compiled`.

    Attributes:
        seconds: that the first call with each shape took, compiling it.
    """

    def __init__(self, model: ReadingModel, rows: int | None, backend: str) -> None:
        self.model, self.rows, self.training = model, rows, model.training
        self.core: nn.Module = model.core
        self.seconds: dict[tuple[int, ...], float] = {}
        self._lock = Lock()
        # What is written out by hand for oneDNN cannot be compiled; what it stands for can.
        core, cell = (model.core.view if isinstance(model.core, LeanEncoder) else model.core), model.cell

        def step(ids: Tensor, mask: Tensor, source: Tensor, state: State) -> State:
            after: State = cell(core, Segment(ids, mask, source), state).state
            return after

        self._step: Any = torch.compile(step, backend=backend, dynamic=False)

    def cell(self, core: nn.Module, segment: Segment, state: State) -> Any:
        """The step of a segment: compiled, or the model's own."""
        rows, width = segment.ids.shape
        full = width == self.model.cell.config.segment_size and self.rows in (None, rows)
        if not full or not bool(segment.mask.all()):
            return self.model.cell(core, segment, state)
        if (rows, width) not in self.seconds:
            self._compile(segment, state)
        return Stepped(self._step(segment.ids, segment.mask, segment.source, state))

    def _compile(self, segment: Segment, state: State) -> None:
        """The first call with a shape, by one thread at a time; says how long it took."""
        with self._lock:
            shape = tuple(segment.ids.shape)
            if shape in self.seconds:
                return
            start = time.perf_counter()
            self._step(segment.ids, segment.mask, segment.source, state)
            self.seconds[shape] = time.perf_counter() - start
            what = f"{shape[0]} x {shape[1]} tokens on {segment.ids.device.type}"
            print(f"compiled the step of {what} in {self.seconds[shape]:.1f} s", file=sys.stderr, flush=True)


def not_compiled(device: str) -> str:
    """Why nothing can be compiled for a device, as expected and got; empty where it can."""
    if device == "cuda":
        return "" if find_spec("triton") else "Triton to compile with, got no package of that name; install triton"
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        return f"a C++ compiler to compile with, got no {compiler}; install gcc or set CXX"
    return ""
