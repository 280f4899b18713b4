"""Checkpoints within checkpoints: the gradients of none, few memories at a time, no more passes than it takes."""

from __future__ import annotations

from functools import cache
from itertools import count as upwards
from math import comb

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from rmt.recurrence import Emit, State, memories_kept, parts, run
from rmt.segments import Segment, split

from .tiny import VOCAB


@pytest.mark.parametrize("depth", [None, 17])
@pytest.mark.parametrize("count", [2, 5, 16, 71])
def test_nested_checkpoints_give_the_gradients_of_none(count: int, depth: int | None) -> None:
    """Four levels of them at 71 segments, and rows that end early."""
    mask = torch.arange(count)[None] < torch.tensor([count, count - 1, 1])[:, None]
    segments = split(torch.arange(3 * count).view(3, count) % VOCAB, mask, 1)
    words, weight = torch.randn(VOCAB, 4, requires_grad=True), torch.randn(4, 4)
    start = torch.randn(3, 1, 4, requires_grad=True)
    passes = 0

    def step(segment: Segment, state: State) -> tuple[State, Emit]:
        nonlocal passes
        passes += 1
        new = torch.tanh(state["tokens"] @ weight + words[segment.ids])
        kept = torch.where(segment.active[:, None, None], new, state["tokens"])
        return {"tokens": kept}, {"out": kept.square().sum(dim=(1, 2))}

    found = []
    for nested in (False, True):
        passes = 0
        outs = list(run(step, segments, {"tokens": start}, bptt_depth=depth, checkpointed=nested, nested=nested))
        loss = outs[-1][0]["tokens"].sum() + sum(emit["out"].square().sum() for _, emit in outs)
        found.append((loss, *torch.autograd.grad(loss, [words, start])))
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert passes <= (1 + memories_kept(count)) * count


@given(st.integers(2, 3000), st.integers(1, 9))
def test_parts_keep_what_they_may_and_compute_again_as_often_as_they_must(segments: int, kept: int) -> None:
    """Against the definition: memories that are there at once, and times that a segment is computed."""

    @cache
    def walk(segments: int, kept: int) -> tuple[int, int]:
        if segments == 1:
            return 0, 0
        found = parts(segments, kept)
        assert sum(size for size, _ in found) == segments
        deepest = [walk(*part) for part in found]
        # Of the part at work, the memories before it and before its predecessors are there, the first not counted.
        return max(n + held for n, (held, _) in enumerate(deepest)), 1 + max(again for _, again in deepest)

    times = next(r for r in upwards(1) if comb(kept + r, kept) >= segments)
    assume(times < 30)
    held, again = walk(segments, kept)
    assert held <= kept
    assert again == times


def test_memories_kept_grow_with_the_logarithm() -> None:
    assert [memories_kept(n) for n in (1, 4, 64, 70, 71, 252, 924, 10_000)] == [4, 4, 4, 4, 5, 5, 6, 8]
