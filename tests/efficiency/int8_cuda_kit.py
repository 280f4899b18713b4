"""What tests of 8-bit products for GPUs share: where they run, drawn numbers, and twins in plain integers."""

from __future__ import annotations

import importlib.util
import os

import numpy as np
import pytest
import torch

from efficiency.int8 import cuda
from efficiency.int8.cuda import Quantised

HAS_TRITON = importlib.util.find_spec("triton") is not None
INTERPRETER = os.environ.get("TRITON_INTERPRET") == "1"
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available() or INTERPRETER, reason="no NVIDIA GPU")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Half of the last place; the interpreter cuts bfloat16 off where a GPU rounds it.
HALF = {torch.float32: 1e-6, torch.bfloat16: 2**-7 if INTERPRETER else 2**-8, torch.float16: 2**-11}


@pytest.fixture(name="device", params=["cpu", pytest.param("cuda", marks=[pytest.mark.cuda, needs_gpu])])
def a_device(request):
    return request.param


@pytest.fixture(name="launch")
def kernels_launched(device):
    """The kernels, where they run."""
    if cuda.support(torch.device(device)).products != "triton":
        pytest.skip("Triton does not run here")
    from efficiency.int8 import triton_launch

    return triton_launch


def drawn(*shape, device="cpu", dtype=torch.float32, seed=0):
    maker = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=maker).to(device, dtype)


def integers(*shape, device="cpu", seed=0):
    maker = torch.Generator().manual_seed(seed)
    return torch.randint(-127, 128, shape, generator=maker, dtype=torch.int8).to(device)


def rows_twin(x, scale=None):
    """Row by row in numpy's float32."""
    values, scales = [], []
    for row in x.detach().float().cpu().numpy().reshape(-1, x.shape[-1]):
        own = np.float32(np.abs(row).max()) / np.float32(127) if scale is None else np.float32(scale)
        own = max(own, np.finfo(np.float32).tiny)
        values.append(np.clip(np.rint(row / own), -127, 127).astype(np.int8))
        scales.append(own)
    return torch.tensor(np.array(values)).reshape(x.shape), torch.tensor(np.array(scales)).reshape(x.shape[:-1])


def product_twin(rows, weight, weight_scale, bias=None, activation=None, residual=None):
    """Sums of integers in Python's own, the rest in float64."""
    total = rows.values.cpu().long().reshape(-1, weight.shape[1]) @ weight.cpu().long().T
    y = total.double() * rows.scale.cpu().double().reshape(-1, 1) * weight_scale.cpu().double().reshape(-1)
    y = y if bias is None else y + bias.cpu().double()
    y = {
        None: lambda v: v,
        "gelu": lambda v: 0.5 * v * (1 + torch.erf(v / 2**0.5)),
        "gelu_tanh": lambda v: 0.5 * v * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (v + 0.044715 * v**3))),
        "silu": lambda v: v / (1 + torch.exp(-v)),
        "relu": lambda v: v.clamp(min=0),
    }[activation](y)
    y = y.reshape(*rows.values.shape[:-1], len(weight))
    return y if residual is None else y + residual.cpu().double()


def close(got, expected, rtol):
    """By the largest number: a sum next to zero has the error of its terms."""
    assert got.shape == expected.shape
    gap = float((got.cpu().double() - expected).abs().max()) if expected.numel() else 0.0
    assert gap <= rtol * float(expected.abs().max()) if expected.numel() else True, gap


def layer(rows, out, inner, device, seed=1):
    """Quantised rows, a weight, its scales and a bias."""
    weight_scale = drawn(out, 1, device=device, seed=seed).abs() / 1000 + 1e-4
    scale = drawn(rows, device=device, seed=seed + 1).abs() / 100 + 1e-3
    given = Quantised(integers(rows, inner, device=device, seed=seed), scale)
    return given, integers(out, inner, device=device, seed=seed + 2), weight_scale, drawn(out, device=device, seed=3)
