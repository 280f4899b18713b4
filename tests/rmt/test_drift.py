"""How far an 8-bit model's memory is from that of the model it was made of."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rmt.drift import apart, gaps
from rmt.executors import writer
from tests.rmt.bytes_kit import in_bytes
from tests.rmt.tiny import causal, classifier, content


def both(model, length, wrap=lambda model: model, seed=0):
    other = in_bytes(model)
    segments = model.segments(content(1, length, seed), None)
    first = dict(model.initial_memory(1).tensors)
    return list(gaps(wrap(model), wrap(other), segments, first))


def gated(bias):
    model = classifier(memory_update="gated").eval()
    nn.init.normal_(model.cell.slot_gate.weight, std=0.02)
    nn.init.constant_(model.cell.slot_gate.bias, bias)
    return model


def test_distances():
    one, other = {"tokens": torch.tensor([3.0, 4.0])}, {"tokens": torch.tensor([3.0, 0.0])}
    assert apart(one, other) == apart(other, one) == 0.8
    assert apart(one, one) == 0.0
    assert apart({"tokens": torch.zeros(2)}, {"tokens": torch.zeros(2)}) == 0.0
    assert apart({"a": torch.ones(1), "n": torch.tensor([5])}, {"a": torch.ones(1), "n": torch.tensor([9])}) == 0.0


@pytest.mark.parametrize("wrap", [writer, lambda model: model])
def test_shut_gates_pass_no_error_on(wrap):
    """Something is written at first; behind it both memories stay what they are, bit for bit, however long."""
    model = gated(2.0)
    start = next(iter(both(model, 4, wrap)))
    assert start.wrote == (True, True)
    assert 0 < start.error < 0.2
    nn.init.constant_(model.cell.slot_gate.bias, -20.0)
    segments = model.segments(content(1, 400), None)
    first, other = {"tokens": torch.randn(1, 3, 32)}, {"tokens": torch.randn(1, 3, 32)}
    found = list(gaps(wrap(model), wrap(in_bytes(model)), segments, first, other))
    assert [gap.segment for gap in found] == list(range(100))
    assert {gap.error for gap in found} == {apart(first, other)}
    assert {gap.wrote for gap in found} == {(False, False)}


@pytest.mark.parametrize("make", [lambda: gated(2.0), lambda: causal(memory="associative").eval()])
def test_the_errors_are_those_of_reading_to_there(make):
    model = make()
    found, other = both(model, 24), in_bytes(model)
    assert len(found) == 6
    for gap in (found[0], found[3], found[5]):
        ids = content(1, 24)[:, : 4 * (gap.segment + 1)]
        with torch.inference_mode():
            expected = apart(*(dict(m(input_ids=ids).memory.tensors) for m in (model, other)))
        assert gap.error == pytest.approx(expected, rel=1e-3, abs=1e-9)
    assert [gap.error for gap in both(model, 24, seed=1)] != [gap.error for gap in found]


def test_a_model_is_not_far_from_itself():
    model = gated(0.0)
    segments = model.segments(content(1, 12), None)
    assert [gap.error for gap in gaps(model, model, segments, dict(model.initial_memory(1).tensors))] == [0.0] * 3
