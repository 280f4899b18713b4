"""8-bit products for GPUs against plain integers: with torch's operations, in Triton's interpreter, and on a GPU.

A CPU runs these tests twice where Triton is installed: here, and in a process of its own under Triton's interpreter.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from efficiency.int8 import cuda, cuda_torch
from efficiency.int8.cuda import Quantised, int8_linear_cuda, int8_product
from tests.efficiency.int8_cuda_kit import (  # noqa: F401 - fixtures
    DTYPES,
    HALF,
    HAS_TRITON,
    INTERPRETER,
    a_device,
    close,
    drawn,
    integers,
    kernels_launched,
    layer,
    product_twin,
    rows_twin,
)

# Rows to integers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (17, 100), (2, 3, 129), (0, 8), (2, 0, 8)])
def test_rows_are_those_of_the_twin_bit_for_bit(device, shape, dtype):
    x = drawn(*shape, device=device, dtype=dtype)
    got = cuda.quantise_rows(x)
    assert got.values.dtype == torch.int8
    assert got.scale.dtype == torch.float32
    if x.numel() == 0:
        assert (got.values.shape, got.scale.shape) == (x.shape, x.shape[:-1])
        return
    values, scale = rows_twin(x)
    assert torch.equal(got.values.cpu(), values)
    assert torch.equal(got.scale.cpu(), scale)


def test_ties_go_to_the_even_integer(device):
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5]], device=device)
    assert cuda.quantise_rows(x).values.tolist() == [[127, 0, 2, 2, 0, -2, -2]]


def test_rows_that_do_not_lie_side_by_side(device):
    x = drawn(40, 6, device=device)
    for view in (x.t(), x[:, ::2], x[::3], x.reshape(8, 5, 6).transpose(0, 1), x[:1].expand(3, 6)):
        values, scale = rows_twin(view)
        got = cuda.quantise_rows(view)
        assert torch.equal(got.values.cpu(), values)
        assert torch.equal(got.scale.cpu(), scale)


def test_rows_of_zeros_stay_zeros(device):
    x = drawn(3, 20, device=device)
    x[1] = 0
    x[2] = 1e-44  # so small that its scale would be zero
    got = cuda.quantise_rows(x)
    assert got.values[1:].abs().max() == 0
    assert float(got.scale[1]) > 0
    y = int8_product(got, integers(4, 20, device=device), torch.ones(4, device=device), dtype=torch.float32)
    assert torch.equal(y[1:].cpu(), torch.zeros(2, 4))


@pytest.mark.parametrize("activations", ["token", "static", "tensor"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_a_row_that_is_not_finite_comes_out_as_nan(device, wrong, activations):
    x = drawn(3, 20, device=device)
    x[1, 4] = wrong
    scale = torch.full((1,), 0.02, device=device)
    weight, weight_scale = integers(4, 20, device=device), torch.ones(4, 1, device=device)
    y = int8_linear_cuda(x, weight, weight_scale, activations=activations, input_scale=scale, activation="relu")
    assert y[1].isnan().all()
    others = y[[0, 2]]
    assert others.isnan().all() if activations == "tensor" else others.isfinite().all()
    plain = F.linear(x, weight.float())
    assert not plain[1].isfinite().any(), "torch loses that row too"


def test_a_given_scale_clips(device):
    x = drawn(5, 33, device=device)
    scale = torch.full((1,), 0.01, device=device)
    got = cuda.quantise_rows(x, scale=scale)
    assert torch.equal(got.values.cpu(), rows_twin(x, 0.01)[0])
    assert got.values.abs().max() == 127
    assert torch.equal(got.scale.cpu(), torch.full((5,), 0.01))
    whole = cuda.tensor_scale(x)
    assert float(whole) == pytest.approx(float(x.abs().max()) / 127, rel=1e-6)
    assert cuda.quantise_rows(x, scale=whole).values.abs().max() == 127


# Behind a norm or a gate ---------------------------------------------------------------------------


def alike(got, exact):
    """A sum in another order may move a number over the middle between two integers, no more and not many."""
    values, scale = rows_twin(exact)
    torch.testing.assert_close(got.scale.cpu(), scale, rtol=2e-6, atol=0)
    apart = (got.values.cpu().int() - values.int()).abs()
    assert apart.max() <= 1
    assert (apart > 0).float().mean() < 0.01


@pytest.mark.parametrize("features", [1, 100, 256])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("kind", "bias", "plus_one"), [("rms", False, False), ("rms", False, True), ("layer", True, False)]
)
def test_a_norm_and_its_rows(device, kind, bias, plus_one, dtype, features):
    x = drawn(2, 9, features, device=device, dtype=dtype) * 3 + 1
    x[0, 0] = 0
    weight, shift = drawn(features, device=device, dtype=dtype, seed=1), drawn(features, device=device, seed=2)
    given = shift.to(dtype) if bias else None
    got = cuda.norm_quantise(x, weight, given, eps=1e-5, kind=kind, plus_one=plus_one)
    exact = x.double()
    exact = exact - exact.mean(-1, keepdim=True) if kind == "layer" else exact
    exact = exact / (exact.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * (weight.double() + plus_one)
    alike(got, (exact if given is None else exact + given.double()).float())


@pytest.mark.parametrize("name", ["LlamaRMSNorm", "GemmaRMSNorm", "LayerNorm"])
def test_the_norms_of_models(device, name):
    from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    norms = {"LlamaRMSNorm": LlamaRMSNorm, "GemmaRMSNorm": GemmaRMSNorm, "LayerNorm": torch.nn.LayerNorm}
    norm, x = norms[name](48, eps=1e-6).to(device), drawn(7, 48, device=device)
    with torch.no_grad():
        norm.weight.copy_(drawn(48, seed=1))
        options = {"kind": "layer" if name == "LayerNorm" else "rms", "plus_one": name == "GemmaRMSNorm"}
        got = cuda.norm_quantise(x, norm.weight, getattr(norm, "bias", None), eps=1e-6, **options)
        alike(got, norm(x))


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh", "relu"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gate_and_its_rows(device, activation, dtype):
    both = drawn(2, 9, 140, device=device, dtype=dtype)
    gate, up = both.chunk(2, dim=-1)  # halves of one tensor, as one product gives them
    got = cuda.gated_quantise(gate, up, activation=activation)
    alike(got, cuda_torch.FUNCTIONS[activation](gate.double()).float() * up.float())
    x = torch.zeros(3, 70, device=device)
    assert cuda.gated_quantise(x, x).values.abs().max() == 0
    scale = torch.full((1,), 0.01, device=device)
    assert torch.equal(cuda.gated_quantise(gate, up, scale=scale).scale.cpu(), torch.full((2, 9), 0.01))
    assert torch.equal(cuda.norm_quantise(x, x[0], eps=1e-6, scale=scale).scale.cpu(), torch.full((3,), 0.01))


# The product ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "out", "inner"), [(0, 8, 8), (1, 40, 64), (16, 33, 96), (17, 64, 100), (40, 72, 7), (130, 8, 264)]
)
@pytest.mark.parametrize("way", ["auto", "triton", "library"])
def test_a_product_is_exact(device, rows, out, inner, way):
    given, weight, weight_scale, bias = layer(rows, out, inner, device)
    got = int8_product(given, weight, weight_scale, bias, dtype=torch.float32, way=way)
    close(got, product_twin(given, weight, weight_scale, bias), 1e-6)


@pytest.mark.parametrize("activation", [None, "gelu", "gelu_tanh", "silu", "relu"])
@pytest.mark.parametrize("way", ["triton", "library"])
def test_what_follows_a_product(device, activation, way):
    given, weight, weight_scale, bias = layer(20, 24, 64, device)
    both = drawn(20, 48, device=device, seed=9)
    for some, residual in ((bias, None), (None, both[:, :24]), (bias, both[:, 1::2])):
        got = int8_product(
            given, weight, weight_scale, some, dtype=torch.float32, activation=activation, residual=residual, way=way
        )
        close(got, product_twin(given, weight, weight_scale, some, activation, residual), 1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("way", ["triton", "library"])
def test_a_product_in_half_precision_is_rounded_once(device, dtype, way):
    given, weight, weight_scale, bias = layer(20, 24, 64, device)
    residual = drawn(20, 24, device=device, dtype=dtype, seed=9)
    got = int8_product(
        given, weight, weight_scale, bias.to(dtype), dtype=dtype, activation="silu", residual=residual, way=way
    )
    expected = product_twin(given, weight, weight_scale, bias.to(dtype), "silu", residual)
    assert got.dtype == dtype
    torch.testing.assert_close(got.cpu().double(), expected, rtol=1.01 * HALF[dtype], atol=1e-6)


def test_sums_past_what_float32_holds(device):
    """Of 14,336 products of greatest integers, 231,211,344: over 2^24, and in float16 not to be had."""
    given = Quantised(torch.full((1, 14_336), 127, dtype=torch.int8, device=device), torch.ones(1, device=device))
    weight = torch.full((2, 14_336), -127, dtype=torch.int8, device=device)
    got = int8_product(given, weight, torch.full((2,), 1e-6, device=device), dtype=torch.float16)
    torch.testing.assert_close(got.cpu().float(), torch.full((1, 2), -231.25), rtol=0, atol=0)


def test_every_tile_gives_the_same(launch, device):
    given, weight, weight_scale, bias = layer(70, 150, 520, device)
    residual = drawn(70, 150, device=device, seed=9)
    behind = (given.scale, weight_scale.reshape(-1), bias, "silu", residual, torch.float32)
    product = launch.Product(given.values, weight, *behind)
    expected = product_twin(given, weight, weight_scale, bias, "silu", residual)
    tiles = {*launch.LARGE, *launch.MIDDLE, *launch.SMALL, launch.SIMPLE}
    assert len(tiles) > 10
    for way in (*tiles, launch.LIBRARY):
        close(product.by(way), expected, 1e-6)


def test_the_fastest_way_is_kept(launch, device, monkeypatch):
    monkeypatch.setattr(launch, "_chosen", {})

    def product(rows, out=16, inner=16):
        given, weight, weight_scale, _ = layer(rows, out, inner, device)
        return launch.Product(given.values, weight, given.scale, weight_scale[:, 0], None, None, None, torch.float32)

    timed = []

    def time(call):
        timed.append(call.args[0])
        if len(timed) == 2:
            raise RuntimeError("out of resource: shared memory")
        return -len(timed)  # the last is the fastest

    assert launch.choose(product(20), time=time) == launch.LIBRARY
    assert tuple(timed) == launch.candidates(20, 16, 16) == (*launch.MIDDLE, launch.LIBRARY)
    assert launch.choose(product(31), time=pytest.fail) == launch.LIBRARY, "the same power of two"
    assert launch.choose(product(20), "triton", time) == launch.MIDDLE[-1]
    assert launch.choose(product(3), time=time) == launch.SMALL[-1]
    assert launch.LIBRARY not in launch.candidates(16, 16, 16)
    assert launch.LIBRARY not in launch.candidates(500, 12, 16)
    assert launch.candidates(500, 16, 16) == (*launch.LARGE, launch.LIBRARY)

    def never(call):
        raise RuntimeError("out of resource")

    with pytest.raises(RuntimeError, match="no way of a product of 40 rows"):
        launch.choose(product(40), time=never)


@pytest.mark.skipif(INTERPRETER, reason="this is that process")
@pytest.mark.skipif(not HAS_TRITON, reason="no Triton")
@pytest.mark.slow
def test_all_of_it_in_tritons_interpreter(root):
    files = [__file__, str(root / "tests/efficiency/test_int8_cuda_layer.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not cuda", *files]
    done = subprocess.run(
        command, cwd=root, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "Triton does not run here" not in done.stdout, done.stdout[-4000:]
