"""Both merges against PEFT over the weights that they merge into, and what they report."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaForCausalLM

from efficiency.errors import InputError
from tests.rmt.tiny import causal, content, llama_config

pytest.importorskip("bitsandbytes")

from efficiency.qlora import NF4Linear, nf4_layers, quantize_model
from efficiency.qlora_merge import merge, outputs
from efficiency.surgery import replace_modules

IDS = {"input_ids": content(2, 12)}
LORA: dict[str, Any] = {"r": 4, "init_lora_weights": False, "target_modules": ["q_proj", "up_proj", "lm_head"]}


def whole(**fields: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(llama_config(**fields)).eval()


def adapted(model: nn.Module, **fields: Any) -> Any:
    torch.manual_seed(1)
    return get_peft_model(model, LoraConfig(**(LORA | fields))).eval()


def quantised(**fields: Any) -> Any:
    """LoRA over a model in 4 bits, on some layers only, a head in full among them."""
    return adapted(quantize_model(whole(), compute_dtype=None), **fields)


def by_peft(base: nn.Module) -> nn.Module:
    return adapted(base).merge_and_unload()


def test_into_the_16_bit_weights():
    originals = whole()
    wanted = by_peft(whole())
    trained = quantised()
    before = outputs(trained, IDS)
    got = merge(trained, "16bit", originals=originals.state_dict(), inputs=IDS)
    assert not list(nf4_layers(got.model))
    assert got.model.state_dict().keys() == wanted.state_dict().keys()
    for name, tensor in got.model.state_dict().items():
        assert torch.allclose(tensor, wanted.state_dict()[name], atol=1e-6), name
    after = outputs(wanted, IDS)
    assert got.error == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-3)
    assert got.error > 0.01
    # Layers in 4 bits only: the head is merged by PEFT.
    assert len(got.layers) == 4


@pytest.mark.parametrize("parts", [1, 4])
def test_originals_from_a_folder(tmp_path, parts):
    whole().save_pretrained(tmp_path, max_shard_size="5MB" if parts == 1 else "20KB")
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (parts > 1)
    one = merge(quantised(), "16bit", originals=tmp_path, inputs=IDS)
    other = merge(quantised(), "16bit", originals=whole().state_dict(), inputs=IDS)
    assert torch.equal(outputs(one.model, IDS), outputs(other.model, IDS))
    assert one.error == other.error


def test_into_the_dequantised_weights(tmp_path):
    exact = merge(quantised(), "nf4", inputs=IDS)
    assert exact.error < 1e-5
    rounded = merge(adapted(quantize_model(whole().to(torch.bfloat16), compute_dtype=None)), "nf4", inputs=IDS)
    assert rounded.model.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    assert 1e-4 < rounded.error < 0.1
    # An ordinary model, for anyone to load.
    exact.model.save_pretrained(tmp_path)
    again = LlamaForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(outputs(again, IDS), outputs(exact.model, IDS))


def test_quantised_again():
    trained = quantised()
    weight = trained.base_model.model.model.layers[0].mlp.up_proj
    both = weight.base_layer.dequantised(torch.float32) + weight.get_delta_weight("default")
    untouched = trained.base_model.model.model.layers[0].mlp.down_proj.dequantised()
    got = merge(trained, "nf4", inputs=IDS, requantize=True)
    layers = dict(nf4_layers(got.model))
    assert len(layers) == 14
    assert got.error > 0.01
    up = layers["model.layers.0.mlp.up_proj"].dequantised()
    assert 0.05 < (up - both).norm() / both.norm() < 0.25
    assert torch.allclose(layers["model.layers.0.mlp.down_proj"].dequantised(), untouched, rtol=0.02, atol=1e-3)


def test_quantised_again_as_it_was_and_says_so():
    trained = adapted(quantize_model(whole(), compute_dtype=None, double=False, block=128))
    got = merge(trained, "nf4", requantize=True).model
    states = [layer.weight.quant_state for _, layer in nf4_layers(got)]
    assert {(state.blocksize, state.nested) for state in states} == {(128, False)}
    assert got.config.quantization_config.load_in_4bit
    assert not hasattr(merge(quantised(), "nf4").model.config, "quantization_config")


@pytest.mark.parametrize("own", [True, False], ids=["a bias below", "none below"])
def test_biases_of_adapters_are_scaled(own):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64, bias=own))
    base = quantize_model(net, compute_dtype=None)
    trained = get_peft_model(base, LoraConfig(r=2, lora_alpha=6, lora_bias=True, target_modules=["0"])).eval()
    for name, parameter in trained.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    x = torch.randn(3, 64)
    with torch.no_grad():
        wanted = trained(x)
        assert torch.allclose(merge(trained, "nf4").model(x), wanted, atol=1e-5)


def test_a_small_adapter_is_all_that_is_added():
    """Error of the merge into 16 bits is that of quantisation, whatever the adapter."""
    trained = quantised(init_lora_weights=True)
    got = merge(trained, "16bit", originals=whole().state_dict(), inputs=IDS)
    assert torch.allclose(outputs(got.model, IDS), outputs(whole(), IDS), atol=1e-6)


def test_memory_that_was_trained_beside_it():
    trained = adapted(quantize_model(causal(), compute_dtype=None), modules_to_save=["cell"])
    memory = trained.base_model.model.cell.modules_to_save["default"].memory
    with torch.no_grad():
        memory.add_(1)
    got = merge(trained, "nf4", inputs=IDS)
    assert torch.equal(got.model.cell.memory, memory)
    assert got.error < 1e-5
    assert not hasattr(got.model, "is_loaded_in_4bit")
    assert not hasattr(got.model.config, "quantization_config")


def test_modes_are_put_back():
    trained = quantised().train()
    modes = [m.training for m in trained.modules()]
    outputs(trained, IDS)
    assert [m.training for m in trained.modules()] == modes


def test_replacing_modules():
    shared = nn.Linear(2, 2)
    model = nn.ModuleDict({"a": nn.Sequential(shared, nn.ReLU()), "b": shared})
    asked: list[str] = []

    def choose(name: str, module: nn.Module) -> nn.Module | None:
        asked.append(name)
        return nn.Sequential(nn.Linear(2, 2)) if isinstance(module, nn.Linear) else None

    assert replace_modules(model, choose) == ["a.0", "b"]
    assert model["b"] is model["a"][0]
    assert asked == ["a", "a.0", "a.1"]


def test_bad_input():
    trained, originals = quantised(), whole().state_dict()
    with pytest.raises(InputError, match="'16bit' or 'nf4', got '8bit'"):
        merge(trained, "8bit")
    with pytest.raises(InputError, match="originals: expected with"):
        merge(trained, "16bit")
    with pytest.raises(InputError, match="requantize"):
        merge(trained, "16bit", originals=originals, requantize=True)
    name = "model.layers.1.mlp.down_proj.weight"
    with pytest.raises(InputError, match=f"{name} .*no such weight"):
        merge(trained, "16bit", originals={k: t for k, t in originals.items() if k != name})
    with pytest.raises(InputError, match=r"got \(2, 2\)"):
        merge(trained, "16bit", originals=originals | {name: torch.zeros(2, 2)})
    with pytest.raises(InputError, match="got LlamaForCausalLM"):
        merge(quantize_model(whole()), "nf4")
    with pytest.raises(InputError, match="DoRA"):
        merge(quantised(use_dora=True), "nf4")
    done = quantised()
    done.merge_adapter()
    with pytest.raises(InputError, match="merged already"):
        merge(done, "nf4")
    # Nothing of all this has changed the model.
    assert isinstance(trained.base_model.model.model.layers[0].mlp.up_proj.base_layer, NF4Linear)
    assert merge(copy.deepcopy(trained), "nf4", inputs=IDS).error < 1e-5


def test_no_such_folder(tmp_path):
    with pytest.raises(InputError, match="folder with safetensors"):
        merge(quantised(), "16bit", originals=tmp_path)
