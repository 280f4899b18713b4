"""What a layer does on a GPU, with the kernels' twin in torch on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from efficiency.int8 import ACTIVATIONS, Int8Linear, Marks


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Inputs on the CPU take the way of a GPU's."""
    monkeypatch.setattr(Int8Linear, "_rounded", Int8Linear._by_kernels)


@pytest.mark.parametrize("activations", ACTIVATIONS)
def test_it_is_what_the_cpu_gives(activations, request):
    torch.manual_seed(0)
    linear, x = nn.Linear(48, 32), torch.randn(3, 7, 48)
    x[1] *= 100
    layer = Int8Linear.from_linear(linear, activations=activations, input_scale=0.05)
    layer.marks = Marks()
    with torch.no_grad(), layer.marks.told(torch.arange(7) < 2):
        expected = layer(x)
        request.getfixturevalue("as_on_a_gpu")
        assert torch.allclose(layer(x), expected, rtol=1e-5, atol=1e-4)
