"""The loop over segments, and how gradients flow through it. Knows nothing of cells, heads or losses.

Exact gradients in constant space: with ``checkpointed`` each segment is a non-reentrant checkpoint whose
outputs are the next memory and what the step emits (a loss, a pooled vector), so between segments only
memories and token ids stay alive. Memories that are large themselves are kept at few borders (``nested``): a
document is parts, each a checkpoint that is parts again, so unequal that with ``k`` memories kept besides the first
and each segment computed again ``r`` times at most, documents of up to ``binomial(k + r, k)`` segments train: 4
memories and 4 times for 70 segments. No split does better (Griewank and Walther, Algorithm 799: revolve, ACM TOMS 26,
2000).
Truncation is by value: a row whose remaining segments are a multiple of the depth gets its memory detached, so
the loss at the end of a document sees exactly ``depth`` segments, and nothing beyond.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from math import comb

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rmt.segments import Segment, remaining

State = dict[str, Tensor]
Emit = dict[str, Tensor]
Step = Callable[[Segment, State], tuple[State, Emit]]

# Memories that nested checkpoints keep at least: a document of four segments keeps as many in any case.
LEAST_KEPT = 4


def run(
    step: Step,
    segments: list[Segment],
    state: State,
    *,
    bptt_depth: int | None = None,
    checkpointed: bool = False,
    every_segment_counts: bool = True,
    nested: bool = False,
) -> Iterator[tuple[State, Emit]]:
    """Run ``step`` over the segments in order, yielding the memory after each and what it emitted.

    With ``nested`` the memory is yielded behind the last segment only, empty before.

    Args:
        step: pure function of a segment and a memory.
        segments: of a batch of documents, from :func:`rmt.segments.split`.
        state: the memory before the first.
        bptt_depth: segments that a gradient passes through, counted from the end of each document; None for
            all. A document no longer than the depth is not truncated: gradient reaches the memory before the
            first segment, so that learned memory tokens train. Detach a memory that was passed in to stop it
            there.
        checkpointed: recompute each segment's activations in backward. Random state and autocast are
            restored, so dropout and mixed precision are those of the first pass.
        every_segment_counts: whether a loss hangs on each segment. Where only the last does, segments that no
            gradient can reach are run without a graph.
        nested: whether ``checkpointed`` is to save memories too, and computes segments more than twice for it.
    """
    left = remaining(segments)
    grad = torch.is_grad_enabled()
    if nested and checkpointed and grad:
        start = 0
        while bptt_depth is not None and not every_segment_counts and bool((left[start] > bptt_depth).all()):
            with torch.no_grad():
                state, emit = step(segments[start], state)
            yield {}, emit
            start += 1
        yield from _nested(step, segments[start:], borders(segments, bptt_depth)[start:], state)
        return
    for number, (segment, border) in enumerate(zip(segments, borders(segments, bptt_depth), strict=True)):
        reachable = True
        if border is not None:
            state = {name: cut(t, border) for name, t in state.items()}
        if bptt_depth is not None and grad:
            reachable = every_segment_counts or not bool((left[number] > bptt_depth).all())
        with torch.set_grad_enabled(grad and reachable):
            if checkpointed and torch.is_grad_enabled():
                state, emit = checkpoint(step, segment, state, use_reentrant=False, preserve_rng_state=True)
            else:
                state, emit = step(segment, state)
        yield state, emit


def _nested(
    step: Step, segments: list[Segment], cuts: list[Tensor | None], state: State
) -> Iterator[tuple[State, Emit]]:
    """Checkpoints of checkpoints; see the module. ``cuts``: rows whose memory is cut before each segment."""

    def part(start: int, stop: int, kept: int, *tensors: Tensor) -> tuple[State, list[Emit]]:
        state = dict(zip(names, tensors, strict=True))
        if stop - start == 1:
            border = cuts[start]
            if border is not None:
                state = {name: cut(t, border) for name, t in state.items()}
            state, emit = step(segments[start], state)
            return state, [emit]
        emits: list[Emit] = []
        for size, some_kept in parts(stop - start, kept):
            # Tensors one by one: those inside a dictionary an outer checkpoint would not see, and keep.
            tensors, end = tuple(state[name] for name in names), start + size
            # The last one's activations are needed first, as soon as they have been made.
            again = end < stop or stop == len(segments)
            state, some = (
                checkpoint(part, start, end, some_kept, *tensors, use_reentrant=False)
                if again
                else part(start, end, some_kept, *tensors)
            )
            start, emits = end, emits + some
        return state, emits

    names = tuple(state)
    state, emits = part(0, len(segments), memories_kept(len(segments)), *state.values())
    for number, emit in enumerate(emits):
        yield (state if number == len(emits) - 1 else {}), emit


def memories_kept(segments: int) -> int:
    """How many memories nested checkpoints keep at a time: as many as times that a segment is computed again."""
    return next(kept for kept in count(LEAST_KEPT) if comb(2 * kept, kept) >= segments)


def parts(segments: int, kept: int) -> list[tuple[int, int]]:
    """The parts of a checkpoint of more than one segment, in order: segments, and memories that each may keep.

    Args:
        segments: at least 2.
        kept: memories besides that before the first part, at least 1.
    """
    times = next(r for r in count(1) if comb(kept + r, kept) >= segments)
    found: list[tuple[int, int]] = []
    # Behind each memory fewer remain, and the last segment, behind all, needs none.
    for fewer in range(kept + 1):
        size = min(segments, comb(fewer + times - 1, fewer))
        if size:
            found.insert(0, (size, max(1, fewer)))
        segments -= size
    return found


def borders(segments: list[Segment], bptt_depth: int | None) -> list[Tensor | None]:
    """For each segment the rows whose memory is cut before it, None where none is; see :func:`run`."""
    if bptt_depth is None or not torch.is_grad_enabled():
        return [None] * len(segments)
    left = remaining(segments)
    return [None, *((count % bptt_depth == 0) & (count > 0) for count in left[1:])]


def cut(tensor: Tensor, rows: Tensor) -> Tensor:
    """``tensor`` with no gradient through the rows (first dimension) where ``rows`` is true."""
    if not tensor.requires_grad or not bool(rows.any()):
        return tensor
    if bool(rows.all()):
        return tensor.detach()
    return torch.where(rows.view(-1, *[1] * (tensor.dim() - 1)), tensor.detach(), tensor)
