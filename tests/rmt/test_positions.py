"""Where memory stands is told around each run of the backbone, in every layout."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from rmt import RMTForSequenceClassification
from rmt.cells import layout
from rmt.executors import Sequential, for_reading, writer
from rmt.executors.lean import LeanEncoder
from tests.rmt.families import SPECIAL, build
from tests.rmt.tiny import causal, classifier, content, ragged

MARK = 1e3  # no other number in a tiny model is near it


class Notes:
    """Keeps what is told, and while it holds the inputs of every linear layer below."""

    def __init__(self, core):
        self.mask, self.told_masks, self.seen = None, [], []
        for name, module in core.named_modules():
            if isinstance(module, nn.Linear):
                module.register_forward_pre_hook(
                    lambda _, args, name=name: self.seen.append((name, args[0], self.mask))
                )

    @contextmanager
    def told(self, mask):
        before, self.mask = self.mask, mask
        self.told_masks.append(mask)
        try:
            yield
        finally:
            self.mask = before

    def first_inputs(self, name):
        return [(x, mask) for which, x, mask in self.seen if which == name]


def watched(model, first):
    """The model, told about, with memory tokens that stick out of the inputs of its first layer; how to find them.

    The norms before (LLaMA) or at the embeddings (BERT) keep the sign: channel 0 of memory is hugely positive.
    """
    notes = Notes(model.core)
    model.on_positions(notes)
    with torch.no_grad():
        model.cell.memory.zero_()
        model.cell.memory[:, 0] = MARK

    def check(calls):
        found = notes.first_inputs(first)
        assert len(found) == calls
        for x, mask in found:
            assert mask is not None
            real = x.abs().amax(dim=-1)
            stands = x[..., 0] > 0.9 * real  # only channel 0 is left of a memory token behind a norm
            assert torch.equal(mask.expand(x.shape[:2]), stands), (mask, stands)
        assert notes.mask is None
        assert all(mask is not None for _, _, mask in notes.seen)

    return notes, check


def encoder(**fields):
    model = classifier(memory_update="replace", **fields).eval()
    return model, "encoder.layer.0.attention.self.query"


@pytest.mark.parametrize("memory", ["tokens", "associative"])
def test_encoder(memory):
    model, first = encoder(memory=memory)
    notes, check = watched(model, first)
    ids, mask = ragged([4, 2])
    model(input_ids=ids, attention_mask=mask)
    check(1)
    assert notes.told_masks[0].tolist() == [False, True, True, True, *[False] * 6]


@pytest.mark.parametrize("memory", ["tokens", "associative"])
def test_questions_of_an_encoder(memory):
    model, first = encoder(memory=memory)
    start = model.initial_memory(1)
    _, check = watched(model, first)
    if memory == "tokens":
        start = model.initial_memory(1)
    model.ask(start, content(1, 6).view(1, 2, 3))
    check(1)


@pytest.mark.parametrize(
    ("memory", "expected"), [("tokens", [1, 1, 1, 0, 0, 0, 0, 1, 1, 1]), ("associative", [0, 0, 0, 0, 1, 1, 1])]
)
def test_decoder(memory, expected):
    model = causal(memory=memory).eval()
    notes, check = watched(model, "layers.0.self_attn.q_proj")
    ids, mask = ragged([4, 2])
    model(input_ids=ids, attention_mask=mask)
    assert notes.told_masks[0].int().tolist() == expected
    check(1)


def test_segments_in_other_orders():
    for order in ("segments", "layers", "wavefront"):
        model = causal(memory="associative", order=order).eval()
        notes = Notes(model.core)
        model.on_positions(notes)
        model(input_ids=content(1, 12))
        assert {tuple(m.int().tolist()) for m in notes.told_masks} == {(0, 0, 0, 0, 1, 1, 1)}
        assert all(mask is not None for _, _, mask in notes.seen)


@pytest.mark.parametrize("memory", ["tokens", "associative"])
def test_generation(memory):
    model = causal(memory=memory).eval()
    notes, _ = watched(model, "layers.0.self_attn.q_proj")
    ids = content(2, 3)
    model.generate(ids, attention_mask=torch.tensor([[0, 0, 1], [1, 1, 1]]), max_new_tokens=3, pad_token_id=0)
    widths = [tuple(mask.shape) for mask in notes.told_masks]
    first = notes.told_masks[0]
    if memory == "associative":
        assert not first.any()
        return
    # Right-aligned: the shorter row's memory begins two columns later, behind padding that repeats its first column.
    assert first.int().tolist() == [[0, 0, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0]]
    x = notes.first_inputs("layers.0.self_attn.q_proj")[0][0]
    stands = x[..., 0] > 0.9 * x.abs().amax(dim=-1)
    stands[0, :2] = False  # padding
    assert torch.equal(stands, first)
    assert (2, 1) in widths, "a token that goes on was not told about"
    assert not any(mask.any() for mask in notes.told_masks if mask.shape[-1] == 1)


def test_the_narrow_last_layer_is_told_its_own_rows():
    model = RMTForSequenceClassification.from_backbone(build("bert"), segment_size=7, num_memory_tokens=3, **SPECIAL)
    model = model.eval()
    notes = Notes(model.core)  # hooks, which the lean reader leaves alone
    model.on_positions(notes)
    reads = writer(model)
    assert not isinstance(reads.core, LeanEncoder)
    with torch.inference_mode():
        Sequential().read(reads, model.segments(content(1, 7), None), dict(model.initial_memory(1).tensors))
    assert all(mask.shape[-1] == x.shape[1] for _, x, mask in notes.seen)
    assert {tuple(m.int().tolist()) for m in notes.told_masks if len(m) == 4} == {(0, 1, 1, 1)}


def test_a_copy_for_reading_tells_its_own():
    class Once(nn.Module):
        pass

    model, _ = encoder()
    notes = layout_teller()
    model.on_positions(notes)
    holder = Once()
    holder.notes = notes
    model.backbone.add_module("holder", holder)
    twin = for_reading(model)
    assert isinstance(notes, layout.Teller)
    assert twin.cell.teller is twin.backbone.holder.notes
    assert twin.cell.teller is not notes


def layout_teller():
    class Teller:
        @contextmanager
        def told(self, mask):
            yield

    return Teller()


def test_nobody_is_told_where_nobody_asked():
    model, _ = encoder()
    notes = Notes(model.core)
    model.on_positions(notes)
    model.on_positions(None)
    model(input_ids=content(1, 4))
    assert not notes.told_masks
    assert notes.seen
