"""Files of 8-bit layers that are more than plain linear ones: of GPT-2, or that leave memory as it is."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from efficiency.int8 import Int8Linear, Marks
from efficiency.int8.checkpoint import load, load_into, save
from efficiency.int8.layout import Layout
from efficiency.smoothquant import smooth_quantize
from rmt import RMTConfig, RMTForCausalLM
from tests.efficiency.int8.checkpoint_nets import quantised, same_state
from tests.rmt.families import build

IDS = torch.randint(0, 61, (2, 12), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("keep", [(), ("c_proj",)])
def test_gpt2_comes_back_and_reads_the_same(keep: Any, tmp_path: Path) -> None:
    model = quantised(build("gpt2"), keep=("lm_head", *keep))
    found = Layout.of(model)
    assert found.groups == ((("Conv1D",), "token"),)
    assert len(found.ignore) == 1 + 4 * len(keep)  # the head, two layers of two blocks
    save(model, tmp_path)
    for again in (load(tmp_path), load_into(build("gpt2"), tmp_path)):
        assert same_state(model, again)
        assert torch.equal(model(IDS).logits, again(IDS).logits)
        assert Layout.of(again) == found
    exact = build("gpt2")
    assert model.transformer.h[0].mlp.c_fc.weight.shape == exact.transformer.h[0].mlp.c_fc.weight.shape[::-1]


def test_a_recurrent_gpt2_that_was_smoothed_comes_back_by_from_pretrained(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = RMTConfig(backbone_config=build("gpt2").config, num_memory_tokens=2, segment_size=8)
    model = RMTForCausalLM(config).eval()
    report = smooth_quantize(model, lambda it: it(IDS), progress=False)
    assert len(report.quantised) == 8
    for way in (lambda folder: save(model, folder), model.save_pretrained):
        way(tmp_path / "int8")
        again = RMTForCausalLM.from_pretrained(tmp_path / "int8").eval()
        assert same_state(model, again)
        assert torch.equal(model(IDS).logits, again(IDS).logits)


def test_gpt2_is_dequantised_to_what_its_own_class_reads(tmp_path: Path) -> None:
    save(quantised(build("gpt2")), tmp_path / "int8")
    model = load(tmp_path / "int8")
    layer = model.transformer.h[1].attn.c_attn
    assert isinstance(layer, Int8Linear)
    weight, sizes = layer.dequantised(), (layer.in_features, layer.out_features)
    plain = model.dequantize()
    found = plain.transformer.h[1].attn.c_attn
    assert type(found) is Conv1D
    assert (found.nx, found.nf) == sizes
    assert torch.equal(found.weight, weight.t())
    plain.save_pretrained(tmp_path / "float")
    again = type(plain).from_pretrained(tmp_path / "float").eval()
    assert torch.equal(plain(IDS).logits, again(IDS).logits)


def test_a_backbone_that_forgets_where_memory_is_says_so_when_it_is_saved(tmp_path: Path) -> None:
    model, marks = build("llama"), Marks()

    def read(it: Any) -> None:
        with marks.told(torch.arange(12) < 2):
            it(IDS)

    smooth_quantize(model, read, memory="float", marks=marks, progress=False)
    with pytest.warns(UserWarning, match=r"float_memory: .* got LlamaForCausalLM: once loaded"):
        model.save_pretrained(tmp_path / "part")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(tmp_path / "part").save_pretrained(tmp_path / "again")  # which has nothing to forget
        whole = RMTForCausalLM(RMTConfig(backbone_config=build("llama").config, num_memory_tokens=2, segment_size=8))
        marks = Marks()
        whole.on_positions(marks)
        smooth_quantize(whole, lambda it: it(IDS), memory="float", marks=marks, progress=False)
        whole.save_pretrained(tmp_path / "whole")
    kept = RMTForCausalLM.from_pretrained(tmp_path / "whole")
    assert all(m.marks is not None for m in kept.modules() if isinstance(m, Int8Linear))
