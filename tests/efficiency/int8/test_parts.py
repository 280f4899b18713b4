"""A part of a quantised model does not know of its 8-bit layers, so it is not saved without them."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from efficiency.errors import InputError
from efficiency.int8.checkpoint import load
from efficiency.int8.hugging_face import mark
from efficiency.int8.linear import Int8Linear
from efficiency.smoothquant import smooth_quantize
from rmt import RMTConfig, RMTForCausalLM
from tests.rmt.families import build

IDS = torch.arange(32).reshape(2, 16) % 58 + 3


@pytest.fixture
def model() -> RMTForCausalLM:
    config = RMTConfig(backbone_config=build("llama").config, num_memory_tokens=2, segment_size=8)
    made = RMTForCausalLM(config).eval()
    smooth_quantize(made, lambda it: it(IDS), progress=False)
    return made


def test_a_part_is_refused_and_the_whole_is_saved(model, tmp_path) -> None:
    with pytest.raises(InputError, match="expected the model that was quantised, RMTForCausalLM, got its part"):
        model.core.save_pretrained(tmp_path / "part")
    model.save_pretrained(tmp_path / "whole")
    again = RMTForCausalLM.from_pretrained(tmp_path / "whole")
    assert torch.equal(model(IDS).logits, again(IDS).logits)
    for other in (again, copy.deepcopy(model)):
        with pytest.raises(InputError, match="save the whole"):
            other.core.save_pretrained(tmp_path / "part")
    assert not (tmp_path / "part").exists()


def test_a_part_that_is_marked_is_a_whole(model, tmp_path) -> None:
    mark(model.core)
    model.core.save_pretrained(tmp_path)
    assert "quantization_config" in json.loads((tmp_path / "config.json").read_text())
    again = load(tmp_path)
    kinds = {type(module) for module in again.modules()}
    assert Int8Linear in kinds
    with torch.inference_mode():
        ours, theirs = (net(input_ids=IDS).last_hidden_state for net in (model.core, again))
    assert torch.allclose(ours, theirs, atol=1e-6)
