"""8-bit layers give what rounding written out in floats gives, by every kernel."""

from __future__ import annotations

import copy
import pickle
import time

import pytest
import torch
from torch import nn

from efficiency.errors import InputError
from efficiency.int8 import ACTIVATIONS, Int8Linear, Marks, cpu
from efficiency.int8.linear import rounded

KERNELS = cpu.kernels()
FORMATS = {torch.float32: 1e-5, torch.bfloat16: 6e-3, torch.float16: 1e-3}  # and what their own rounding comes to


def layer_and_input(shape=(3, 7), features=48, out=32, bias=True, dtype=torch.float32):
    torch.manual_seed(0)
    linear = nn.Linear(features, out, bias=bias).to(dtype)
    return linear, torch.randn(*shape, features).to(dtype)


def twin(linear: nn.Linear, x: torch.Tensor, activations: str, input_scale: float | None = None) -> torch.Tensor:
    """W8A8 as the module's docstring writes it, in double precision."""
    weight, x = linear.weight.detach().double(), x.double()
    s_w = weight.abs().amax(1, keepdim=True) / 127
    w_q = (weight / s_w).round()
    if activations == "token":
        s_x = x.abs().amax(-1, keepdim=True) / 127
    else:
        whole = x.abs().max() if x.dim() < 3 else x.abs().flatten(1).amax(1).view(-1, *[1] * (x.dim() - 1))
        s_x = whole / 127 if activations == "tensor" else torch.tensor(float(input_scale))
    x_q = (x / s_x.clamp(min=1e-30)).clamp(-127, 127).round()
    y = (x_q @ w_q.t()) * s_x * s_w.flatten()
    return y if linear.bias is None else y + linear.bias.detach().double()


def off(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.double() - other.double()).norm() / other.double().norm())


@pytest.fixture(params=KERNELS)
def kernel(request, monkeypatch):
    monkeypatch.setattr(cpu, "kernels", lambda: (request.param,))
    return request.param


@pytest.mark.parametrize("shape", [(1,), (5,), (3, 7), (1, 1), (2, 3, 5)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activations", ACTIVATIONS)
def test_equal_to_the_twin(kernel, activations, bias, shape):
    linear, x = layer_and_input(shape, bias=bias)
    layer = Int8Linear.from_linear(linear, activations=activations, input_scale=0.02)
    assert off(layer(x), twin(linear, x, activations, 0.02)) < 1e-5


@pytest.mark.parametrize("rows", [3, 400])  # few and many numbers are rounded in two ways
@pytest.mark.parametrize("dtype", FORMATS)
def test_formats(dtype, rows):
    linear, x = layer_and_input((rows,), dtype=dtype)
    layer = Int8Linear.from_linear(linear)
    assert layer.weight_scale.dtype == torch.float32
    y = layer(x)
    assert y.dtype == dtype
    assert off(y, twin(linear, x, "token")) < FORMATS[dtype]


@pytest.mark.parametrize("dtype", [*FORMATS, torch.float64])
def test_the_largest_of_a_row(dtype):
    x = torch.randn(300, 40).to(dtype)
    x[3] = 0
    assert torch.equal(cpu.largest(x), x.abs().amax(1, keepdim=True).float().clamp(min=cpu.SMALLEST))


def test_rows_of_zeros_and_of_no_numbers():
    linear, x = layer_and_input((400,), bias=False)
    x[1], x[2, 3] = 0, float("nan")
    y = Int8Linear.from_linear(linear)(x)
    assert torch.equal(y[1], torch.zeros(32))
    assert y[2].isnan().all()
    assert not y[3:].isnan().any()


def test_an_empty_input():
    linear, _ = layer_and_input()
    assert Int8Linear.from_linear(linear)(torch.zeros(0, 7, 48)).shape == (0, 7, 32)


def test_inputs_that_are_not_contiguous():
    linear, _ = layer_and_input()
    x = torch.randn(7, 5, 96)[..., ::2].transpose(0, 1)
    layer = Int8Linear.from_linear(linear)
    assert torch.equal(layer(x), layer(x.contiguous()))


def test_a_weight_is_off_by_half_a_step_at_most():
    weight = torch.randn(20, 30)
    weight[4] = 0
    q, scale = rounded(weight)
    assert q.dtype == torch.int8
    assert scale.shape == (20, 1)
    assert ((q * scale - weight).abs() <= 0.5001 * scale).all()
    assert (q[[0, 1]].abs().amax(1) == 127).all()
    linear, _ = layer_and_input()
    layer = Int8Linear.from_linear(linear)
    assert torch.equal(layer.dequantised(), layer.weight * layer.weight_scale)


def test_autocast_has_the_last_word():
    linear, x = layer_and_input()
    with torch.autocast("cpu", torch.bfloat16):
        y = Int8Linear.from_linear(linear)(x)
    assert y.dtype == torch.bfloat16
    assert off(y, twin(linear, x, "token")) < 1e-2


def test_gradients_pass_straight_through():
    linear, x = layer_and_input()
    layer, x = Int8Linear.from_linear(linear), x.requires_grad_()
    y = layer(x)
    assert torch.equal(y, layer(x.detach()))
    y.square().sum().backward()
    assert torch.allclose(x.grad, 2 * y.detach() @ layer.dequantised(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_marked_rows_are_not_rounded(dtype):
    linear, x = layer_and_input((2, 6), dtype=dtype)
    plain, layer = (Int8Linear.from_linear(linear) for _ in range(2))
    layer.marks = Marks()
    mask = torch.tensor([True, True, False, False, False, True])
    exact = nn.functional.linear(x.float(), layer.dequantised(), linear.bias.float())[:, mask]
    assert torch.equal(layer(x), plain(x))
    with layer.marks.told(mask):
        y = layer(x)
        assert torch.equal(layer(x[:, :5]), plain(x[:, :5]))  # other positions than those that were told of
    assert torch.equal(y[:, ~mask], plain(x)[:, ~mask])
    assert off(y[:, mask], exact) < (3.5e-3 if dtype == torch.bfloat16 else 1e-6)
    assert off(plain(x)[:, mask], exact) > 4e-3
    assert layer.marks.mask is None


def test_scales_stay_in_float32():
    linear, x = layer_and_input()
    layer = Int8Linear.from_linear(linear, activations="static", input_scale=1 / 3)
    before = layer.weight_scale.clone()
    for model in (layer.bfloat16(), layer.half(), layer.to(torch.float64)):
        assert torch.equal(model.weight_scale, before)
        assert model.input_scale.dtype == torch.float32
        assert model.weight.dtype == torch.int8
    assert layer.bias.dtype == torch.float64
    assert layer(x.double()).dtype == torch.float64


def test_state_round_trip():
    linear, x = layer_and_input()
    layer = Int8Linear.from_linear(linear, activations="static", input_scale=0.03)
    assert set(layer.state_dict()) == {"weight", "weight_scale", "input_scale", "bias"}
    other = Int8Linear(48, 32, activations="static")
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))


def test_a_kernel_that_is_wrong_or_slow_is_not_taken(monkeypatch):
    assert cpu._works("int_mm")
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: (a.long() @ b.long() + 1).int())
    assert not cpu._works("int_mm")

    def slow(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        time.sleep(0.05)
        return (a.long() @ b.long()).int()

    monkeypatch.setattr(torch, "_int_mm", slow)
    assert not cpu._works("int_mm")
    monkeypatch.delattr(torch, "_int_mm")
    assert not cpu._works("int_mm")


def test_where_there_is_no_kernel_it_says_so(monkeypatch, caplog):
    monkeypatch.setattr(cpu, "_works", lambda name: False)
    cpu.kernels.cache_clear()
    try:
        assert cpu.kernels() == ("plain",)
    finally:
        cpu.kernels.cache_clear()
    assert "slower than the model was before" in caplog.text


@pytest.mark.parametrize("activations", ["row", "", "O1"])
def test_unknown_activations(activations):
    with pytest.raises(InputError, match="activations: expected one of token, tensor, static"):
        Int8Linear(4, 4, activations=activations)


def test_bad_weights_and_scales():
    with pytest.raises(InputError, match="input_scale: expected a number for static activations"):
        Int8Linear.from_linear(nn.Linear(4, 4), activations="static")
    linear = nn.Linear(4, 4)
    linear.weight.data[0, 0] = float("inf")
    with pytest.raises(InputError, match="weight: expected finite numbers"):
        Int8Linear.from_linear(linear)


def test_marks_are_of_a_thread():
    from threading import Thread

    marks, seen = Marks(), []
    with marks.told(torch.tensor([True])):
        other = Thread(target=lambda: seen.append(marks.mask))
        other.start()
        other.join()
        assert marks.mask is not None
        assert copy.deepcopy(marks).mask is None
    assert seen == [None]


@pytest.mark.parametrize("activations", ACTIVATIONS)
def test_samples_do_not_change_each_other(activations):
    """Segments are read alone, or beside others; the memory is the same."""
    linear, x = layer_and_input((3, 7))
    x[1] *= 100
    layer = Int8Linear.from_linear(linear, activations=activations, input_scale=0.02)
    assert torch.allclose(layer(x)[:1], layer(x[:1]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("activations", ACTIVATIONS)
def test_a_number_that_is_none_is_not_lost(activations):
    linear, x = layer_and_input((9,))
    x[2, 3], x[4, 5] = float("nan"), float("inf")
    y = Int8Linear.from_linear(linear, activations=activations, input_scale=0.02)(x)
    assert not y[[2, 4]].isfinite().any()
    assert y[[0, 1, 3]].isfinite().all() or activations == "tensor"


def test_float16_does_not_overflow_where_rows_are_not_rounded():
    linear = nn.Linear(768, 64).half()
    layer, x = Int8Linear.from_linear(linear), (torch.randn(4, 768) * 20).half()
    y = cpu.unrounded(x, layer.weight, layer.weight_scale)
    assert off(y, x.float() @ layer.dequantised().t()) < 1e-3


def test_weights_that_change_between_calls():
    linear, x = layer_and_input()
    layer = Int8Linear.from_linear(linear)

    def right() -> bool:
        numbers = layer.dequantised()
        return off(layer(x), nn.functional.linear(x, numbers, linear.bias)) < 2e-2

    assert right()
    with torch.no_grad():
        layer.weight.neg_()
        assert right()
        layer.weight_scale.mul_(torch.rand(32, 1))
        assert right()
        for _ in range(5):  # memory that was freed is taken again
            layer.weight.data = torch.randint(-127, 128, (32, 48), dtype=torch.int8)
            assert right()
    layer.load_state_dict(Int8Linear.from_linear(nn.Linear(48, 32)).state_dict())
    assert off(layer(x), nn.functional.linear(x, layer.dequantised(), layer.bias)) < 2e-2


def test_weights_in_floating_point_are_not_loaded_as_integers():
    linear, _ = layer_and_input()
    layer = Int8Linear.from_linear(linear)
    before = layer.weight.clone()
    with pytest.raises(RuntimeError, match=r"weight: expected int8, got torch\.float32"):
        layer.load_state_dict(linear.state_dict(), strict=False)
    assert torch.equal(layer.weight, before)


def test_a_copy_holds_no_layouts():
    layer = Int8Linear.from_linear(nn.Linear(512, 512))
    before = len(pickle.dumps(layer))
    layer(torch.randn(9, 512))
    assert len(pickle.dumps(layer)) < before + 1000
    assert copy.deepcopy(layer)._laid is None


def test_masks_are_of_one_batch():
    marks, mask = Marks(), torch.ones(2, 5, dtype=torch.bool)
    with marks.told(mask):
        assert marks.rows(torch.zeros(2, 5, 8)) is not None
        assert marks.rows(torch.zeros(3, 5, 8)) is None
        assert marks.rows(torch.zeros(2, 4, 8)) is None
        assert marks.rows(torch.zeros(5, 8)) is None


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_scales_that_are_none(scale):
    with pytest.raises(InputError, match="input_scale: expected a number above 0"):
        Int8Linear.from_linear(nn.Linear(4, 4), activations="static", input_scale=scale)


def test_inputs_of_another_width():
    with pytest.raises(InputError, match="expected floating-point numbers of 4 features"):
        Int8Linear.from_linear(nn.Linear(4, 4))(torch.zeros(3, 5))
