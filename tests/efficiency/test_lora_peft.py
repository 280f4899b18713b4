"""What PEFT does goes on working after fusing; what cannot be fused stays PEFT's, and says why."""

from __future__ import annotations

import copy
import json
import logging

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn

from efficiency.lora import fuse, layers, unfused
from tests.efficiency.lora_nets import Net, adapted, gap, segments, step_of, stir, twins

CLOSE = 1e-6


def same_as_peft(theirs, ours, given) -> bool:
    return gap(step_of(ours, given), step_of(theirs, given)) <= CLOSE


def test_files_are_the_same_both_ways(tmp_path):
    theirs, ours = twins(adapted())
    fuse(ours)
    theirs.save_pretrained(tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "ours")
    weights, config = "adapter_model.safetensors", "adapter_config.json"
    assert (tmp_path / "ours" / weights).read_bytes() == (tmp_path / "theirs" / weights).read_bytes()
    one, two = (json.loads((tmp_path / n / config).read_text()) for n in ("ours", "theirs"))
    # PEFT writes a set: in which order differs from process to process, and from copy to copy.
    assert sorted(one.pop("target_modules")) == sorted(two.pop("target_modules"))
    assert one == two
    torch.manual_seed(0)
    plain = PeftModel.from_pretrained(Net(), tmp_path / "ours")
    torch.manual_seed(0)
    fused = PeftModel.from_pretrained(Net(), tmp_path / "theirs")
    assert fuse(fused) == 2
    assert same_as_peft(plain, fused, segments())
    fused.save_pretrained(tmp_path / "again")
    one, two = (load_file(tmp_path / n / "adapter_model.safetensors") for n in ("again", "theirs"))
    assert all(torch.equal(one[name], two[name]) for name in two)
    assert one.keys() == two.keys()
    fused.load_adapter(str(tmp_path / "ours"), "default")
    assert same_as_peft(plain.train(), fused.train(), segments())


def test_merging_and_unmerging():
    theirs, ours = twins(adapted())
    fuse(ours)
    given = segments()
    before = step_of(ours, given)["loss"]
    for model in (ours, theirs):
        model.merge_adapter()
    assert set(unfused(ours).values()) == {"adapters are merged"}
    assert torch.equal(ours(given), theirs(given))
    for model in (ours, theirs):
        model.unmerge_adapter()
    assert not unfused(ours)
    assert torch.allclose(ours(given), before)
    one, two = (model.merge_and_unload() for model in (ours, theirs))
    assert type(one.up) is nn.Linear
    assert torch.equal(one.up.weight, two.up.weight)


def test_disabling():
    theirs, ours = twins(adapted())
    fuse(ours)
    given = segments()
    with ours.disable_adapter(), theirs.disable_adapter():
        assert torch.equal(ours(given), theirs(given))
        assert set(unfused(ours).values()) == {"adapters are disabled"}
    assert same_as_peft(theirs, ours, given)


def test_adding_choosing_and_deleting_adapters():
    theirs, ours = twins(adapted())
    fuse(ours)
    given = segments()
    for model in (ours, theirs):
        torch.manual_seed(3)
        model.add_adapter("second", LoraConfig(r=2, target_modules=["up"]))
        stir(model)
    assert same_as_peft(theirs, ours, given)
    for model in (ours, theirs):
        model.set_adapter("second")
    assert list(unfused(ours)) == ["base_model.model.down"]  # which has no second adapter
    assert same_as_peft(theirs, ours, given)
    for model in (ours, theirs):
        model.base_model.set_adapter(["default", "second"])
    assert set(unfused(ours).values()) == {"2 active adapters, or none of this layer"}
    assert same_as_peft(theirs, ours, given)
    for model in (ours, theirs):
        model.set_adapter("default")
        model.delete_adapter("second")
    assert not unfused(ours)
    assert same_as_peft(theirs, ours, given)


def test_an_adapter_with_dropout_that_came_later():
    model = adapted()
    fuse(model)
    model.add_adapter("second", LoraConfig(r=2, target_modules=["up"], lora_dropout=0.2))
    assert not unfused(model)
    model.set_adapter("second")
    assert unfused(model)["base_model.model.up"] == "its dropout came later; call fuse again"
    assert fuse(model) == 1
    assert step_of(model, segments())["base_model.model.up.lora_B.second.weight"].any()


def test_adapters_chosen_row_by_row():
    theirs, ours = twins(adapted(inference_mode=True).eval())
    fuse(ours)
    x, names = torch.randn(2, 5, 12), ["default", "__base__"]
    one, two = (model.base_model.model.up(x, adapter_names=names) for model in (ours, theirs))
    assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"use_dora": True}, "a variant of LoRA, DoraLinearVariant"),
        ({"lora_bias": True, "target_modules": ["up"]}, "its adapter has a bias"),
        ({"bias": "all", "target_modules": ["up"]}, "its base is trained"),
    ],
)
def test_what_cannot_be_fused_stays_as_it_was(config, why, caplog):
    theirs, ours = twins(adapted(**config))
    with caplog.at_level(logging.INFO, "efficiency.lora"):
        assert fuse(ours) == 0
    assert set(unfused(ours).values()) == {why}
    assert why in caplog.text
    assert same_as_peft(theirs, ours, segments())


def test_a_base_that_is_trained_after_all():
    theirs, ours = twins(adapted())
    fuse(ours)
    for model in (ours, theirs):
        model.base_model.model.up.base_layer.weight.requires_grad_()
    found = step_of(ours, segments())
    assert found["base_model.model.up.base_layer.weight"].any()
    assert same_as_peft(theirs, ours, segments())


def test_hooks_are_called():
    model = adapted()
    fuse(model)
    called = []
    layer = model.base_model.model.up
    layer.register_forward_hook(lambda *_: called.append("layer"))
    model(segments(1))
    assert called == ["layer"]
    assert not unfused(model)
    layer.base_layer.register_forward_hook(lambda *_: called.append("base"))
    model(segments(1))
    assert called == ["layer", "base", "layer"]
    assert "hooks" in unfused(model)["base_model.model.up"]


def test_other_kinds_of_layers():
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.wave, self.up = nn.Embedding(7, 12), nn.Conv1d(12, 12, 3), nn.Linear(12, 4)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.up(self.wave(self.words(ids).mT).mT)

    model = get_peft_model(Mixed(), LoraConfig(target_modules=["words", "wave", "up"], r=2))
    stir(model)
    ids = torch.randint(7, (2, 6))
    expected = model(ids)
    assert fuse(model) == 1
    assert {name.rpartition(".")[2] for name in unfused(model)} == {"words", "wave"}
    assert torch.allclose(model(ids), expected, atol=1e-6)


def test_a_fused_model_is_copied_and_pickled(tmp_path):
    model = adapted(lora_dropout=0.3)
    fuse(model, seed=4)
    expected = step_of(model, segments())
    torch.save(model, tmp_path / "model.pt")
    for other in (copy.deepcopy(model), torch.load(tmp_path / "model.pt", weights_only=False)):
        assert not unfused(other)
        found = step_of(other, segments())
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        clocks = {id(layer.clock) for _, layer in layers(other)}
        assert len(clocks) == 1
        assert not clocks & {id(layer.clock) for _, layer in layers(model)}
