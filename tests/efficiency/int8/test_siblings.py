"""Layers of one input, whose products are formed together, give what each gives alone."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from efficiency.int8 import Int8Linear, cpu, put_together


@pytest.fixture(params=cpu.kernels())
def kernel(request, monkeypatch):
    monkeypatch.setattr(cpu, "kernels", lambda: (request.param,))
    return request.param


class Attention(nn.Module):
    """Three layers of one input, as families name them."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (
            nn.Linear(48, 32, bias),
            nn.Linear(48, 16, bias),
            nn.Linear(48, 16, bias),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Side by side."""
        return torch.cat([self.q_proj(x), self.k_proj(x), self.v_proj(x)], -1)


def in_8_bits(module: nn.Module) -> nn.Module:
    for name, part in module.named_children():
        setattr(module, name, Int8Linear.from_linear(part))
    return module


@pytest.mark.parametrize("rows", [1, 2, 9])
@pytest.mark.parametrize("bias", [True, False])
def test_siblings_are_what_each_is_alone(kernel, rows, bias, monkeypatch):
    alone = in_8_bits(Attention(bias))
    together = copy.deepcopy(alone)
    assert put_together(together, Int8Linear) == 1
    rounds = []
    monkeypatch.setattr(cpu, "rounded_rows", lambda *a, _of=cpu.rounded_rows: rounds.append(1) or _of(*a))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            x, other = torch.randn(rows, 48), torch.randn(rows, 48)
            expected = alone(x)
            rounds.clear()
            assert torch.allclose(together(x), expected, rtol=1e-6, atol=1e-6)
            assert len(rounds) == 1
            # Called alone, out of order, and again with what they have had.
            for part in ("v_proj", "q_proj", "q_proj", "k_proj"):
                for given in (x, other):
                    one, same = getattr(together, part)(given), getattr(alone, part)(given)
                    assert torch.allclose(one, same, rtol=1e-6, atol=1e-6)


def test_siblings_see_an_input_that_was_written_to():
    together = in_8_bits(Attention())
    alone = copy.deepcopy(together)
    put_together(together, Int8Linear)
    x = torch.randn(9, 48)
    together.q_proj(x)
    x.neg_()
    assert torch.allclose(together.k_proj(x), alone.k_proj(x), atol=1e-6)


def test_siblings_are_not_put_together_where_scales_are_of_inputs():
    model = Attention()
    for name, part in model.named_children():
        setattr(model, name, Int8Linear.from_linear(part, activations="tensor"))
    assert put_together(model, Int8Linear) == 0


def test_copies_and_changed_weights():
    model = in_8_bits(Attention())
    put_together(model, Int8Linear)
    x = torch.randn(9, 48)
    expected = model(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), expected)
        assert other.q_proj.siblings.layers[0] is other.q_proj
        other.q_proj.weight.data = -other.q_proj.weight
        other.v_proj.weight_scale.mul_(2)
        y = other(x)
        bias = other.q_proj.bias
        assert torch.allclose(y[:, :32] - bias, bias - expected[:, :32] + 0 * bias, atol=1e-5)
        assert torch.equal(y[:, 32:48], expected[:, 32:48])
        assert not torch.allclose(y[:, 48:], expected[:, 48:])
        assert torch.equal(model(x), expected)


def test_layers_that_do_more_with_their_input_are_not_put_together():
    class Other(Int8Linear):
        """Some layer of its own."""

    model = in_8_bits(Attention())
    model.q_proj.__class__ = Other
    assert put_together(model, Int8Linear) == 1
    assert model.q_proj.siblings is None
    assert model.k_proj.siblings is model.v_proj.siblings is not None


def test_what_is_loaded_under_inference_mode_is_seen():
    model = in_8_bits(Attention())
    put_together(model, Int8Linear)
    other = in_8_bits(Attention())
    x = torch.randn(9, 48)
    with torch.inference_mode():
        inner = copy.deepcopy(model)
        inner.q_proj(x)
        inner.load_state_dict(other.state_dict())
        assert torch.allclose(inner.k_proj(x), other.k_proj(x), atol=1e-6)
        assert torch.allclose(inner(x), other(x), atol=1e-6)


def test_siblings_under_autocast_and_across_modes():
    model = in_8_bits(Attention())
    alone = copy.deepcopy(model)
    put_together(model, Int8Linear)
    x, products = torch.randn(9, 48), []
    original = cpu.Packed.__call__
    with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        patch.setattr(cpu.Packed, "__call__", lambda self, q: products.append(1) or original(self, q))
        y = model(x)
    assert len(products) == 1
    assert y.dtype == torch.bfloat16
    with torch.inference_mode():
        model.q_proj(x)
    assert torch.allclose(model.k_proj(x), alone.k_proj(x), atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        model.q_proj(x)
    assert torch.allclose(model.k_proj(x), alone.k_proj(x), atol=1e-6)
