"""Recorded steps: the same result from fixed places, nothing shared with them, nothing that waits for the device."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.utils import import_utils

from rmt import RMTForCausalLM, RMTForSequenceClassification, reference
from rmt.backbone import family_of
from rmt.errors import InputError
from rmt.executors import Sequential, choose
from rmt.executors.captured import FAMILIES, KEPT, Captured, StaticStep, direct_call, segment_step
from rmt.executors.narrow import Writer, narrow
from rmt.segments import split
from tests.rmt import families
from tests.rmt.tiny import causal, classifier, content, ragged

SIZE = 4
RELATIVE = 1e-5  # float32: another attention kernel sums in another order


def close(a, b):
    """The largest difference, in parts of the largest value."""
    return float((a - b).abs().max() / b.abs().max()) <= RELATIVE


def add(tensors):
    return {"sum": tensors["a"] + tensors["b"], "a": tensors["a"]}


@pytest.mark.parametrize("inference", [False, True])
def test_a_step_shares_nothing(inference):
    with torch.inference_mode(inference):
        a, b = torch.ones(2, 3), torch.ones(1, 3).expand(2, 3)
        step = StaticStep(add, {"a": a, "b": b}, direct_call)
        first = step({"a": a, "b": b})
        a += 10.0
        second = step({"a": a, "b": b})
        assert torch.equal(first["sum"], torch.full((2, 3), 2.0)), "the next call changed it"
        assert torch.equal(second["sum"], torch.full((2, 3), 12.0))
        assert torch.equal(second["a"], a)
        second["a"] += 100.0
        second["sum"].zero_()
        third = step({"a": a})
        assert torch.equal(third["sum"], torch.full((2, 3), 12.0)), "b is what it was"
        assert torch.equal(third["a"], a)
    grown = third["sum"] * torch.nn.Parameter(torch.ones(3))
    grown.sum().backward()  # fails on tensors made in inference mode
    assert not third["sum"].requires_grad


def test_a_step_may_write_its_inputs():
    def count(tensors):
        tensors["total"] += tensors["x"]
        return {"twice": 2 * tensors["total"]}

    step = StaticStep(count, {"total": torch.zeros(2), "x": torch.ones(2)}, direct_call)
    step.write({"total": torch.zeros(2)})  # the recording ran, too
    for n in range(1, 4):
        step.replay()
        assert step.outputs["twice"].tolist() == [2.0 * n] * 2
    assert step.inputs["total"].tolist() == [3.0, 3.0]


def test_a_step_refuses_what_it_was_not_recorded_for():
    step = StaticStep(add, {"a": torch.ones(2, 3), "b": torch.ones(2, 3)}, direct_call)
    for bad in (torch.ones(1, 3), torch.ones(2, 3).double(), torch.ones(3)):  # two of them would be broadcast
        with pytest.raises(InputError, match="record another"):
            step({"a": bad})
    with pytest.raises(InputError, match="expected inputs a, b, got c"):
        step({"c": torch.ones(2, 3)})


def reading(model):
    """What a reader on a GPU reads with."""
    family = family_of(model.config.backbone_config)
    if not family.like_bert:
        return model
    return Writer(model.cell, narrow(model.core, family.layers, 1 + model.config.num_memory_tokens))


def captured(**fields):
    return Captured(least=2, record=direct_call, **fields)


@pytest.mark.parametrize("make", [classifier, causal])
@pytest.mark.parametrize("update", ["replace", "gated"])
@pytest.mark.parametrize("lengths", [[31], [32], [31] * 4, [31, 9, 11, 20], [31, 9, 3, 20], [3], [SIZE]])
def test_models(make, update, lengths):
    model = reference.as_reference(make(memory_update=update))
    model.set_attn_implementation("sdpa")
    ids, mask = ragged(lengths)
    segments = model.segments(ids, mask)
    begin = {k: t.detach() for k, t in model.initial_memory(len(lengths)).tensors.items()}
    executor, view = captured(), reading(model)
    with torch.inference_mode():
        got = executor.read(view, iter(segments), dict(begin))["tokens"]
        again = executor.read(view, segments, dict(begin))["tokens"]
    assert len(executor._steps) == (min(lengths) >= 2 * SIZE)
    assert torch.equal(got, again)
    model.set_attn_implementation("eager")
    for row, length in enumerate(lengths):
        assert close(got[row], reference.read(model, ids[row, :length].tolist()))
    if len(segments) > 2:
        assert not close(got, begin["tokens"] + model.cell.memory.detach()), "nothing was written"


def calls_of(model):
    """The shapes in which the core is run, from now on."""
    shapes = []
    model.core.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    return shapes


def test_a_shape_is_recorded_once():
    model = causal().eval()
    shapes, executor = calls_of(model), captured()

    def read(batch, length, size=SIZE):
        shapes.clear()
        begin = {k: t.detach() for k, t in model.initial_memory(batch).tensors.items()}
        executor.read(model, split(content(batch, length, seed=length), None, size), begin)
        return len(shapes), len(executor._steps)

    assert read(1, 20) == (1 + 5, 1), "one run to record, five replays"
    assert read(1, 23) == (6, 1), "replays, and the short one"
    assert read(1, SIZE) == (1, 1), "too few"
    assert read(3, 20) == (1 + 5, 2)
    assert read(1, 12, size=3) == (1 + 4, 3)
    assert read(1, 20) == (5, 3)
    for batch in range(4, 4 + KEPT):
        assert read(batch, 20)[1] <= KEPT
    assert read(1, 20) == (1 + 5, KEPT), "the first ones have given way"


def test_models_do_not_share_steps():
    one, other = causal(seed=1).eval(), causal(seed=2).eval()
    segments, executor = split(content(1, 20), None, SIZE), captured()
    for model in (one, other, one):
        begin = {k: t.detach() for k, t in model.initial_memory(1).tensors.items()}
        with torch.no_grad():
            assert close(
                executor.read(model, segments, begin)["tokens"], Sequential().read(model, segments, begin)["tokens"]
            )


def test_what_is_replayed_follows_from_the_call():
    """Bits may differ between a replay and a run, so reading must not depend on what was read before."""
    model = causal().eval()
    begin = {k: t.detach() for k, t in model.initial_memory(1).tensors.items()}
    fresh, used = captured(), captured()
    used.read(model, split(content(1, 40), None, SIZE), begin)
    shapes, seen = calls_of(model), []
    for executor in (fresh, used):
        shapes.clear()
        executor.read(model, split(content(1, 7), None, SIZE), begin)
        seen.append(list(shapes))
    assert seen[0] == seen[1]
    one = Captured(batch_segments=1, record=direct_call)
    one.read(model, split(content(1, SIZE), None, SIZE), begin)
    assert len(one._steps) == 1, "a reader that brings one segment at a time is served too"


class Waits(RuntimeError):
    pass


class NoWaiting(TorchDispatchMode):
    """Refuses what makes the host wait for a device: reading a value, sizes that depend on values, tensors from Python
    numbers (a copy from the host)."""

    NAMES = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select", "unique", "lift_fresh")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().removeprefix("aten::").split(".")[0]
        index = args[1] if name in ("index", "index_put", "index_put_") else ()
        if name.startswith(self.NAMES) or any(i is not None and i.dtype == torch.bool for i in index):
            raise Waits(name)
        return func(*args, **(kwargs or {}))


def of_family(kind, update="gated"):
    inner, encoder = families.build(kind), kind in families.ENCODERS
    made = RMTForSequenceClassification if encoder else RMTForCausalLM
    extra = {"cls_token_id": 1, "sep_token_id": 2} if encoder else {}
    model = made.from_backbone(inner, segment_size=SIZE, num_memory_tokens=3, memory_update=update, **extra)
    return model.eval()


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_recorded_step_never_waits(kind, monkeypatch):
    model = of_family(kind)
    segment = split(content(2, SIZE) % families.VOCAB, None, SIZE)[0]
    state = {k: t.detach().clone() for k, t in model.initial_memory(2).tensors.items()}
    step = segment_step(reading(model), segment)
    inputs = {"ids": segment.ids, **{f"state.{k}": t for k, t in state.items()}}
    with torch.no_grad():
        warm = step(inputs)["tokens"]
        # transformers asks whether a graph is being recorded, and says so itself from here on.
        monkeypatch.setattr(import_utils, "is_cuda_stream_capturing", lambda: True)
        monkeypatch.setattr("rmt.cells.tokens.at_hand", lambda _: False)  # as it is on a GPU
        with NoWaiting():
            got = step(inputs)["tokens"]
        monkeypatch.undo()
        plain = model.cell(model.core, segment, state).state["tokens"]
        with pytest.raises(Waits), NoWaiting():  # the control: as segments are read without a recording
            model.cell(model.core, segment, state)
    assert close(got, plain)
    assert close(warm, plain)


def test_choice():
    plain, gated = classifier().config, classifier(memory_update="gated").config
    with pytest.raises(InputError, match=r"expected a CUDA device.* got cpu.*'auto'"):
        choose(plain, "captured")
    assert choose(plain, "captured", 16, device="cuda")[0] == Captured(16)
    executor, why = choose(plain, device="cuda")
    assert executor == Captured(32)
    assert "replayed" in why
    assert "unmeasured" in why
    assert choose(plain)[0] == Sequential(32)
    assert choose(gated, device="cuda")[0].name == "speculative"
    other = of_family("deberta-v2", "replace").config
    assert choose(other, device="cuda")[0] == Sequential(32)
    with pytest.raises(InputError, match="deberta-v2"):
        choose(other, "captured", device="cuda")
    with pytest.raises(InputError, match=r"model\.eval"):
        captured().read(classifier().train(), [], {})


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
@pytest.mark.parametrize("make", [classifier, causal])
@pytest.mark.parametrize("lengths", [[31], [31, 9, 11, 20]])
def test_a_real_graph(make, lengths):
    model = make().cuda().eval()
    ids, mask = ragged(lengths)
    segments = model.segments(ids.cuda(), mask.cuda())
    begin = {k: t.detach() for k, t in model.initial_memory(len(lengths)).tensors.items()}
    executor = Captured(least=2)
    with torch.inference_mode():
        view = reading(model)
        expected = Sequential().read(view, segments, begin)["tokens"]
        got = [executor.read(view, segments, begin)["tokens"] for _ in range(2)]
    torch.testing.assert_close(got[0], expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(got[0], got[1])
