"""The loop over segments, and how gradients flow through it. Knows nothing of cells, heads or losses.

Exact gradients in constant space: with ``checkpointed`` each segment is a non-reentrant checkpoint whose
outputs are the next memory and what the step emits (a loss, a pooled vector), so between segments only
memories and token ids stay alive. Truncation is by value: a row whose remaining segments are a multiple of
the depth gets its memory detached, so the loss at the end of a document sees exactly ``depth`` segments, and
nothing beyond.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rmt.segments import Segment, remaining

State = dict[str, Tensor]
Emit = dict[str, Tensor]
Step = Callable[[Segment, State], tuple[State, Emit]]


def run(
    step: Step,
    segments: list[Segment],
    state: State,
    *,
    bptt_depth: int | None = None,
    checkpointed: bool = False,
    every_segment_counts: bool = True,
) -> Iterator[tuple[State, Emit]]:
    """Run ``step`` over the segments in order, yielding the memory after each and what it emitted.

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
    """
    left = remaining(segments)
    grad = torch.is_grad_enabled()
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
