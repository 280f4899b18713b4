"""A last layer that runs for the memory alone gives the memory of the whole layer."""

from __future__ import annotations

import pytest
import torch

from rmt import RMTForSequenceClassification
from rmt.executors import Sequential, writer
from rmt.executors.narrow import Writer, narrow
from tests.rmt.families import SPECIAL, VOCAB, build
from tests.rmt.tiny import causal, classifier, content


def encoder(kind):
    return RMTForSequenceClassification.from_backbone(
        build(kind), segment_size=7, num_memory_tokens=3, memory_update="gated", **SPECIAL
    ).eval()


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_memory_is_the_same(family, attention, batch):
    model = encoder(family)
    model.set_attn_implementation(attention)
    mask = torch.ones(batch, 30)
    mask[-1, 25:] = 0 if batch > 1 else 1
    segments = model.segments(content(batch, 30) % VOCAB, mask)
    state = {"tokens": torch.randn(model.initial_memory(batch).tensors["tokens"].shape)}
    with torch.inference_mode():
        expected = Sequential().read(model, segments, state)["tokens"]
        got = Sequential().read(writer(model), segments, state)["tokens"]
        view = Writer(model.cell, narrow(model.core, "encoder.layer", 1 + model.config.num_memory_tokens))
        other = Sequential().read(view, segments, state)["tokens"]
    assert not torch.equal(expected, state["tokens"])
    torch.testing.assert_close(got, expected, atol=2e-6, rtol=0)
    torch.testing.assert_close(other, expected, atol=1e-6, rtol=0)


def test_only_the_memory_goes_through_the_last_layer():
    model = encoder("bert")
    view, rows = narrow(model.core, "encoder.layer", 1 + model.config.num_memory_tokens), []
    last = model.core.encoder.layer[-1]
    last.intermediate.register_forward_hook(lambda _, args, __: rows.append(args[0].shape[1]))
    segment = model.segments(content(1, 10) % VOCAB, None)[0]
    with torch.inference_mode():
        model.cell(view, segment, dict(model.initial_memory(1).tensors))
        model.cell(model.core, segment, dict(model.initial_memory(1).tensors))
    assert rows[0] == 1 + model.config.num_memory_tokens < rows[1]


def test_the_model_is_left_as_it_is():
    model = encoder("bert")
    before = [name for name, _ in model.named_modules()]
    reads = writer(model)
    assert [name for name, _ in model.named_modules()] == before
    own = {id(p) for p in model.parameters()}
    assert {id(p) for p in reads.core.parameters()} <= own


@pytest.mark.parametrize("make", [causal, lambda: encoder("distilbert"), lambda: classifier(num_memory_tokens=0)])
def test_others_read_as_they_are(make):
    model = make().eval()
    assert writer(model) is model
