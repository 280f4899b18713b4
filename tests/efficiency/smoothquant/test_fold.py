"""Folding changes nothing and adds nothing, in every family; what cannot be folded is told apart."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from efficiency.errors import InputError
from efficiency.smoothquant.graph import find_groups
from efficiency.smoothquant.multiply import MultipliedLinear
from efficiency.smoothquant.smooth import fold, group_scales, smoothing_scales
from efficiency.smoothquant.weights import is_linear, matrix
from tests.efficiency.smoothquant.kit import Ops, ids, lively, output
from tests.rmt.families import FAMILIES

POST_NORM = ("bert", "roberta", "distilbert", "deberta-v2")
# Groups of each kind in a model of two layers.
POST, LLAMA, OLD = {"linear": 2, "input": 6}, {"linear": 4, "norm": 4}, {"linear": 2, "norm": 4, "input": 2}
EXPECTED = {
    **dict.fromkeys(POST_NORM, POST),
    "modernbert": {"linear": 4, "norm": 3, "input": 1},
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma"), LLAMA),
    "gpt2": OLD,
    "gpt_neox": OLD,
}


def kinds(model: nn.Module) -> dict[str, int]:
    found: dict[str, int] = {}
    for group in find_groups(model):
        found[group.kind] = found.get(group.kind, 0) + 1
    return found


def random_scales(model: nn.Module, group, *, powers: bool) -> torch.Tensor:
    """Scales far apart, which need not be good."""
    inputs = torch.rand(matrix(model.get_submodule(group.readers[0])).shape[1]).mul(6).exp()
    return group_scales(model, group, inputs, 0.7, powers=powers)


def fold_all(model: nn.Module, *, powers: bool, take=("norm", "linear")) -> int:
    """Folds all groups of some kinds; how many."""
    groups = [group for group in find_groups(model) if group.kind in take]
    for group in groups:
        scales = random_scales(model, group, powers=powers)
        assert scales.max() / scales.min() >= 4
        fold(model, group, scales)
    return len(groups)


@pytest.mark.parametrize("kind", FAMILIES)
def test_what_carries_scales_in_each_family(kind):
    assert kinds(lively(kind)) == EXPECTED[kind]


@pytest.mark.parametrize("powers", [True, False])
@pytest.mark.parametrize("kind", FAMILIES)
def test_folding_changes_no_output_and_adds_no_operation(kind, powers):
    model, tokens = lively(kind), ids()
    with Ops() as before:
        wanted = output(model, tokens)
    assert fold_all(model, powers=powers) >= 2
    with Ops() as after:
        found = output(model, tokens)
    assert after.counts == before.counts
    if powers and kind != "gemma":  # whose gain is 1 + w
        assert torch.equal(found, wanted)
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max().clamp(max=1)


@pytest.mark.parametrize("kind", sorted(set(FAMILIES) - {"gemma"}))
def test_powers_of_two_change_no_bit_in_bfloat16(kind):
    model, tokens = lively(kind).to(torch.bfloat16), ids()
    wanted = output(model, tokens)
    fold_all(model, powers=True)
    assert torch.equal(output(model, tokens), wanted)


def test_gemma_in_bfloat16_multiplies_by_what_it_divided_by():
    model, tokens = lively("gemma").to(torch.bfloat16), ids()
    norm = model.model.layers[0].input_layernorm
    with torch.no_grad():
        norm.weight.add_(0.37)
    wanted = output(model, tokens).float()
    group = next(g for g in find_groups(model) if g.producer.endswith("layers.0.input_layernorm"))
    asked = torch.full((16,), 24.0)
    gain = norm.weight.float() + 1
    applied = fold(model, group, asked)
    assert not torch.allclose(applied, asked, rtol=0.01)  # the trap: rounding 1 + w near w = -1
    assert torch.allclose(applied * (norm.weight.float() + 1), gain, rtol=1e-6)
    assert (output(model, tokens).float() - wanted).abs().max() < 0.03 * wanted.abs().max()


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_forgotten_reader_shows(kind):
    """The control: scales that reach all but one reader of a norm or a linear layer change outputs."""
    model, tokens = lively(kind), ids()
    wanted = output(model, tokens)
    group = next(g for g in find_groups(model) if g.kind != "input")
    kept = matrix(model.get_submodule(group.readers[-1])).clone()
    fold(model, group, random_scales(model, group, powers=True))
    matrix(model.get_submodule(group.readers[-1])).copy_(kept)
    assert (output(model, tokens) - wanted).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["bert", "distilbert", "deberta-v2", "gpt2", "gpt_neox", "modernbert"])
def test_multiplying_inputs_changes_no_output_and_adds_one_operation_each(kind):
    model, tokens = lively(kind), ids()
    with Ops() as before:
        wanted = output(model, tokens)
    readers = sum(len(g.readers) for g in find_groups(model) if g.kind == "input")
    assert fold_all(model, powers=True, take=("input",)) == EXPECTED[kind]["input"]
    with Ops() as after:
        found = output(model, tokens)
    assert (found - wanted).abs().max() <= 1e-5
    assert sum(isinstance(m, MultipliedLinear) for m in model.modules()) == readers
    # DeBERTa's query and key read the table of distances, too.
    calls = readers + (4 if kind == "deberta-v2" else 0)
    assert after.counts["aten.mul.Tensor"] - before.counts["aten.mul.Tensor"] == calls


def test_why_a_post_norm_carries_nothing():
    """1 / s in BERT's norm reaches the residual: the next norm sees other statistics."""
    model, tokens = lively("bert"), ids()
    wanted = output(model, tokens)
    layer = model.encoder.layer[1].attention
    norm, scale = model.encoder.layer[0].output.LayerNorm, torch.rand(16).mul(3).exp()
    with torch.no_grad():
        norm.weight.div_(scale)
        norm.bias.div_(scale)
        for linear in (layer.self.query, layer.self.key, layer.self.value):
            linear.weight.mul_(scale)
    assert (output(model, tokens) - wanted).abs().max() > 0.1
    assert {g.why for g in find_groups(model) if g.kind == "input"} == {"its input is a residual, too"} | {
        "GELUActivation stands between it and intermediate.dense"
    }


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("bert", {"hidden_act": "relu"}),
        ("distilbert", {"activation": "relu"}),
        ("gpt2", {"activation_function": "relu"}),
        ("gpt_neox", {"hidden_act": "relu"}),
    ],
)
def test_relu_lets_scales_pass(kind, changes):
    model, tokens = lively(kind, **changes), ids()
    assert kinds(model)["linear"] == 4
    wanted = output(model, tokens)
    fold_all(model, powers=True)
    assert torch.equal(output(model, tokens), wanted)


def test_heads_that_share_a_value_share_scales():
    model = lively("llama")
    group = next(g for g in find_groups(model) if g.producer.endswith("v_proj"))
    scales = random_scales(model, group, powers=False)
    assert torch.equal(scales[:8], scales[8:])  # two heads of 8 channels, one of values
    assert len(set(scales[:8].tolist())) > 4


@pytest.mark.parametrize("fields", [{"use_parallel_residual": False}, {"attention_bias": False}])
def test_other_layouts_of_gpt_neox(fields):
    model, tokens = lively("gpt_neox", **fields), ids()
    wanted = output(model, tokens)
    fold_all(model, powers=False)
    assert (output(model, tokens) - wanted).abs().max() <= 1e-5


def test_what_others_use_carries_nothing():
    model = lively("llama")
    layers = model.model.layers
    layers[0].input_layernorm.register_forward_hook(lambda *_: None)
    layers[1].post_attention_layernorm.weight = layers[0].post_attention_layernorm.weight
    layers[0].mlp.down_proj.weight = layers[1].mlp.down_proj.weight
    layers[0].self_attn.o_proj = nn.Sequential()  # no plain layer any more
    layers[1].self_attn.q_norm = layers[1].input_layernorm  # a second place
    found = {group.name: (group.kind, group.why) for group in find_groups(model)}
    assert "hooks" in found["model.layers.0.self_attn.q_proj"][1]
    assert "several places" in found["model.layers.0.mlp.gate_proj"][1]
    assert "several places" in found["model.layers.1.mlp.gate_proj"][1]
    assert "several places" in found["model.layers.1.self_attn.q_proj"][1]
    assert "model.layers.0.mlp.down_proj" not in found
    assert "model.layers.1.mlp.down_proj" not in found
    assert "model.layers.0.self_attn.o_proj" not in found
    assert found["model.layers.1.self_attn.o_proj"][0] == "linear"


def test_scales_follow_equation_4_and_dead_channels_are_left():
    x, w = torch.tensor([100.0, 1.0, 0.0, 4.0, torch.inf]), torch.tensor([1.0, 4.0, 2.0, 0.0, 1.0])
    assert smoothing_scales(x, w, 0.5).tolist() == [10.0, 0.5, 1.0, 1.0, 1.0]
    assert smoothing_scales(x, w, 1.0, powers=False).tolist() == [100.0, 1.0, 1.0, 1.0, 1.0]
    assert smoothing_scales(x, w, 0.5, powers=True).tolist() == [8.0, 0.5, 1.0, 1.0, 1.0]
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="0 to 1"):
            smoothing_scales(x, w, wrong)


def test_a_norm_that_silences_a_channel_stays():
    model, tokens = lively("llama"), ids()
    norm = model.model.layers[0].input_layernorm
    with torch.no_grad():
        norm.weight[3] = 0.0
        norm.weight[5] *= -1
    wanted = output(model, tokens)
    fold_all(model, powers=True)
    assert torch.equal(output(model, tokens), wanted)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_all_linear_layers_of_a_layer_are_in_a_group():
    for kind in FAMILIES:
        model = lively(kind)
        inside = {n for n, m in model.named_modules() if is_linear(m) and any(part.isdigit() for part in n.split("."))}
        assert inside == {name for group in find_groups(model) for name in group.readers}, kind
