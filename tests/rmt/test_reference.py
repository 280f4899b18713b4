"""The cells equal the twin written by hand."""

from __future__ import annotations

import pytest
import torch

from rmt import reference
from rmt.errors import InputError
from tests.rmt.tiny import causal, classifier, content

TOLERANCE = 1e-5  # float32; sums are taken in another order


def opened(model):
    """Gates spread around the threshold, so that some slots of some segments write and others do not."""
    if model.cell.slot_gate is not None:
        torch.nn.init.normal_(model.cell.slot_gate.weight, std=0.3)
        torch.nn.init.normal_(model.cell.channel_gate.weight, std=0.3)
        model.config.gate_threshold = 0.5
    return model.eval()


def build(kind, update, **fields):
    make = classifier if kind == "encoder" else causal
    return opened(make(memory_update=update, **fields))


@pytest.mark.parametrize("update", ["replace", "gated"])
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
@pytest.mark.parametrize("length", [1, 4, 11])
def test_memory(kind, update, length):
    model = build(kind, update)
    ids = content(1, length)
    twin = reference.read(reference.as_reference(model), ids[0].tolist())
    with torch.no_grad():
        ours = model(input_ids=ids).memory.tensors["tokens"][0]
    torch.testing.assert_close(ours, twin, atol=TOLERANCE, rtol=0)


def test_some_slots_write_and_others_do_not():
    model = build("encoder", "gated", num_memory_tokens=8)
    before = reference.read(model, content(1, 4)[0].tolist())
    after = reference.read(model, content(1, 4, seed=1)[0].tolist(), before)
    wrote = (before != after).any(dim=1)
    assert wrote.any()
    assert not wrote.all()


@pytest.mark.parametrize("update", ["replace", "gated"])
def test_classify(update):
    model = build("encoder", update)
    document, question = content(1, 10), content(1, 6, seed=1)
    with torch.no_grad():
        ours = model(input_ids=question, memory=model(input_ids=document).memory).logits[0]
    twin = reference.as_reference(model)
    memory = reference.read(twin, document[0].tolist())
    torch.testing.assert_close(ours, reference.classify(twin, question[0].tolist(), memory), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("update", ["replace", "gated"])
def test_next_token_logits(update):
    model = build("decoder", update)
    ids = content(1, 10)
    with torch.no_grad():
        ours = model(input_ids=ids).logits[0]
    torch.testing.assert_close(ours, reference.next_token_logits(model, ids[0].tolist()), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_rows_of_a_padded_batch(kind):
    model = build(kind, "gated")
    ids = content(2, 9)
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    with torch.no_grad():
        ours = model(input_ids=ids, attention_mask=mask).memory.tensors["tokens"]
    for row, kept in enumerate((ids[0], ids[1, 3:])):
        torch.testing.assert_close(ours[row], reference.read(model, kept.tolist()), atol=TOLERANCE, rtol=0)


def test_the_comparison_can_fail():
    model = build("encoder", "gated")
    ids = content(1, 8)
    twin = reference.read(model, ids[0].tolist())
    with torch.no_grad():
        model.cell.write_scale.mul_(1.01)
        ours = model(input_ids=ids).memory.tensors["tokens"][0]
    assert (ours - twin).abs().max() > TOLERANCE


def test_no_memory_tokens():
    model = build("encoder", "replace", num_memory_tokens=0)
    ids = content(1, 4)
    with torch.no_grad():
        ours = model(input_ids=ids).logits[0]
    torch.testing.assert_close(ours, reference.classify(model, ids[0].tolist()), atol=TOLERANCE, rtol=0)


def test_refuses_what_it_cannot_do_rightly():
    model = classifier()
    with pytest.raises(InputError, match="training mode"):
        reference.read(model.train(), [5])
    with pytest.raises(InputError, match="bfloat16"):
        reference.read(model.eval().bfloat16(), [5])
    with pytest.raises(InputError, match="at least one token"):
        reference.read(reference.as_reference(model), [])
