"""Which gates are asked to stay shut in training."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from rmt.models.base import gate_penalty
from rmt.segments import split

from ..tiny import causal, classifier, content

LOGITS = torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.0, -1.0]])
COST = F.softplus(LOGITS)


def penalty(salient: list[list[int]] | None, told: list[list[int]] | None, mask: torch.Tensor | None = None) -> float:
    segment = split(content(2, 4), mask, 4)[0]
    marked = None if salient is None else torch.tensor(salient).bool()
    return float(gate_penalty(segment, LOGITS, marked, None if told is None else torch.tensor(told).bool()))


def test_all_slots_of_quiet_segments() -> None:
    assert penalty(None, None) == pytest.approx(float(COST.sum() / 2))
    assert penalty([[0, 0, 1, 0], [0, 0, 0, 0]], None) == pytest.approx(float(COST[1].sum() / 2))


def test_slots_that_nothing_is_told_for_on_every_segment() -> None:
    everywhere = [[1, 1, 1, 1]] * 2
    assert penalty(everywhere, [[1, 1, 1]] * 2) == 0
    assert penalty(everywhere, [[1, 0, 1], [0, 1, 1]]) == pytest.approx(float((COST[0, 1] + COST[1, 0]) / 2))
    assert penalty(None, [[1, 1, 1]] * 2) == penalty(None, None)


@pytest.mark.parametrize("build", [causal, classifier])
def test_a_forward_takes_what_was_told(build) -> None:
    model = build(memory_update="gated", gate_penalty=1.0).train()
    ids, every = content(2, 8), torch.ones(2, 8)
    batch = {"input_ids": ids, "salient": every, "labels": ids if build is causal else torch.tensor([1, 4])}
    losses = [float(model(**batch, told=torch.full((2, 3), value)).loss) for value in (True, False)]
    assert losses[0] == pytest.approx(float(model(**batch).loss), abs=1e-6)
    assert losses[1] > losses[0] + 0.1
