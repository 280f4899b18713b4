"""Products of laid out weights are those of the weights as they are now, and keep to their budget."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from efficiency import prepack
from efficiency.errors import InputError
from efficiency.footprint import measure
from efficiency.lora import fuse, laid_out, layers, unfuse
from efficiency.prepack import SIDES, Layouts, prepacks, share_out
from tests.efficiency.lora_nets import adapted, gap, segments, step_of, twins

BITS = 2e-2  # bfloat16 has 8; a weight of before or another one's is off by 1
UP, DOWN = 12 * 20 * 2, 20 * 12 * 2  # bytes of the net's weights in bfloat16

pytestmark = pytest.mark.skipif(not prepacks(torch.zeros(2, 2)), reason="oneDNN has no bfloat16 on this machine")


def off(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.float() - other.float()).norm() / other.float().norm())


@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32], ids=["weight in bf16", "weight in fp32"])
def test_products(rows, kind):
    weight, bias = torch.randn(40, 24).to(kind), torch.randn(40).to(kind)
    x, y = torch.randn(rows, 24).bfloat16(), torch.randn(rows, 40).bfloat16()
    laid = Layouts(SIDES)
    for _ in range(2):
        ahead, back = laid.ahead(x, weight, bias), laid.back(y, weight)
        assert ahead.dtype == back.dtype == torch.bfloat16
        assert off(ahead, x.float() @ weight.float().t() + bias.float()) < BITS
        assert off(back, y.float() @ weight.float()) < BITS
    assert laid.nbytes == 2 * 2 * 24 * 40


def test_float32_is_left_to_torch():
    weight, laid = torch.randn(40, 24), Layouts(SIDES)
    x = torch.randn(5, 24)
    assert torch.equal(laid.ahead(x, weight, None), x @ weight.t())
    assert laid.nbytes == 0


def test_a_changed_weight_is_laid_out_again(monkeypatch):
    weight, laid = torch.randn(40, 24).bfloat16(), Layouts(SIDES)
    y = torch.randn(5, 40).bfloat16()
    laid.back(y, weight)
    weight.neg_()
    assert off(laid.back(y, weight), y.float() @ weight.float()) < BITS
    other = torch.randn(40, 24).bfloat16()
    assert off(laid.back(y, other), y.float() @ other.float()) < BITS
    other.data.neg_()  # nobody can see that
    laid.clear()
    assert off(laid.back(y, other), y.float() @ other.float()) < BITS
    monkeypatch.setattr(prepack, "prepacks", lambda weight: False)
    other.neg_()
    assert off(laid.back(y, other), y.float() @ other.float()) < BITS
    assert laid.nbytes == 0


def test_products_by_the_weight_come_first():
    assert share_out([10, 20, 5], 0) == [(), (), ()]
    assert share_out([10, 20, 5], 34) == [("back",), ("back",), ()]
    assert share_out([10, 20, 5], 45) == [("back", "ahead"), ("back",), ("back",)]
    assert share_out([10, 20, 5], 70) == [("back", "ahead")] * 3


@pytest.mark.parametrize(
    ("budget", "used"), [(0, 0), (UP + DOWN - 1, UP), (UP + DOWN, UP + DOWN), (2**30, 2 * (UP + DOWN))]
)
def test_a_step_of_fused_adapters(budget, used):
    """Gradients stand as far from those in float32 as they do without layouts."""
    plain, model = twins(adapted().bfloat16())
    exact = copy.deepcopy(plain).float()
    fuse(plain, prepack=0)
    assert fuse(model, prepack=budget) == 2
    assert laid_out(model) == 0
    given = segments(dtype=torch.bfloat16)
    found, without = step_of(model, given), step_of(plain, given)
    assert laid_out(model) == used
    assert laid_out(plain) == 0
    right = step_of(exact, [x.detach().float().requires_grad_() for x in given])
    found, without = ({name: t.float() for name, t in all_.items()} for all_ in (found, without))
    assert gap(found, right) < 1.5 * gap(without, right) < 0.1


def test_autocast_lays_out_what_it_converts():
    plain, model = twins(adapted())
    fuse(plain, prepack=0)
    fuse(model)
    with torch.autocast("cpu", torch.bfloat16):
        found, without = step_of(model, segments()), step_of(plain, segments())
    assert laid_out(model) == 2 * (UP + DOWN)
    assert gap(found, without) < BITS


@pytest.mark.parametrize("safe", [False, True])
def test_merging_and_taking_out_again(safe):
    """PEFT writes ``weight.data``, past the version counter."""
    model = adapted().bfloat16()
    fuse(model)
    given = segments(dtype=torch.bfloat16)
    step_of(model, given)
    layer = dict(layers(model))["base_model.model.up"]
    layer.merge(safe_merge=safe)
    layer.unmerge()
    # As if both had changed the weight for good.
    layer.merge(safe_merge=safe)
    merged = layer.base_layer.weight.detach().clone()
    layer.merged_adapters.clear()
    plain = copy.deepcopy(model)
    fuse(plain, prepack=0)
    assert torch.equal(dict(layers(plain))["base_model.model.up"].base_layer.weight, merged)
    assert gap(*({name: t.float() for name, t in step_of(m, given).items()} for m in (model, plain))) < BITS


def test_copies_and_files_hold_the_model_alone():
    model = adapted().bfloat16()
    before = len(pickle.dumps(model))
    fuse(model)
    given = segments(dtype=torch.bfloat16)
    expected = step_of(model, given)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert laid_out(other) == 0
        assert gap(step_of(other, given), expected) == 0
        assert laid_out(other) == laid_out(model)
    assert len(pickle.dumps(model)) - before < 2000
    unfuse(model)
    assert laid_out(model) == 0


def test_a_model_that_moves_to_another_format():
    model = adapted().bfloat16()
    fuse(model)
    step_of(model, segments(dtype=torch.bfloat16))
    model.float()
    theirs = copy.deepcopy(model)
    unfuse(theirs)
    assert gap(step_of(model, segments()), step_of(theirs, segments())) < 1e-6


def test_memory_of_a_step_is_still_measured():
    model = adapted().bfloat16()
    fuse(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    given = segments(dtype=torch.bfloat16)
    first, second = (measure(model, optimizer, lambda: model(given)) for _ in range(2))
    assert first.of("activations") == second.of("activations") > 0
    assert laid_out(model) == 2 * (UP + DOWN)


def test_bad_input():
    with pytest.raises(InputError, match="prepack: expected a number of bytes, 0 or more, got -1"):
        fuse(adapted(), prepack=-1)


def test_what_is_no_plain_tensor_of_the_cpu_is_left_alone():
    assert not prepacks(torch.empty(2, 2, device="meta"))
    assert prepacks(nn.Linear(2, 2).weight)
