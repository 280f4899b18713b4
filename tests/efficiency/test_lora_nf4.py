"""Adapters over 4-bit weights run as one operation, with PEFT's outputs and gradients."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from efficiency.lora import fuse, layers, unfuse, unfused
from efficiency.lora_nf4 import FusedLinear4bit, Linear4bit
from efficiency.qlora import NF4Linear, quantize_model
from efficiency.qlora_merge import merge
from efficiency.weight_cache import WeightCache
from tests.efficiency.lora_nets import Net, adapted, gap, segments, step_of, twins

CLOSE = 1e-6


class Wide(Net):
    """A net whose weights fill blocks of 4-bit storage."""

    def __init__(self, checkpointed: bool = False) -> None:
        super().__init__(checkpointed)
        self.up, self.down = nn.Linear(12, 64), nn.Linear(64, 12, bias=False)


def quantised(checkpointed: bool = False, compute=None, budget=None, **config):
    torch.manual_seed(0)
    net = quantize_model(Wide(checkpointed), compute_dtype=compute, cache=WeightCache(budget))
    return adapted(net, **config)


@pytest.mark.parametrize("checkpointed", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("budget", [None, 0], ids=["all kept", "none kept"])
def test_equal_to_peft_over_the_same_weights(checkpointed, budget):
    theirs, ours = twins(quantised(checkpointed, budget=budget))
    assert fuse(ours) == 2
    assert not unfused(ours)
    assert all(type(layer) is FusedLinear4bit for _, layer in layers(ours))
    assert gap(step_of(ours, segments()), step_of(theirs, segments())) <= CLOSE


def test_equal_to_fused_adapters_over_the_numbers_of_the_4bit_weights():
    four = quantised()
    whole = copy.deepcopy(four)
    for _, layer in layers(whole):
        base = layer.base_layer
        plain = nn.Linear(base.in_features, base.out_features, bias=base.bias is not None)
        plain.weight.data, plain.bias = base.dequantised(torch.float32), base.bias
        layer.base_layer = plain.requires_grad_(False)
    fuse(four)
    theirs = {name.replace("base_layer.", ""): t for name, t in step_of(whole, segments()).items()}
    ours = {name.replace("base_layer.", ""): t for name, t in step_of(four, segments()).items()}
    assert gap(ours, theirs) <= CLOSE


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16], ids=str)
def test_formats_are_those_of_the_layer_without_adapters(given, autocast):
    model = quantised(compute=torch.bfloat16)
    fuse(model)
    layer = model.base_model.model.down
    x = torch.randn(4, 64).to(given)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = layer(x)
        assert y.dtype == layer.base_layer(x).dtype
        unfuse(model)
        assert torch.allclose(y.float(), model.base_model.model.down(x).float(), atol=3e-2)


def test_dropout_is_the_same_when_computed_again():
    plain, again = (quantised(checkpointed, lora_dropout=0.3) for checkpointed in (False, True))
    for model in (plain, again):
        fuse(model, seed=3)
    assert gap(step_of(again, segments()), step_of(plain, segments())) == 0


def test_saves_inputs_and_their_low_ranks_only():
    model = quantised()
    fuse(model)
    x = torch.randn(6, 64, requires_grad=True)
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = model.base_model.model.down(x)
    own = {p.data_ptr() for p in model.parameters()}
    sizes = sorted(t.numel() for t in saved if t.data_ptr() not in own)
    assert sizes == [6 * 3, 6 * 64]
    y.sum().backward()


def test_weights_are_dequantised_once_a_step_and_merging_is_still_peft_s():
    model = quantised()
    cache = model.base_model.model.up.base_layer.cache
    fuse(model)
    cache.clear()
    step_of(model, segments())
    assert cache.misses == 2
    given = segments()
    with torch.no_grad():
        before = model.eval()(given)
    merged = merge(model, "nf4", dtype=torch.float32).model
    assert type(merged.up) is nn.Linear
    assert torch.allclose(merged(given), before, atol=1e-6)


def test_copies_and_the_way_back():
    model = quantised()
    want = step_of(model, segments())
    fuse(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert not unfused(other)
        assert gap(step_of(other, segments()), want) <= CLOSE
    assert unfuse(model) == 2
    assert all(type(layer) is Linear4bit for _, layer in layers(model))
    assert gap(step_of(model, segments()), want) == 0


def test_layers_of_bitsandbytes_are_left_to_peft():
    from bitsandbytes.nn import Linear4bit as Theirs

    model = quantised()
    old = model.base_model.model.up.base_layer
    assert isinstance(old, NF4Linear)
    twin = Theirs(12, 64, True, torch.float32, quant_type="nf4")
    twin.weight, twin.bias = old.weight, old.bias
    model.base_model.model.up.base_layer = twin
    assert fuse(model) == 1
    assert list(unfused(model)) == ["base_model.model.up"]
