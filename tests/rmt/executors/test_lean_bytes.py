"""BERT's layers with 8-bit products, written out, against the same products done slowly; and every way of reading."""

from __future__ import annotations

import copy

import jaxtyping
import pytest
import torch
from torch import nn

from efficiency.int8 import Int8Linear
from rmt import RMTForSequenceClassification
from rmt.executors import Packed, Sequential, Speculative, Wavefront, for_reading, scripted, writer
from rmt.executors.compiled import Compiled
from rmt.executors.lean import LINEARS, LeanEncoder, ProductOfBytes, eight_bits, multiplies_bytes, suits
from rmt.stack import unlike
from tests.rmt.bytes_kit import in_bytes, marked, naive
from tests.rmt.families import SPECIAL, build
from tests.rmt.tiny import causal, content

needs_bytes = pytest.mark.skipif(not multiplies_bytes(), reason="oneDNN multiplies no bytes here")
WIDE = {"hidden_size": 32, "intermediate_size": 64}


def encoder(kind="bert", spread=0.3, **fields):
    model = RMTForSequenceClassification.from_backbone(
        build(kind, **WIDE), segment_size=7, num_memory_tokens=3, memory_update="gated", **SPECIAL, **fields
    ).eval()
    torch.manual_seed(5)
    for name, parameter in model.backbone.named_parameters():
        nn.init.normal_(parameter, mean=1.0 if "LayerNorm.weight" in name else 0.0, std=spread)
    nn.init.normal_(model.cell.slot_gate.weight, std=0.3)
    nn.init.constant_(model.cell.slot_gate.bias, -2.0)  # now open, now shut
    return model.requires_grad_(False)


def far(got, expected):
    return float((got - expected).norm() / expected.norm())


def by_hand(model):
    """A copy whose 8-bit linears are done row by row in float64."""
    twin = copy.deepcopy(model)
    for layer in twin.core.encoder.layer:
        for name in LINEARS:
            linear = layer.get_submodule(name)
            linear.forward = lambda x, linear=linear: naive(linear, x)
    return twin


@needs_bytes
@pytest.mark.parametrize("rows", [1, 16, 33])
def test_a_product_of_bytes(rows):
    linears = [in_bytes(encoder()).core.encoder.layer[0].attention.self.query for _ in range(2)]
    linears[1].bias = nn.Parameter(torch.randn(32), requires_grad=False)
    x = torch.randn(rows, 32) * torch.logspace(-3, 3, rows)[:, None]
    x[0] = 0.0 if rows > 1 else x[0]
    got = scripted.product_of_bytes(x, *ProductOfBytes(*linears, scale=0.5).given)
    expected = torch.cat([0.5 * naive(linears[0], x), naive(linears[1], x)], dim=1)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@needs_bytes
@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize("batch", [1, 3])
def test_an_encoder_gives_the_first_hidden_states(kind, batch):
    """A number that lies between two levels may be rounded to the other one, so the bound is not that of float."""
    model = in_bytes(encoder(kind))
    lean = writer(model).core
    assert isinstance(lean, LeanEncoder)
    assert lean.of_bytes
    x = torch.randn(batch, 14, 32)
    with torch.inference_mode():
        expected = by_hand(model).core(inputs_embeds=x).last_hidden_state[:, :4]
        got = lean(inputs_embeds=x).last_hidden_state
        exact = encoder(kind).core(inputs_embeds=x).last_hidden_state[:, :4]
        assert far(got, expected) < 2e-3
        assert 5e-3 < far(got, exact) < 0.1, "rounding to 8 bits must show, and be no more than that"
        whole, _ = lean._run(lean._embed(x), whole=True)
        assert far(whole, expected) < 2e-3


@needs_bytes
def test_attention_in_bfloat16_and_padding():
    model = for_reading(in_bytes(encoder()), "bfloat16")
    lean, x = writer(model).core, torch.randn(2, 14, 32)
    assert lean.layers[0]._given[1] is True
    with torch.inference_mode():
        expected = by_hand(in_bytes(encoder())).core(inputs_embeds=x).last_hidden_state[:, :4]
        assert far(lean(inputs_embeds=x.bfloat16()).last_hidden_state, expected) < 0.03
        mask = torch.ones(2, 14, dtype=torch.long)
        mask[1, 9:] = 0
        given = {"inputs_embeds": x.bfloat16(), "attention_mask": mask}
        assert torch.equal(lean(**given).last_hidden_state, lean.view(**given).last_hidden_state)


@needs_bytes
def test_the_same_bits_with_and_without_python(monkeypatch):
    assert isinstance(scripted.fast_layer_of_bytes(), torch.jit.ScriptFunction)
    model, x = in_bytes(encoder()), torch.randn(2, 14, 32)
    lean = writer(model).core
    monkeypatch.setattr(scripted, "fast_layer_of_bytes", lambda: scripted.layer_of_bytes)
    eager = writer(model).core
    assert eager.layers[0]._run is scripted.layer_of_bytes
    with torch.inference_mode():
        assert torch.equal(lean._run(x, False)[0], eager._run(x, False)[0])


@needs_bytes
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_stays_none(bad):
    x = torch.randn(1, 14, 32)
    x[0, 3, 1] = bad
    with torch.inference_mode():
        assert bool(writer(in_bytes(encoder())).core(inputs_embeds=x).last_hidden_state.isnan().all())


def test_who_is_left_alone(monkeypatch):
    model = in_bytes(encoder())
    assert not suits(marked(copy.deepcopy(model)).core, "encoder.layer"), "memory apart is the layers' own business"
    assert not suits(in_bytes(encoder(), activations="tensor").core, "encoder.layer")
    other = copy.deepcopy(model)
    other.core.encoder.layer[1].output.dense.__class__ = type("Other", (Int8Linear,), {})
    assert not suits(other.core, "encoder.layer"), "it may do more with its input"
    mixed = copy.deepcopy(model)
    mixed.core.encoder.layer[1].output.dense = nn.Linear(64, 32)
    assert not suits(mixed.core, "encoder.layer")
    mixed = copy.deepcopy(model)
    mixed.core.encoder.layer[1] = encoder().core.encoder.layer[1]
    assert not suits(mixed.core, "encoder.layer")
    assert not eight_bits(nn.Linear(4, 4))
    monkeypatch.setattr("rmt.executors.lean.multiplies_bytes", lambda: False)
    assert not suits(model.core, "encoder.layer")
    assert not isinstance(writer(model).core, LeanEncoder)
    assert suits(encoder().core, "encoder.layer")


def test_rows_of_zeros_are_zeros():
    rows, scale = scripted.eighth(torch.tensor([[0.0, 0.0], [1.0, -2.0]]))
    assert ((rows.float() - 128) * scale).tolist() == [[0, 0], [pytest.approx(1.0, abs=0.01), pytest.approx(-2.0)]]


def test_a_product_that_is_missing_or_wrong_is_noticed(monkeypatch):
    def gone(*_):
        raise RuntimeError("no such form")

    for wrong in (gone, lambda *_: torch.zeros(16, 16)):
        monkeypatch.setattr(scripted, "product_of_bytes", wrong)
        assert multiplies_bytes.__wrapped__() is False


def test_scales_stay_float32_for_reading():
    twin = for_reading(in_bytes(encoder(), activations="static", input_scale=0.1), "bfloat16")
    linear = twin.core.encoder.layer[0].output.dense
    assert [linear.weight.dtype, linear.weight_scale.dtype, linear.input_scale.dtype, linear.bias.dtype] == [
        torch.int8, torch.float32, torch.float32, torch.bfloat16
    ]  # fmt: skip
    assert {p.dtype for p in twin.cell.parameters()} == {torch.float32}


def state_after(executor, model, reads, ids):
    with torch.inference_mode():
        return executor.read(reads, model.segments(ids, None), dict(model.initial_memory(1).tensors))


@pytest.mark.parametrize("lean", [True, False])
@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("part", [None, 1, 4])
@pytest.mark.parametrize("activations", ["token", "tensor"])
def test_read_ahead_as_in_order(lean, part, apart, activations):
    model = in_bytes(encoder(), activations=activations)
    model = marked(model) if apart else model
    reads, ids = writer(model) if lean else model, content(1, 75) % 61
    expected = state_after(Sequential(), model, reads, ids)["tokens"]
    assert bool(expected.any()), "nothing was written, so nothing was shown"
    got = state_after(Speculative(part=part), model, reads, ids)["tokens"]
    assert far(got, expected) < 5e-3


def test_compiled_as_in_order(monkeypatch):
    model = in_bytes(encoder())
    reads, ids = writer(model), content(1, 21) % 61
    expected = state_after(Sequential(), model, model, ids)["tokens"]
    compiled = Compiled(Sequential(), least=0, backend="eager")
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # what compiles cannot look through the checks
    assert far(state_after(compiled, model, reads, ids)["tokens"], expected) < 5e-3
    assert next(iter(compiled._steps.values())).seconds, "nothing was compiled"


@pytest.mark.parametrize("apart", [True, False])
def test_packed_as_one_by_one(apart):
    model = in_bytes(encoder())
    model = marked(model) if apart else model
    reads = writer(model)
    documents = [content(1, length, seed=length) % 61 for length in (21, 9, 16)]
    runs = [[s.ids[0].numpy() for s in model.segments(ids, None)] for ids in documents]
    initial = dict(model.initial_memory(1).tensors)
    got = dict(Packed(slots=2).read_many(reads, runs, initial, 7))
    for number, ids in enumerate(documents):
        assert far(got[number]["tokens"], state_after(Sequential(), model, reads, ids)["tokens"]) < 5e-3


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("apart", [True, False])
def test_a_wavefront_runs_the_layers_one_by_one(batched, apart):
    model = in_bytes(causal(memory="associative"))
    assert "8-bit" in unlike(list(model.core.layers))
    model = marked(model) if apart else model
    ids = content(1, 24)
    nn.init.normal_(model.cell.value, std=0.2)
    expected = state_after(Sequential(), model, model, ids)
    got = state_after(Wavefront(batched=batched), model, model, ids)
    for name in expected:
        assert bool(expected[name].any())
        torch.testing.assert_close(got[name], expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("memory", ["tokens", "associative"])
def test_generating_with_a_cache_is_reading_it_all_again(memory):
    model = in_bytes(causal(memory=memory))
    ids = content(2, 6)
    one = model.generate(ids, max_new_tokens=7, do_sample=False, pad_token_id=0)
    two = model.generate(ids, max_new_tokens=7, do_sample=False, pad_token_id=0, use_cache=False)
    assert torch.equal(one, two)


@needs_bytes
def test_merged_adapters_are_read():
    peft = pytest.importorskip("peft")
    model = encoder()
    adapted = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(target_modules=["query", "dense"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.2)
    exact = adapted.merge_and_unload().eval().requires_grad_(False)
    lean, x = writer(in_bytes(exact)).core, torch.randn(1, 14, 32)
    assert isinstance(lean, LeanEncoder)
    with torch.inference_mode():
        expected = exact.core(inputs_embeds=x).last_hidden_state[:, :4]
        before = model.core(inputs_embeds=x).last_hidden_state[:, :4]
        got = lean(inputs_embeds=x).last_hidden_state
    assert far(got, expected) < 0.1
    assert far(before, expected) > 0.2, "the adapters changed nothing, so nothing was shown"
