"""Calibration, search and the whole of smooth_quantize, against plain rounding in floats."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from efficiency.errors import InputError
from efficiency.int8 import Int8Linear, Marks
from efficiency.int8.multiplied import MultipliedInt8Linear
from efficiency.smoothquant import Statistics, collect, find_groups, smooth_quantize
from efficiency.smoothquant.search import GRID, group_loss, search_alpha
from efficiency.smoothquant.smooth import fold, group_scales
from efficiency.smoothquant.weights import is_linear, matrix
from tests.efficiency.smoothquant.kit import ids, lively, output, plain_w8a8
from tests.rmt.families import FAMILIES

BATCHES = [{"input_ids": ids(seed=seed)} for seed in range(3)]


def inner(model: nn.Module) -> list[str]:
    """Names of linear layers inside the model's layers."""
    return [n for n, m in model.named_modules() if is_linear(m) and any(part.isdigit() for part in n.split("."))]


def in_w8a8(model: nn.Module, tokens: Tensor) -> Tensor:
    """The output with each inner layer's product rounded in floats."""
    hooks = []
    for name in inner(model):

        def plain(module: Any, args: Any, _: Tensor) -> Tensor:
            return plain_w8a8(args[0], matrix(module), module.bias)

        hooks.append(model.get_submodule(name).register_forward_hook(plain))
    try:
        return output(model, tokens)
    finally:
        for hook in hooks:
            hook.remove()


def with_outliers(kind: str) -> Any:
    """A model with two channels of each norm that are 100 times the others, whose readers make up for it."""
    model = lively(kind)
    for group in find_groups(model):
        if group.kind == "norm":
            scales = torch.ones(matrix(model.get_submodule(group.name)).shape[1])
            scales[[2, 9]] = 0.01
            fold(model, group, scales)
    return model


def test_statistics_are_those_of_a_plain_loop_with_memory_apart():
    model, marks = lively("llama"), Marks()
    names = inner(model)
    mask = torch.zeros(2, 12, dtype=torch.bool)
    mask[0, :3] = True
    mask[1, 5] = True
    seen: dict[str, list[Tensor]] = {name: [] for name in names}
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, args, name=name: seen[name].append(args[0]))
        for name in names
    ]
    for batch in BATCHES:
        output(model, batch["input_ids"])
    for hook in hooks:
        hook.remove()

    def read(m: nn.Module) -> None:
        with marks.told(mask):
            for batch in BATCHES:
                m(**batch)

    found = collect(model, read, names, marks=marks, groups=find_groups(model), samples=5)
    for name in names:
        text = torch.cat([x[~mask] for x in seen[name]])
        memory = torch.cat([x[mask] for x in seen[name]])
        assert torch.equal(found.maxima[name]["text"], text.abs().amax(0))
        assert torch.equal(found.maxima[name]["memory"], memory.abs().amax(0))
        assert found.rows[name] == {"text": 3 * 20, "memory": 3 * 4}
    one = "model.layers.0.mlp.gate_proj"
    assert set(found.samples) == {group.name for group in find_groups(model)}
    every = {tuple(row) for x in seen[one] for row in x[mask].tolist()}
    assert found.samples[one]["memory"].shape == (5, 16)
    assert {tuple(row) for row in found.samples[one]["memory"].tolist()} <= every
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_statistics_are_saved_loaded_and_merged(tmp_path):
    model = lively("llama")
    names, groups = inner(model), find_groups(model)
    whole = collect(model, BATCHES, names, progress=False, fingerprint="a")
    parts = [
        collect(model, some, names, groups=groups, samples=4, progress=False, fingerprint="a")
        for some in (BATCHES[:1], BATCHES[1:])
    ]
    both = parts[0].merge(parts[1])
    both.save(tmp_path / "statistics.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["statistics.safetensors"]
    again = Statistics.load(tmp_path / "statistics.safetensors", "a")
    assert again.rows == whole.rows == both.rows
    for name in names:
        assert torch.equal(again.maxima[name]["text"], whole.maxima[name]["text"])
    assert again.samples[groups[0].name]["text"].shape[0] == 8
    with pytest.raises(InputError, match="'b'"):
        Statistics.load(tmp_path / "statistics.safetensors", "b")
    with pytest.raises(InputError, match="calibrate"):
        Statistics.load(tmp_path / "none")
    with pytest.raises(InputError, match="of one model"):
        whole.merge(collect(model, BATCHES, names, progress=False, fingerprint="c"))


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt_neox", "gpt2", "modernbert"])
def test_planted_outliers_smoothed_have_a_fifth_of_the_error(kind):
    model, tokens = with_outliers(kind), ids(seed=9)
    statistics = collect(model, BATCHES, inner(model), progress=False)
    norm = next(group for group in find_groups(model) if group.kind == "norm")
    seen = statistics.channels(norm.name)
    assert seen[2] > 40 * seen.median()
    exact = output(model, tokens)
    before = (in_w8a8(model, tokens) - exact).norm()
    for group in find_groups(model):
        if group.kind != "input":
            fold(model, group, group_scales(model, group, statistics.channels(group.name), 0.5))
    after = (in_w8a8(model, tokens) - exact).norm()
    assert after <= before / 5


@pytest.mark.parametrize("activations", ["token", "tensor", "static"])
def test_the_search_finds_what_a_plain_loop_over_the_grid_finds(activations):
    model = with_outliers("llama")
    groups = find_groups(model)
    statistics = collect(model, BATCHES, inner(model), groups=groups, samples=16, progress=False)
    group = next(g for g in groups if g.kind == "norm")
    found = search_alpha(model, group, statistics, activations=activations)
    if activations == "token":
        x = statistics.samples[group.name]["text"]
        for alpha in (GRID[0], 0.5, GRID[-1]):
            s = group_scales(model, group, statistics.channels(group.name), alpha)
            pairs = [
                (plain_w8a8(x / s, matrix(model.get_submodule(n)) * s), x @ matrix(model.get_submodule(n)).t())
                for n in group.readers
            ]
            loss = sum((a - b).square().sum() for a, b in pairs) / sum(b.square().sum() for _, b in pairs)
            assert found.losses[alpha] == pytest.approx(float(loss), rel=1e-3)
    assert found.loss == min(found.losses.values()) < found.plain / 10
    assert found.plain == group_loss(model, group, statistics, None, activations=activations)


def test_memory_weighs_in_the_search():
    model, marks = lively("llama"), Marks()
    group = next(g for g in find_groups(model) if g.kind == "norm")
    mask = torch.arange(12) < 2

    def read(m: nn.Module) -> None:
        with marks.told(mask):
            m(**BATCHES[0])

    statistics = collect(model, read, inner(model), marks=marks, groups=find_groups(model), samples=8)
    losses = [group_loss(model, group, statistics, None, memory_weight=w) for w in (0.0, 1.0, 1e6)]
    assert losses[0] == group_loss(model, group, statistics, None, memory=False)
    assert min(losses[0], losses[2]) < losses[1] < max(losses[0], losses[2])
    assert statistics.channels(group.name, memory_weight=50.0).max() > statistics.channels(group.name).max()


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_model_of_each_family_in_int8(kind):
    model, tokens = lively(kind), ids(seed=9)
    exact, names = output(model, tokens), inner(model)
    report = smooth_quantize(model, BATCHES, progress=False)
    assert sorted(report.quantised) == sorted(n for n in names)
    assert all(isinstance(model.get_submodule(name), Int8Linear) for name in names)
    assert report.bytes_after < 0.6 * report.bytes_before  # tiny layers: scales and biases weigh more
    error = (output(model, tokens) - exact).norm() / exact.norm()
    assert 0 < error < 0.1
    assert str(report).count("\n") == len(report.groups) + 1


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_multiplying_where_nothing_carries_scales(kind):
    model, tokens = lively(kind), ids(seed=9)
    exact = output(model, tokens)
    report = smooth_quantize(model, BATCHES, alpha=0.5, multiply=True, progress=False)
    assert report.multiplied
    for name in report.multiplied:
        assert type(model.get_submodule(name)) is MultipliedInt8Linear
    assert (output(model, tokens) - exact).norm() < 0.1 * exact.norm()


def test_static_scales_are_those_of_smoothed_inputs():
    model = with_outliers("llama")
    report = smooth_quantize(model, BATCHES, activations="static", alpha="search", progress=False)
    seen: dict[str, float] = dict.fromkeys(report.quantised, 0.0)

    def keep(name: str) -> Any:
        def hook(_: nn.Module, args: Any) -> None:
            seen[name] = max(seen[name], float(args[0].abs().max()))

        return hook

    for name in seen:
        model.get_submodule(name).register_forward_pre_hook(keep(name))
    for batch in BATCHES:
        output(model, batch["input_ids"])
    for name, largest in seen.items():
        assert float(model.get_submodule(name).input_scale) == pytest.approx(largest / 127, rel=0.1)
    assert all(g.loss <= g.plain for g in report.groups if g.alpha is not None)


def test_statistics_are_used_again_and_alpha_goes_by_name():
    model = lively("llama")
    twin, third = copy.deepcopy(model), copy.deepcopy(model)
    report = smooth_quantize(model, BATCHES, alpha=0.5, progress=False)
    smooth_quantize(twin, statistics=report.statistics, alpha={"*": 0.5})
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    by_name = smooth_quantize(third, statistics=report.statistics, alpha={"*.layers.1.*": 0.8}, progress=False)
    assert {g.alpha for g in by_name.groups if ".1." in g.name} == {0.8}
    assert {g.alpha for g in by_name.groups if ".0." in g.name} == {0.5}


def test_tied_heads_and_what_is_skipped_stay():
    model = lively("llama", tie_word_embeddings=True)
    head = model.lm_head.weight
    report = smooth_quantize(model, BATCHES, skip=("*.0.mlp.down_proj",), progress=False)
    assert model.lm_head.weight is head is model.model.embed_tokens.weight
    assert report.left["lm_head"] == "has a weight that is tied"
    assert report.left["model.layers.0.mlp.down_proj"] == "is in skip"
    assert type(model.model.layers[0].mlp.down_proj) is nn.Linear
    assert isinstance(model.model.layers[0].mlp.gate_proj, Int8Linear)


def test_memory_in_floating_point_hands_the_marks_on():
    marks = Marks()
    model, other = lively("llama"), lively("llama")
    report = smooth_quantize(model, BATCHES, memory="float", marks=marks, progress=False)
    assert all(model.get_submodule(name).marks is marks for name in report.quantised)
    report = smooth_quantize(other, BATCHES, marks=marks, progress=False)
    assert all(other.get_submodule(name).marks is None for name in report.quantised)


def test_merged_adapters_are_taken_others_refused():
    adapted = get_peft_model(lively("llama"), LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    with pytest.raises(InputError, match="merge_and_unload"):
        smooth_quantize(adapted, BATCHES)
    merged = adapted.merge_and_unload()
    exact = output(merged, ids())
    smooth_quantize(merged, BATCHES, progress=False)
    assert (output(merged, ids()) - exact).norm() < 0.1 * exact.norm()
    with pytest.raises(InputError, match="int8 already"):
        smooth_quantize(merged, BATCHES)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"alpha": 2.0}, "0 to 1"),
        ({"alpha": "best"}, "'best'"),
        ({"alpha": {"*.nothing": 0.3}}, "nothing"),
        ({"activations": "row"}, "'row'"),
        ({"memory": "bf16"}, "'bf16'"),
        ({"memory": "float"}, "marks"),
        ({"skip": ("*",)}, "smaller skip"),
        ({"calibration": None}, "neither"),
        ({"calibration": []}, "got none through"),
        ({"statistics": Statistics()}, "calibrate"),
    ],
)
def test_wrong_settings_are_refused_before_anything_changes(fields, message):
    model = lively("llama")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match=message):
        smooth_quantize(model, **({"calibration": BATCHES, "progress": False} | fields))
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_models_that_cannot_be_quantised_are_refused():
    bits = pytest.importorskip("bitsandbytes")
    model = lively("llama")
    model.model.layers[0].mlp.up_proj = bits.nn.Linear4bit(16, 32)
    with pytest.raises(InputError, match="Params4bit"):
        smooth_quantize(model, BATCHES)
    with pytest.raises(InputError, match="known family"):
        smooth_quantize(nn.Sequential(nn.Linear(4, 4)), [torch.ones(2, 4)])
    report = smooth_quantize(nn.Sequential(nn.Linear(4, 4)), alpha=None)
    assert report.quantised == ["0"]
    with pytest.raises(InputError, match="meta"):
        smooth_quantize(nn.Sequential(nn.Linear(4, 4, device="meta")), alpha=None)


def test_a_norm_that_a_router_reads_is_refused():
    model = lively("llama")
    mlp = model.model.layers[1].mlp
    mlp.router = nn.Linear(16, 3)
    run = type(mlp).forward
    mlp.forward = lambda x: run(mlp, x) + mlp.router(x).sum()
    with pytest.raises(InputError, match="router"):
        smooth_quantize(model, BATCHES, progress=False)
