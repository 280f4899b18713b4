"""Files of 8-bit models: what comes back is what was saved, bit for bit, and what does not fit is refused."""

from __future__ import annotations

import copy
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaForCausalLM,
    LlamaModel,
)

from efficiency.errors import InputError
from efficiency.int8 import Int8Linear, Marks
from efficiency.int8.checkpoint import load, load_into, save
from efficiency.int8.files import sizes
from efficiency.int8.hugging_face import Int8Config, mark
from efficiency.int8.layout import Layout
from efficiency.int8.linear import ACTIVATIONS
from tests.efficiency.int8.checkpoint_nets import llama, quantised, same_state, tokens
from tests.rmt.families import FAMILIES, build
from tests.rmt.tiny import causal


def mixed(name: str) -> str:
    """Static inputs for one kind of layer, per tensor for another, per token for the rest."""
    return "static" if "down_proj" in name else "tensor" if "mlp" in name else "token"


def edit(folder: Path, change: Any) -> None:
    """Change the tensors of a saved model."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def edit_config(folder: Path, change: Any) -> None:
    """Change the quantization_config of a saved model."""
    config = json.loads((folder / "config.json").read_text())
    change(config["quantization_config"])
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("kind", [*ACTIVATIONS, mixed])
def test_a_model_comes_back_bit_for_bit(kind: Any, tmp_path: Path) -> None:
    model = quantised(llama(), kind)
    save(model, tmp_path / "int8")
    again = load(tmp_path / "int8")
    assert type(again) is type(model)
    assert same_state(model, again)
    assert not again.training
    assert torch.equal(model(tokens()).logits, again(tokens()).logits)
    kinds = {n: m.activations for n, m in model.named_modules() if isinstance(m, Int8Linear)}
    assert kinds == {n: m.activations for n, m in again.named_modules() if isinstance(m, Int8Linear)}
    fixed = [n for n, p in again.named_parameters() if not p.requires_grad]
    assert len(fixed) == sum("weight_scale" in n or "input_scale" in n or p.dtype == torch.int8
                             for n, p in model.named_parameters())  # fmt: skip


def test_a_loaded_model_is_saved_by_its_own_save_pretrained_and_over_itself(tmp_path: Path) -> None:
    model = quantised(llama())
    mark(model)
    model.save_pretrained(tmp_path / "a", max_shard_size="8KB")
    assert len(list((tmp_path / "a").glob("*.safetensors"))) > 1
    again = load(tmp_path / "a", AutoModelForCausalLM)
    again.save_pretrained(tmp_path / "b")
    save(again, tmp_path / "a")  # whose files it may still be reading
    assert [p.name for p in (tmp_path / "a").glob("*.safetensors")] == ["model.safetensors"]
    assert not (tmp_path / "a" / "model.safetensors.index.json").exists()
    for folder in ("a", "b"):
        assert same_state(model, load(tmp_path / folder))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_scales_stay_in_32_bit_whatever_the_model_is_in(tmp_path: Path) -> None:
    save(quantised(llama(), "static"), tmp_path)
    model = load(tmp_path, dtype=torch.bfloat16)
    formats = {n.rpartition(".")[2]: p.dtype for n, p in model.named_parameters() if "self_attn" in n}
    assert formats == {"weight": torch.int8, "weight_scale": torch.float32, "input_scale": torch.float32}
    assert model.model.norm.weight.dtype == torch.bfloat16
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert same_state(model, copied)
        assert torch.equal(model(tokens()).logits, copied(tokens()).logits)
    model.half()  # which transformers refuses for others
    assert model.model.norm.weight.dtype == torch.float16


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_comes_back(family: str, tmp_path: Path) -> None:
    model = quantised(build(family), keep=("lm_head", "embed_out"))
    save(model, tmp_path)
    assert same_state(model, load(tmp_path))


def test_a_body_is_loaded_from_a_model_and_a_model_from_a_body(tmp_path: Path) -> None:
    model = quantised(llama(), mixed)
    save(model, tmp_path / "whole")
    body = load(tmp_path / "whole", AutoModel)
    assert isinstance(body, LlamaModel)
    assert same_state(model.model, body)
    save(body, tmp_path / "body")
    again = load(tmp_path / "body", AutoModelForCausalLM)
    assert same_state(again.model, body)
    assert type(again.lm_head) is nn.Linear
    scored = load(tmp_path / "body", AutoModelForSequenceClassification)
    assert type(scored.score) is nn.Linear  # of which the file has nothing


def test_tied_heads_stay_tied(tmp_path: Path) -> None:
    model = quantised(llama(tie_word_embeddings=True))
    save(model, tmp_path)
    again = load(tmp_path)
    assert same_state(model, again)
    assert again.lm_head.weight is again.model.embed_tokens.weight


def test_dequantize_gives_linear_layers_of_the_same_numbers(tmp_path: Path) -> None:
    save(quantised(llama(attention_bias=True)), tmp_path)
    model = load(tmp_path)
    inner = model.model.layers[0].self_attn.q_proj
    weight, bias = inner.dequantised(), inner.bias
    plain = model.dequantize()
    found = plain.model.layers[0].self_attn.q_proj
    assert type(found) is nn.Linear
    assert torch.equal(found.weight, weight)
    assert found.bias is bias
    plain.save_pretrained(tmp_path / "float")
    assert "quantization_config" not in json.loads((tmp_path / "float" / "config.json").read_text())


class Net(nn.Module):
    """A module that transformers does not know: two layers, a tied one, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(9, 32)
        self.first, self.second = nn.Linear(32, 48), nn.Linear(48, 32, bias=False)
        self.head = nn.Linear(32, 9, bias=False)
        self.head.weight = self.words.weight
        self.register_buffer("shift", torch.randn(32))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_any_module_is_filled(device: str, tmp_path: Path) -> None:
    net = quantised(Net(), keep=("head",))
    save(net, tmp_path)
    with torch.device(device):
        fresh = Net()
    again = load_into(fresh, tmp_path)
    assert same_state(net, again)
    assert again.head.weight is again.words.weight
    with pytest.raises(InputError, match="expected a saved model, got"):
        load(tmp_path)


def test_a_module_of_another_structure_is_refused(tmp_path: Path) -> None:
    save(quantised(Net(), keep=("head",)), tmp_path)
    more, fewer, wider = Net(), Net(), Net()
    more.third = nn.Linear(32, 32)
    del fewer.shift
    wider.first = nn.Linear(32, 50)
    for net, match in (
        (more, r"third\.weight: expected it among"),
        (fewer, "shift: expected no such"),
        (wider, r"first\.bias: expected shape \(50,\), got \(48,\)"),
    ):
        with pytest.raises(InputError, match=match):
            load_into(net, tmp_path)


def test_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    save(quantised(llama(hidden_size=64, intermediate_size=128, attention_bias=True)), tmp_path)
    found = sizes(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    inside = {n: t for n, t in tensors.items() if "_proj." in n}
    assert found.layers == 14
    assert found.stored == sum(t.numel() * t.element_size() for t in inside.values())
    assert found.float32 == sum(4 * t.numel() for n, t in inside.items() if "scale" not in n)
    assert found.ratio <= 0.30
    llama().save_pretrained(tmp_path / "float")
    with pytest.raises(InputError, match="expected 8-bit weights, got none"):
        sizes(tmp_path / "float")


Q = "model.layers.1.self_attn.q_proj"
DAMAGE = {
    "weight missing": (lambda t: t.pop(f"{Q}.weight"), r"q_proj\.weight: expected it among the weights"),
    "scale missing": (lambda t: t.pop(f"{Q}.weight_scale"), r"q_proj\.weight_scale: expected it among the weights"),
    "layer missing": (
        lambda t: [t.pop(f"{Q}.{part}") for part in ("weight", "weight_scale", "input_scale")],
        r"q_proj\.weight: expected it among the weights",
    ),
    "inputs missing": (lambda t: t.pop(f"{Q}.input_scale"), r"q_proj\.input_scale: expected it among"),
    "other shape": (
        lambda t: t.update({f"{Q}.weight": t[f"{Q}.weight"][:5].clone()}),
        r"expected shape \(32, 32\), got \(5, 32\)",
    ),
    "one scale": (
        lambda t: t.update({f"{Q}.weight_scale": t[f"{Q}.weight_scale"][:1].clone()}),
        r"expected shape \(32, 1\), got \(1, 1\)",
    ),
    "float weight": (lambda t: t.update({f"{Q}.weight": t[f"{Q}.weight"].float()}), "expected int8, got F32"),
    "whole scale": (lambda t: t.update({f"{Q}.weight_scale": t[f"{Q}.weight_scale"].int()}), "floating point, got I32"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_files_that_do_not_fit_are_refused(case: str, tmp_path: Path) -> None:
    save(quantised(llama(), "static"), tmp_path)
    change, match = DAMAGE[case]
    edit(tmp_path, change)
    with pytest.raises(InputError, match=match):
        load(tmp_path)


def test_half_a_file_and_none_are_refused(tmp_path: Path) -> None:
    save(quantised(llama()), tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    for cut in (len(whole) // 2, 5, 0):
        (tmp_path / "model.safetensors").write_bytes(whole[:cut])
        for read in (load, sizes, lambda folder: load_into(llama(), folder)):
            with pytest.raises(InputError, match="expected whole weights"):
                read(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors"):
        load(tmp_path)
    with pytest.raises(InputError, match=r"expected config\.json"):
        load(tmp_path / "nothing")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="expected JSON"):
        load(tmp_path)


def group(config: dict[str, Any]) -> Any:
    """The only group of a quantization_config."""
    return config["config_groups"]["group_0"]


FOREIGN = {
    "packed": (lambda c: c.update(format="pack-quantized"), "expected format 'int-quantized', got 'pack-quantized'"),
    "group packed": (lambda c: group(c).update(format="pack-quantized"), "expected group_0 in format"),
    "asymmetric": (lambda c: group(c)["input_activations"].update(symmetric=False), "input_activations in symmetric"),
    "4 bits": (lambda c: group(c)["weights"].update(num_bits=4), r"weights in symmetric int8, got .*'num_bits': 4"),
    "float": (lambda c: group(c)["weights"].update(type="float"), "weights in symmetric int8"),
    "grouped": (lambda c: group(c)["weights"].update(strategy="group"), "scale of each channel, got 'group'"),
    "inputs as they are": (lambda c: group(c).update(input_activations=None), r"input_activations, got None"),
    "inputs by block": (lambda c: group(c)["input_activations"].update(strategy="block"), "each token, or of a tensor"),
    "outputs": (lambda c: group(c).update(output_activations={"num_bits": 8}), "without output_activations"),
    "cache": (lambda c: c.update(kv_cache_scheme={"num_bits": 8}), "no kv_cache_scheme"),
    "no groups": (lambda c: c.update(config_groups={}), "expected config_groups"),
    "other method": (lambda c: c.update(quant_method="gptq"), "expected quant_method"),
    "no layer": (lambda c: group(c).update(targets=["Conv2d"]), "expected linear layers that quantization_config"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_other_formats_are_refused(case: str, tmp_path: Path) -> None:
    save(quantised(llama()), tmp_path)
    change, match = FOREIGN[case]
    edit_config(tmp_path, change)
    with pytest.raises(InputError, match=match):
        load(tmp_path)


def test_names_of_others_are_read(tmp_path: Path) -> None:
    """Patterns, names before classes, and scales in 16 bit, as other programs write them."""
    save(quantised(llama()), tmp_path)
    edit(tmp_path, lambda t: t.update({n: v.bfloat16() for n, v in t.items() if n.endswith("weight_scale")}))

    def foreign(config: dict[str, Any]) -> None:
        wide = copy.deepcopy(group(config))
        wide["targets"] = ["re:.*mlp.*", f"{Q}"]
        wide["input_activations"] |= {"strategy": "tensor", "observer": None, "group_size": None}
        config["config_groups"]["group_1"] = wide
        config["ignore"] = ["re:.*lm_head"]

    edit_config(tmp_path, foreign)
    model = load(tmp_path)
    kinds = {n: m.activations for n, m in model.named_modules() if isinstance(m, Int8Linear)}
    assert len(kinds) == 14
    assert all((kind == "tensor") == ("mlp" in name or name == Q) for name, kind in kinds.items())
    assert model.model.layers[0].mlp.up_proj.weight_scale.dtype == torch.float32


def test_a_model_that_is_not_quantised_is_refused(tmp_path: Path) -> None:
    for use in (lambda: mark(llama()), lambda: save(llama(), tmp_path / "a"), lambda: Layout.of(nn.ReLU())):
        with pytest.raises(InputError, match="expected a model with 8-bit layers"):
            use()
    assert not (tmp_path / "a").exists()
    llama().save_pretrained(tmp_path / "b")
    with pytest.raises(InputError, match="expected a quantization_config, got none"):
        load(tmp_path / "b")


def test_a_save_that_breaks_off_leaves_what_stood_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = quantised(llama())
    save(model, tmp_path / "int8")
    before = {p.name: p.read_bytes() for p in (tmp_path / "int8").iterdir()}
    other = quantised(llama(seed=1))

    def broken(folder: Path, **_: Any) -> None:
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(other, "save_pretrained", broken)
    with pytest.raises(OSError, match="disk full"):
        save(other, tmp_path / "int8")
    assert {p.name: p.read_bytes() for p in (tmp_path / "int8").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["int8"]


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_save_cut_off_between_two_files_leaves_nothing_that_loads(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Float weights under the new configuration, or 8-bit numbers under the old one, would load without a word."""
    folder, replace = tmp_path / "out", os.replace
    llama().save_pretrained(folder)

    def broken(source: Path, target: Path) -> None:
        if Path(target) == folder / file:
            raise OSError("cut off")
        replace(source, target)

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="cut off"):
        save(quantised(llama()), folder)
    for read in (LlamaForCausalLM.from_pretrained, load):
        with pytest.raises((OSError, InputError)):
            read(folder)
    monkeypatch.undo()
    save(quantised(llama()), folder)
    assert same_state(quantised(llama()), load(folder))


class Telling(Net):
    """One that tells where its memory is."""

    def on_positions(self, teller: Any) -> None:
        self.teller = teller


def test_memory_is_kept_apart_in_any_module_that_tells_where_it_is(tmp_path: Path) -> None:
    for net in (quantised(Telling(), keep=("head",)), quantised(Net(), keep=("head",))):
        marks = Marks()
        net.first.marks = net.second.marks = marks
        if isinstance(net, Telling):
            save(net, tmp_path)
            again = load_into(Telling(), tmp_path)
            assert again.teller is again.first.marks is again.second.marks is not None
        else:
            with pytest.raises(InputError, match="float_memory: expected a model that tells"):
                save(net, tmp_path / "not")


def test_the_format_may_be_that_of_the_file(tmp_path: Path) -> None:
    save(quantised(llama()).bfloat16(), tmp_path)
    assert load(tmp_path, dtype="auto").model.norm.weight.dtype == torch.bfloat16


def test_fingerprints_tell_how_inputs_are_rounded() -> None:
    names = set()
    for kind, marks in (("token", None), ("tensor", None), ("token", Marks())):
        model = quantised(causal(), kind)
        for module in model.modules():
            if isinstance(module, Int8Linear):
                module.marks = marks
        names.add(model.fingerprint())
    assert len(names) == 3


def test_the_config_reads_as_a_dictionary() -> None:
    config = Int8Config(Layout.of(quantised(llama(), mixed)))
    assert Int8Config.from_dict(dict(config)) == config
    assert json.loads(config.to_json_string()) == config.to_dict()
    assert config.get("format") == "int-quantized"
    assert config.to_dict()["quant_method"] == "compressed-tensors"


def test_a_scale_of_no_layer_is_refused(tmp_path: Path) -> None:
    save(quantised(llama()), tmp_path)
    edit(tmp_path, lambda t: t.update({"nowhere.weight_scale": torch.ones(2, 1)}))
    with pytest.raises(InputError, match=r"nowhere\.weight_scale: expected no such scale"):
        load_into(llama(), tmp_path)
