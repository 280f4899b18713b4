"""What smooth_quantize refuses, it refuses before it has changed anything; and what it keeps when asked to."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from efficiency.errors import InputError
from efficiency.smoothquant import collect, find_groups, smooth_quantize
from efficiency.smoothquant.search import search_alpha
from efficiency.smoothquant.smooth import fold, foresee, group_scales
from efficiency.smoothquant.weights import is_linear, matrix
from tests.efficiency.smoothquant.kit import ids, lively
from tests.rmt.families import FAMILIES

BATCHES = [{"input_ids": ids()}]


def state(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all tensors."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_unchanged(model: nn.Module, before: dict[str, Tensor]) -> None:
    """Same names, same formats, same numbers."""
    after = model.state_dict()
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("alpha", [None, 0.5])
def test_weights_that_are_not_finite(kind, value, alpha):
    model = lively(kind)
    # Calibration would be refused for what such weights give; statistics come from a sound model.
    statistics = smooth_quantize(copy.deepcopy(model), BATCHES, samples=4, progress=False).statistics
    *_, name = [n for n, m in model.named_modules() if is_linear(m) and any(part.isdigit() for part in n.split("."))]
    with torch.no_grad():
        matrix(model.get_submodule(name))[1, 2] = value
    before = state(model)
    with pytest.raises(InputError, match=f"{name}: expected finite weights"):
        smooth_quantize(model, statistics=statistics, alpha=alpha, progress=False)
    assert_unchanged(model, before)


@pytest.mark.parametrize("how", [{"alpha": 0.5}, {"alpha": "search"}, {"alpha": None, "activations": "static"}])
@pytest.mark.parametrize("what", ["maxima", "samples"])
def test_statistics_with_other_numbers_of_channels(how, what):
    model = lively("llama")
    statistics = smooth_quantize(copy.deepcopy(model), BATCHES, samples=4, progress=False).statistics
    assert statistics is not None
    found: Any = getattr(statistics, what)
    *_, name = [n for n in found if n.endswith("gate_proj")]  # the last group of the last layer
    found[name] = {kind: tensor[..., :-1] for kind, tensor in found[name].items()}
    before = state(model)
    if what == "samples" and how["alpha"] != "search":  # not looked at
        smooth_quantize(model, statistics=statistics, progress=False, **how)
        return
    with pytest.raises(InputError, match=f"statistics: expected 16 channels of {name}, got 15"):
        smooth_quantize(model, statistics=statistics, progress=False, **how)
    assert_unchanged(model, before)


@pytest.mark.parametrize("alpha", [None, 0.5, "search"])
def test_rows_are_kept_when_asked_for(alpha):
    model = lively("llama")
    twins = [copy.deepcopy(model) for _ in range(2)]
    report = smooth_quantize(model, BATCHES, alpha=alpha, samples=4, fingerprint="mine", progress=False)
    assert report.statistics is not None
    assert report.statistics.fingerprint == "mine"
    assert {len(found["text"]) for found in report.statistics.samples.values()} == {4}
    smooth_quantize(twins[0], statistics=report.statistics, alpha="search", progress=False)
    smooth_quantize(twins[1], BATCHES, alpha="search", samples=4, progress=False)
    one, two = (twin.state_dict() for twin in twins)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_rows_that_nobody_asks_for_are_not_kept():
    report = smooth_quantize(lively("llama"), BATCHES, alpha=0.5, progress=False)
    assert report.statistics is not None
    assert report.statistics.samples == {}
    assert smooth_quantize(lively("llama"), BATCHES, alpha=None, progress=False).statistics is None


@pytest.mark.parametrize(
    ("kind", "part"), [("llama", "weight"), ("gpt2", "weight"), ("bert", "weight"), ("gpt2", "bias")]
)
@pytest.mark.parametrize("alpha", [0.9, 1.0])
def test_what_folding_would_make_too_large_for_float16(kind, alpha, part):
    """The last group's: those before would have been folded already."""
    model = lively(kind).half()
    twin = copy.deepcopy(model).float()
    statistics = smooth_quantize(twin, BATCHES, multiply=True, progress=False).statistics
    assert statistics is not None
    *_, group = [g for g in find_groups(model) if g.kind == ("input" if kind == "bert" else "norm")]
    with torch.no_grad():
        if part == "weight":  # of the column whose inputs are the largest
            statistics.maxima[group.name]["text"][3] = 6e4
            matrix(model.get_submodule(group.readers[0]))[:, 3] = 8.0
            where = group.readers[0]
        else:  # of the channel whose inputs are the least
            statistics.maxima[group.name]["text"][3] = 1e-4
            model.get_submodule(group.producer).bias[3] = 6e4
            where = group.producer
    before = state(model)
    with pytest.raises(InputError, match=rf"{where}: expected numbers that torch\.float16 holds"):
        smooth_quantize(model, statistics=statistics, alpha=alpha, multiply=True, progress=False)
    assert_unchanged(model, before)
    smooth_quantize(model.bfloat16(), statistics=statistics, alpha=alpha, multiply=True, progress=False)


@pytest.mark.parametrize("alpha", [0.5, "search"])
@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scales_that_are_planned_are_those_of_folding_group_by_group(kind, alpha, dtype):
    model = lively(kind).to(dtype)
    groups = [g for g in find_groups(model) if g.kind != "input"]
    names = [n for g in groups for n in g.readers]
    statistics = collect(model, BATCHES, names, groups=groups, samples=8, progress=False)
    rows: dict[str, Tensor] = {}
    twin = copy.deepcopy(model)
    for group in groups:
        maxima = torch.stack([statistics.channels(n) for n in group.readers]).amax(dim=0)
        chosen = alpha if alpha != "search" else search_alpha(twin, group, statistics).alpha
        if alpha == "search":
            assert search_alpha(model, group, statistics, rows=rows).alpha == chosen
        if chosen is None:
            continue
        wanted = group_scales(twin, group, maxima, chosen)
        found = group_scales(model, group, maxima, chosen, rows=rows)
        assert torch.equal(found, wanted)
        applied, rows = foresee(model, group, found, rows)
        assert torch.equal(applied, fold(twin, group, wanted))
