"""Files of 8-bit models whose layers multiply their input: they come back so, and nobody else loads them without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

from efficiency.errors import InputError
from efficiency.int8.checkpoint import load, load_into, save
from efficiency.int8.files import sizes
from efficiency.int8.layout import Layout
from efficiency.int8.multiplied import MultipliedInt8Linear
from efficiency.smoothquant import smooth_quantize
from rmt import RMTConfig, RMTForSequenceClassification
from tests.efficiency.int8.checkpoint_nets import same_state
from tests.efficiency.smoothquant.kit import ids, output
from tests.rmt.families import SPECIAL, build


def multiplied(kind: str, activations: str = "token") -> tuple[Any, list[str]]:
    """A model in 8 bits, and the names of its layers that multiply; inputs differ from channel to channel."""
    model = build(kind)
    embeddings = model.get_input_embeddings()
    with torch.no_grad():
        embeddings.weight.mul_(torch.linspace(-2, 2, 16).exp())
    how: dict[str, Any] = {"activations": activations, "multiply": True, "progress": False}
    return model, smooth_quantize(model, [{"input_ids": ids()}], **how).multiplied


def edit(folder: Path, part: str, change: Any) -> None:
    """Change the tensors, or the quantization_config, of a saved model."""
    if part == "tensors":
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    config = json.loads((folder / "config.json").read_text())
    change(config["quantization_config"])
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("activations", ["token", "static"])
@pytest.mark.parametrize("kind", ["bert", "deberta-v2", "modernbert", "gpt2"])
def test_a_model_that_multiplies_comes_back_bit_for_bit(kind: str, activations: str, tmp_path: Path) -> None:
    model, names = multiplied(kind, activations)
    assert names
    save(model, tmp_path / "a")
    model.save_pretrained(tmp_path / "b")
    for again in (load(tmp_path / "a"), load(tmp_path / "b"), load_into(build(kind), tmp_path / "a")):
        assert same_state(model, again)
        found = [n for n, m in again.named_modules() if isinstance(m, MultipliedInt8Linear)]
        assert sorted(found) == sorted(names)
        assert not any(again.get_submodule(n).multiplier.requires_grad for n in names)
        assert torch.equal(output(again, ids(seed=9)), output(model, ids(seed=9)))
        assert set(Layout.of(again).multiplied) == set(names)


def test_multipliers_count_and_matter(tmp_path: Path) -> None:
    model, names = multiplied("bert")
    wanted = output(model, ids())
    save(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    stored = [t for n, t in tensors.items() if n.rpartition(".")[0] in set(model_layers(model))]
    assert sizes(tmp_path).stored == sum(t.numel() * t.element_size() for t in stored)
    for name in names:
        model.get_submodule(name).multiplier.data.fill_(1)
    assert (output(model, ids()) - wanted).norm() > 0.1 * wanted.norm()


def model_layers(model: Any) -> list[str]:
    """Names of its 8-bit layers."""
    return [n for n, m in model.named_modules() if hasattr(m, "weight_scale")]


def test_multipliers_stay_in_32_bit(tmp_path: Path) -> None:
    model, names = multiplied("bert")
    save(model, tmp_path)
    for again in (load(tmp_path, dtype=torch.bfloat16), load(tmp_path).half()):
        for name in names:
            assert again.get_submodule(name).multiplier.dtype == torch.float32
            assert torch.equal(again.get_submodule(name).multiplier, model.get_submodule(name).multiplier)


@pytest.mark.parametrize("way", ["save", "save_pretrained"])
def test_a_recurrent_model_that_multiplies_comes_back(way: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = RMTConfig(backbone_config=build("bert").config, num_memory_tokens=2, segment_size=8, **SPECIAL)
    model = RMTForSequenceClassification(config).eval()
    assert smooth_quantize(model, lambda it: it(ids()), multiply=True, progress=False).multiplied
    save(model, tmp_path) if way == "save" else model.save_pretrained(tmp_path)
    again = RMTForSequenceClassification.from_pretrained(tmp_path).eval()
    assert same_state(model, again)
    assert torch.equal(model(ids()).logits, again(ids()).logits)


def test_dequantised_layers_hold_the_multiplication(tmp_path: Path) -> None:
    model, names = multiplied("gpt2")
    save(model, tmp_path)
    again = load(tmp_path)
    x = torch.randn(3, again.get_submodule(names[0]).in_features)
    layer = again.get_submodule(names[0])
    wanted = (x * layer.multiplier) @ layer.dequantised().t() + layer.bias
    plain = again.dequantize()
    torch.testing.assert_close(plain.get_submodule(names[0])(x), wanted)


NAME = "encoder.layer.0.output.dense.multiplier"
DAMAGE = {
    "missing": ("tensors", lambda t: t.pop(NAME), "multiplier: expected it among the weights"),
    "other shape": ("tensors", lambda t: t.update({NAME: t[NAME][:5].clone()}), r"expected shape \(32,\), got \(5,\)"),
    "not said": ("config", lambda c: c.pop("multiplied"), "expected format 'int-quantized', got"),
    "other format": ("config", lambda c: c.update(format="int-quantized"), "expected format 'int-quantized-mult"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_files_that_do_not_fit_are_refused(case: str, tmp_path: Path) -> None:
    part, change, match = DAMAGE[case]
    save(multiplied("bert")[0], tmp_path)
    edit(tmp_path, part, change)
    for read in (load, lambda folder: load_into(build("bert"), folder)):
        with pytest.raises(InputError, match=match):
            read(tmp_path)


@pytest.mark.parametrize(("kind", "family"), [(AutoModel, "bert"), (AutoModelForCausalLM, "gpt2")])
def test_others_refuse_it(kind: Any, family: str, tmp_path: Path) -> None:
    """Without the package they cannot load any such file; with it, the format is none of theirs."""
    pytest.importorskip("compressed_tensors", exc_type=ImportError)
    save(multiplied(family)[0], tmp_path)
    with pytest.raises((ValueError, KeyError, RuntimeError), match="int-quantized-multiplied"):
        kind.from_pretrained(tmp_path)
