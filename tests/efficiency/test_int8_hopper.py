"""Kernels of 8-bit products compiled for an H100 where there is none: that they do, and to what instructions."""

from __future__ import annotations

import importlib.util
import os

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no Triton"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing"),
]
SHARED = 227 * 1024  # bytes that a block may have
TYPES = {"x": "*bf16", "gate": "*bf16", "up": "*bf16", "bias": "*bf16", "residual": "*bf16", "y": "*bf16"}
TYPES |= {"q": "*i8", "scales": "*fp32", "given": "*fp32", "weight_scale": "*fp32", "total": "*i32", "eps": "fp32"}


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """Compiles a kernel with what is to be constant: its assembly, and bytes of shared memory."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    def work(kernel, weight, constant, **options):
        names = kernel.arg_names
        types = {name: TYPES.get(name, weight if name == "weight" else "i32") for name in names}
        signature = {name: "constexpr" if name in constant else types[name] for name in names}
        # Tensors begin at multiples of 16 bytes, and so do their rows: without that nothing is loaded side by side.
        whole = [n for n in names if n not in constant and (types[n][0] == "*" or n == "K" or n.endswith("stride"))]
        source = ASTSource(
            kernel,
            signature,
            constexprs={(names.index(name),): value for name, value in constant.items()},
            attrs={(names.index(name),): [["tt.divisibility", 16]] for name in whole},
        )
        made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        assert made.metadata.shared <= SHARED
        return made.asm["ptx"]

    return work


def test_rows(compiled):
    from efficiency.int8 import triton_kernels as kernels

    flags = {"GIVEN": False, "BLOCK": 16_384}
    text = compiled(kernels.quantise_rows, None, flags, num_warps=32)
    assert "4B400000" in text.upper(), "the compiler has taken the addition away that rounds"
    assert "div.rn.f32" in text
    for layer in (False, True):
        norm = {**flags, "LAYER": layer, "PLUS_ONE": not layer, "BIAS": layer}
        compiled(kernels.norm_quantise, "*bf16", norm, num_warps=32)
    for activation in ("silu", "gelu", "gelu_tanh", "relu"):
        compiled(kernels.gated_quantise, None, {**flags, "ACTIVATION": activation}, num_warps=32)


def test_products_use_the_tensor_cores(compiled):
    from efficiency.int8 import triton_kernels as kernels
    from efficiency.int8 import triton_launch as launch

    flags = {"BIAS": True, "RESIDUAL": True, "ACTIVATION": "gelu"}
    compiled(kernels.finish, "*i8", {**flags, "TILE_M": 16, "TILE_N": 256})
    for tile in dict.fromkeys((*launch.SMALL, *launch.MIDDLE, *launch.LARGE)):
        sizes = {"TILE_M": tile.m, "TILE_N": tile.n, "TILE_K": tile.k, "GROUP": 8, "EVEN": True}
        options = {"num_warps": tile.warps, "num_stages": tile.stages}
        text = compiled(kernels.product, "*i8", {**flags, **sizes}, **options)
        assert ("wgmma.mma_async" if tile.m >= 64 else "mma.sync") in text, tile
        assert ".s32.s8.s8" in text, tile
        assert "cp.async" in text, tile
