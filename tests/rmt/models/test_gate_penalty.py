"""Which gates are asked to stay shut in training."""

from __future__ import annotations

from math import log

import pytest
import torch
from torch.nn import functional as F

from rmt.models.base import gate_penalty
from rmt.segments import split

from ..tiny import causal, classifier, content

LOGITS = torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.0, -1.0]])
COST = F.softplus(LOGITS)


def penalty(salient: torch.Tensor | None) -> list[float]:
    """Of the two segments of two documents, the second of which ends in the first segment."""
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    return [float(gate_penalty(segment, LOGITS, salient)) for segment in split(content(2, 4), mask, 2)]


def test_all_slots_of_quiet_segments() -> None:
    assert penalty(None) == pytest.approx([float(COST.sum() / 2), float(COST[0].sum() / 2)])
    marks = torch.tensor([[0, 1, 0, 0], [0, 0, 1, 1]])  # those of the second stand at padding
    assert penalty(marks) == pytest.approx([float(COST[1].sum() / 2), float(COST[0].sum() / 2)])


def test_slots_shut_on_what_concerns_others_and_open_on_what_concerns_them() -> None:
    marks = torch.zeros(2, 4, 3, dtype=torch.bool)
    marks[0, 1, 2] = marks[0, 2, 0] = marks[1, 0, 1] = True
    opening = F.softplus(-LOGITS)
    first = COST[0, 0] + COST[0, 1] + opening[0, 2] + COST[1, 0] + opening[1, 1] + COST[1, 2]
    second = opening[0, 0] + COST[0, 1] + COST[0, 2]
    assert penalty(marks) == pytest.approx([float(first / 2), float(second / 2)])


@pytest.mark.parametrize("build", [causal, classifier])
def test_a_forward_takes_either(build) -> None:
    model = build(memory_update="gated", gate_penalty=1.0).train()
    ids = content(2, 8)
    batch = {"input_ids": ids, "labels": ids if build is causal else torch.tensor([1, 4])}
    marked = torch.ones(2, 8, 3)
    with torch.no_grad():
        free, same, other = (float(model(**batch, salient=m).loss) for m in (marked[:, :, 0], marked, 0 * marked))
    assert same - free == pytest.approx(other - free, rel=0.05)
    assert same - free == pytest.approx(3 * log(2), rel=0.05)  # gates begin half open
