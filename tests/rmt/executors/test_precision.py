"""A copy made for reading; the model that was given stays as it was."""

from __future__ import annotations

import copy

import pytest
import torch

from rmt.errors import InputError
from rmt.executors import auto_dtype, for_reading
from tests.rmt.tiny import causal, classifier, content


@pytest.mark.parametrize("make", [classifier, causal])
def test_the_given_model_is_left_alone(make):
    model = make(memory_update="gated").train()
    before = copy.deepcopy(model.state_dict())
    twin = for_reading(model, "bfloat16")
    assert model.training
    assert not twin.training
    assert all(p.requires_grad for p in model.parameters())
    assert model.backbone.config._attn_implementation == "sdpa"
    assert twin.backbone.config._attn_implementation == "eager"
    assert for_reading(model, "float32").backbone.config._attn_implementation == "sdpa"
    assert {name: t.dtype for name, t in model.state_dict().items()} == {n: t.dtype for n, t in before.items()}
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert twin.fingerprint() == model.fingerprint()


def test_the_cell_stays_float32():
    model = classifier(memory_update="gated")
    twin = for_reading(model, "bfloat16")
    assert {p.dtype for p in twin.cell.parameters()} == {torch.float32}
    assert {p.dtype for p in twin.backbone.parameters()} == {torch.bfloat16}
    assert torch.equal(twin.cell.memory, model.cell.memory)


def test_bfloat16_is_near_float32():
    model = classifier(memory_update="replace").eval()
    ids = content(1, 12)
    with torch.inference_mode():
        exact, near = (for_reading(model, dtype)(input_ids=ids) for dtype in ("float32", "bfloat16"))
    assert near.memory.tensors["tokens"].dtype == torch.float32
    # 8 bits of mantissa, outputs of unit size, two layers, three segments
    torch.testing.assert_close(near.logits.float(), exact.logits, atol=0.1, rtol=0)
    assert not torch.equal(near.logits.float(), exact.logits)


def test_float32_is_exact():
    model = classifier().eval()
    ids = content(1, 12)
    with torch.inference_mode():
        exact = for_reading(model, "float32")(input_ids=ids).logits
        torch.testing.assert_close(exact, model(input_ids=ids).logits, atol=1e-5, rtol=0)


def test_dtypes():
    assert auto_dtype(torch.device("cpu")) in (torch.float32, torch.bfloat16)
    assert auto_dtype(torch.device("meta")) == torch.float32
    assert for_reading(classifier(), torch.float32).dtype == torch.float32
    with pytest.raises(InputError, match="int8"):
        for_reading(classifier(), "int8")


def test_bfloat16_that_a_gpu_only_emulates_is_not_taken(monkeypatch):
    for hardware in (True, False):
        monkeypatch.setattr(
            torch.cuda,
            "is_bf16_supported",
            lambda including_emulation=True, hardware=hardware: hardware or including_emulation,
        )
        wanted = torch.bfloat16 if hardware else torch.float32
        assert auto_dtype(torch.device("cuda")) == wanted


def test_only_weights_are_rounded_and_rotary_frequencies_stay_as_they_were() -> None:
    model = causal()
    twin = for_reading(model, "bfloat16")
    assert twin.core.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    assert torch.equal(twin.core.rotary_emb.inv_freq, model.core.rotary_emb.inv_freq)
    assert twin.core.rotary_emb.inv_freq.dtype == torch.float32
