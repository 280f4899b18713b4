"""The 8-bit layer for GPUs, what a device can do, and what is refused; run where ``test_int8_cuda.py`` is."""

from __future__ import annotations

import inspect
import warnings

import pytest
import torch

from efficiency.errors import InputError
from efficiency.int8 import Int8Linear, cuda
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

# The layer -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("activations", ["token", "tensor", "static"])
@pytest.mark.parametrize("rows", [0, 1, 17])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_layer(device, activations, rows, dtype):
    linear = torch.nn.Linear(40, 24, device=device, dtype=dtype)
    x = drawn(2, rows, 40, device=device, dtype=dtype)
    scale = float(x.float().abs().amax()) / 127 if rows else 1.0
    quantised = Int8Linear.from_linear(linear, activations=activations, input_scale=scale)
    with torch.no_grad():
        got = int8_linear_cuda(
            x,
            quantised.weight,
            quantised.weight_scale,
            quantised.bias,
            activations=activations,
            input_scale=quantised.input_scale,
        )
        exact = linear(x)
    assert (got.shape, got.dtype) == (exact.shape, dtype)
    if rows:
        one = None if activations == "token" else scale
        twin = product_twin(
            Quantised(*rows_twin(x, one)), quantised.weight, quantised.weight_scale.detach(), linear.bias.detach()
        )
        close(got, twin, HALF[dtype])
        assert float((got - exact).norm() / exact.norm()) < 0.03
    assert int8_linear_cuda(x, quantised.weight, quantised.weight_scale, dtype=torch.float32).dtype == torch.float32


def test_a_layer_under_the_compiler_is_one_operation(device):
    _, weight, weight_scale, bias = layer(20, 24, 64, device)
    x, seen = drawn(20, 64, device=device), []

    def backend(graph, inputs):
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    traced = inspect.unwrap(int8_linear_cuda)  # the compiler cannot look through the check of shapes

    def work(x):
        return traced(x, weight, weight_scale, bias, activation="relu") + 1

    compiled = torch.compile(work, backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(x), work(x), rtol=0, atol=0)
    assert [name for name in seen if "int8_linear" in name] == ["efficiency.int8_linear"]
    torch.library.opcheck(
        torch.ops.efficiency.int8_linear.default,
        (x, weight, weight_scale, bias, "token", None, None, None, torch.bfloat16),
        test_utils=("test_schema", "test_faketensor"),
    )


# What a device can do ------------------------------------------------------------------------------


@pytest.fixture
def without(monkeypatch):
    """Takes ways of products away, and what is known with them."""

    def take(*names):
        real = cuda._probed

        def probed(products, values, weight):
            total = real(products, values, weight)
            return total + 1 if products in names else total

        monkeypatch.setattr(cuda, "_probed", probed)
        cuda._support.cache_clear()

    yield take
    cuda._support.cache_clear()


def test_a_device_is_tried_once(without, monkeypatch):
    without()
    found = cuda.support(torch.device("cpu"))
    assert found.products == ("triton" if INTERPRETER and HAS_TRITON else "library")
    assert found.why == "" if found.products == "triton" else found.why.startswith("triton: ")
    state = torch.get_rng_state()
    monkeypatch.setattr(cuda, "_probed", pytest.fail)
    assert cuda.support(torch.device("cpu")) is found
    assert torch.equal(torch.get_rng_state(), state)


def test_without_triton_its_twin_runs(without, device):
    without("triton")
    given, weight, weight_scale, bias = layer(3, 24, 60, device)
    assert cuda.support(torch.device(device)).products == "library"
    assert "expected exact sums" in cuda.support(torch.device(device)).why or not INTERPRETER
    got = int8_product(given, weight, weight_scale, bias, dtype=torch.float32)
    close(got, product_twin(given, weight, weight_scale, bias), 1e-6)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-7), (torch.float16, 2**-10)])
def test_without_integer_products_floating_point_runs_and_says_so(without, device, dtype, bound):
    without("triton", "library")
    given, weight, weight_scale, bias = layer(3, 24, 60, device)
    with pytest.warns(UserWarning, match="slower than the model was"):
        got = int8_product(given, weight, weight_scale, bias, dtype=dtype)
    close(got, product_twin(given, weight, weight_scale, bias), bound)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        int8_product(given, weight, weight_scale, bias, dtype=dtype)  # once is enough


def test_rows_too_wide_for_a_program_take_torchs_operations(launch, device, monkeypatch):
    monkeypatch.setattr(launch, "WIDEST", 32)
    monkeypatch.setattr(launch, "quantise", pytest.fail)
    x = drawn(3, 33, device=device)
    assert torch.equal(cuda.quantise_rows(x).values.cpu(), rows_twin(x)[0])


# Bad input -----------------------------------------------------------------------------------------


def test_bad_input_is_refused(device):
    given, weight, weight_scale, _ = layer(3, 24, 60, device)
    x = drawn(3, 60, device=device)
    kept = {"dtype": torch.float32}
    for message, call in {
        "kind: expected one of rms, layer": lambda: cuda.norm_quantise(x, x[0], eps=1e-6, kind="batch"),
        "weight: expected shape": lambda: cuda.norm_quantise(x, x[0, :4], eps=1e-6),
        "activation: expected one of": lambda: cuda.gated_quantise(x, x, activation="tanh"),
        "up: expected the shape of gate": lambda: cuda.gated_quantise(x, x[:2]),
        "way: expected one of": lambda: int8_product(given, weight, weight_scale, way="fast", **kept),
        "x: expected 50 features": lambda: int8_product(given, weight[:, :50], weight_scale, **kept),
        "x: expected 60 features": lambda: int8_product(given, weight, weight_scale[:5], **kept),
        "residual: expected the shape": lambda: int8_product(given, weight, weight_scale, residual=x, **kept),
        "activations: expected one of": lambda: int8_linear_cuda(x, weight, weight_scale, activations="row"),
        "input_scale: expected a number": lambda: int8_linear_cuda(x, weight, weight_scale, activations="static"),
        "use torch.no_grad": lambda: int8_linear_cuda(x.clone().requires_grad_(), weight, weight_scale),
        "on one CPU or GPU": lambda: int8_linear_cuda(x, weight.to("meta"), weight_scale.to("meta")),
        "in floating point": lambda: cuda.quantise_rows(x[:, :0]),
    }.items():
        with pytest.raises(InputError, match=message):
            call()
