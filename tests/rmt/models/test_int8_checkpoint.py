"""Recurrent models with 8-bit layers come back through plain ``from_pretrained``."""

from __future__ import annotations

import copy
import tomllib
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import rmt
from efficiency.errors import InputError
from efficiency.int8 import Int8Linear
from efficiency.int8.checkpoint import load, save
from efficiency.int8.hugging_face import mark
from rmt import RMTConfig, RMTForCausalLM, RMTForSequenceClassification, plugins
from tests.efficiency.int8.checkpoint_nets import llama, quantised, same_state
from tests.rmt.tiny import causal, classifier, content


@pytest.fixture(autouse=True)
def declared(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entry points as pyproject.toml has them, which an older installation may not know yet."""
    groups = tomllib.loads((root / "pyproject.toml").read_text())["project"]["entry-points"]

    def found(*, group: str, name: str) -> list[EntryPoint]:
        return [EntryPoint(key, value, group) for key, value in groups[group].items() if key == name]

    monkeypatch.setattr(plugins, "entry_points", found)


@pytest.mark.parametrize("update", ["replace", "gated"])
@pytest.mark.parametrize("kind", ["token", "static"])
def test_a_decoder_comes_back(kind: str, update: str, tmp_path: Path) -> None:
    model = quantised(causal(memory_update=update), kind).eval()
    mark(model)
    model.save_pretrained(tmp_path)
    ids = content(2, 11)
    for again in (RMTForCausalLM.from_pretrained(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)):
        assert type(again) is RMTForCausalLM
        assert same_state(model, again)
        assert torch.equal(model(ids).logits, again(ids).logits)
        assert again.fingerprint() == model.fingerprint()
    assert again.generate(ids, max_new_tokens=3).shape == (2, 14)
    again.save_pretrained(tmp_path / "again")
    assert same_state(model, load(tmp_path / "again", RMTForCausalLM))


def test_a_classifier_comes_back(tmp_path: Path) -> None:
    model = quantised(classifier(memory_update="gated")).eval()
    save(model, tmp_path)
    ids = content(2, 11)
    again = RMTForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32)
    assert same_state(model, again)
    assert torch.equal(model(ids).logits, again(ids).logits)
    assert type(AutoModelForSequenceClassification.from_pretrained(tmp_path)) is RMTForSequenceClassification
    inner = again.backbone.encoder.layer[0].attention.self.query
    assert isinstance(inner, Int8Linear)
    assert not any(isinstance(module, Int8Linear) for module in again.cell.modules())


def test_associative_memory_comes_back(tmp_path: Path) -> None:
    model = quantised(causal(memory="associative")).eval()
    save(model, tmp_path)
    ids = content(2, 11)
    assert torch.equal(model(ids).logits, RMTForCausalLM.from_pretrained(tmp_path)(ids).logits)


def test_a_quantised_backbone_made_recurrent_comes_back(tmp_path: Path) -> None:
    inner = quantised(llama())
    save(inner, tmp_path / "inner")
    model = RMTForCausalLM.from_backbone(load(tmp_path / "inner"), segment_size=4, num_memory_tokens=3).eval()
    save(model, tmp_path / "whole")
    again = RMTForCausalLM.from_pretrained(tmp_path / "whole")
    assert same_state(model, again)
    assert same_state(inner, again.backbone)


def test_a_quantised_backbone_that_nobody_marked_is_not_taken_for_a_plain_one(tmp_path: Path) -> None:
    inner = quantised(llama())
    mark(inner)
    model = RMTForCausalLM.from_backbone(inner, segment_size=4, num_memory_tokens=3)
    model.save_pretrained(tmp_path)
    with pytest.raises(rmt.InputError, match="for the whole model, got one of its backbone only"):
        RMTForCausalLM.from_pretrained(tmp_path)


def test_a_configuration_may_be_read_copied_and_written(tmp_path: Path) -> None:
    model = quantised(causal())
    save(model, tmp_path / "a")
    config = RMTConfig.from_pretrained(tmp_path / "a")
    for one in (config, copy.deepcopy(config), RMTConfig.from_dict(config.to_dict())):
        one.save_pretrained(tmp_path / "b")
        assert RMTConfig.from_pretrained(tmp_path / "b").to_dict() == config.to_dict()
    assert config.to_dict()["quantization_config"]["quant_method"] == "compressed-tensors"


def test_other_methods_are_left_to_transformers() -> None:
    given: dict[str, Any] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    fields = {**causal().config.to_dict(), "quantization_config": given}
    assert RMTConfig.from_dict(fields).quantization_config == given
    with pytest.raises(InputError, match="expected format 'int-quantized'"):
        RMTConfig.from_dict({**fields, "quantization_config": {"quant_method": "compressed-tensors"}})


def test_the_entry_point_is_installed() -> None:
    installed = entry_points(group=plugins.GROUP)
    if not installed:
        pytest.skip("installed before the entry point was declared; install again: pip install -e .")
    assert {entry.name for entry in installed} == {"compressed-tensors"}
