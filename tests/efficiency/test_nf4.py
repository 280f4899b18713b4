"""NF4 against its definition, and against what bitsandbytes itself writes and reads."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from efficiency.errors import InputError

bnb = pytest.importorskip("bitsandbytes")

from efficiency import nf4  # noqa: E402


def naive(weight: Tensor, block: int = 64) -> Tensor:
    """Blocks over their maximum, each number to the nearest of the 16, in plain torch."""
    levels = torch.tensor(
        [*(-float(norm.ppf(p)) for p in torch.linspace(0.9677083, 0.5, 8)[:-1].tolist()), 0.0]
        + [float(norm.ppf(p)) for p in torch.linspace(0.5, 0.9677083, 9)[1:].tolist()]
    )
    levels = torch.where(levels < 0, levels / levels.min().abs(), levels / levels.max())
    blocks = weight.reshape(-1, block)
    most = blocks.abs().amax(dim=1, keepdim=True)
    nearest = (blocks[:, :, None] / most[:, :, None] - levels).abs().argmin(dim=-1)
    return (levels[nearest] * most).reshape(weight.shape)


def test_it_is_the_data_type_of_the_paper():
    weight = torch.randn(64, 128) * 0.02
    got = nf4.dequantize(nf4.quantize(weight, double=False))
    assert torch.allclose(got, naive(weight), atol=1e-6)
    assert (got - weight).norm() / weight.norm() < 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("double", [True, False])
def test_same_bytes_and_numbers_as_bitsandbytes(dtype, double):
    weight = (torch.randn(96, 64) * 0.02).to(dtype)
    packed, state = bnb.functional.quantize_4bit(weight, compress_statistics=double, quant_type="nf4")
    ours = nf4.quantize(weight, double=double)
    assert torch.equal(ours.data, packed)
    theirs = bnb.functional.dequantize_4bit(packed, state)
    assert torch.equal(nf4.dequantize(ours), theirs)
    for other in (torch.float32, torch.bfloat16, torch.float16):
        assert torch.equal(nf4.dequantize(ours, other), theirs.to(other))
    # As bitsandbytes' own layer names it.
    layer = bnb.nn.Linear4bit(64, 96, False, compress_statistics=double, quant_type="nf4")
    layer.weight = bnb.nn.Params4bit(weight, quant_type="nf4", compress_statistics=double, module=layer).to("cpu")
    written = layer.state_dict()
    assert nf4.to_tensors(ours).keys() == written.keys()
    assert all(torch.equal(t, written[name]) for name, t in nf4.to_tensors(ours).items())


def test_storage_and_error():
    weight = torch.randn(1024, 1024) * 0.02
    double, single = nf4.quantize(weight), nf4.quantize(weight, double=False)
    assert nf4.bits_per_weight(double) <= 4.14
    assert nf4.bits_per_weight(single) == pytest.approx(4.5, abs=0.01)
    for stored in (double, single):
        error = (nf4.dequantize(stored) - weight).norm() / weight.norm()
        assert error == pytest.approx(0.092, abs=0.002)


def test_written_and_read_back():
    stored = nf4.quantize(torch.randn(32, 64), block=128)
    tensors = nf4.to_tensors(stored)
    assert set(tensors) == {
        "weight",
        "weight.absmax",
        "weight.quant_map",
        "weight.nested_absmax",
        "weight.nested_quant_map",
        "weight.quant_state.bitsandbytes__nf4",
    }
    again = nf4.from_tensors({name: t.clone() for name, t in tensors.items()}, "cpu")
    assert torch.equal(nf4.dequantize(again), nf4.dequantize(stored))
    assert nf4.storage_bytes(again) == sum(t.nbytes for t in tensors.values())
    for name in tensors:
        with pytest.raises(InputError, match="expected all its tensors"):
            nf4.from_tensors({n: t for n, t in tensors.items() if n != name}, "cpu")


def test_bad_input():
    with pytest.raises(InputError, match="float64"):
        nf4.quantize(torch.zeros(4, 4, dtype=torch.float64))
    with pytest.raises(InputError, match="meta"):
        nf4.quantize(torch.zeros(4, 4, device="meta"))
    with pytest.raises(InputError, match="block"):
        nf4.quantize(torch.zeros(4, 4), block=48)
    with pytest.raises(InputError, match="bare Tensor"):
        nf4.dequantize(torch.zeros(4, 4))


def test_without_bitsandbytes(root):
    """The package imports without it, and says how to install it where it is needed."""
    program = """
import sys
sys.modules["bitsandbytes"] = None
import torch, efficiency, efficiency.nf4, efficiency.weight_cache
for act in (lambda: efficiency.nf4.quantize(torch.zeros(4, 4)), lambda: __import__("efficiency.qlora")):
    try:
        act()
    except ValueError as error:
        assert "pip install" in str(error)
    else:
        raise SystemExit(1)
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=root)
