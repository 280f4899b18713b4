"""Our files, loaded by transformers with the package compressed-tensors: an independent reading of the same numbers.

The package is in the group ``dev`` for this alone: nothing but tests needs it, and they are skipped without.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from efficiency.int8 import Int8Linear
from efficiency.int8.checkpoint import load, save
from efficiency.int8.linear import ACTIVATIONS
from tests.efficiency.int8.checkpoint_nets import llama, quantised, tokens
from tests.rmt.families import build

pytest.importorskip("compressed_tensors", exc_type=ImportError)


def mixed(name: str) -> str:
    """Two groups."""
    return "static" if "mlp" in name else "token"


def twin(model: Any, levels: float | None) -> Any:
    """The model over plain linear layers of the 8-bit weights' numbers, with inputs rounded beforehand.

    Args:
        levels: the largest absolute input over the scale, where it is measured as it comes: 127 with us, 127.5 there;
            None for inputs as they are.
    """

    def rounding(layer: Int8Linear) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
            x = inputs[0]
            largest = x.abs().amax(dim=-1, keepdim=True) if layer.activations == "token" else x.abs().amax()
            scale = largest / (levels or 1) if layer.input_scale is None else layer.input_scale
            return ((x / scale).round().clamp(-128, 127) * scale,)

        return hook

    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, Int8Linear):
                plain = nn.Linear(layer.in_features, layer.out_features, bias=False)
                plain.weight = nn.Parameter(layer.dequantised())
                if levels is not None:
                    plain.register_forward_pre_hook(rounding(layer))
                setattr(parent, name, plain)
    return model


def gap(one: Tensor, other: Tensor) -> float:
    """Relative error in the 2-norm."""
    return float((one - other).norm() / other.norm())


@torch.no_grad()
@pytest.mark.parametrize("kind", [*ACTIVATIONS, mixed])
def test_transformers_and_compressed_tensors_load_it(kind: Any, tmp_path: Path) -> None:
    save(quantised(llama(), kind), tmp_path)
    theirs: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(theirs.hf_quantizer).__name__ == "CompressedTensorsHfQuantizer"
    logits = theirs(tokens()).logits
    ours = load(tmp_path)
    for name, layer in ours.named_modules():
        if isinstance(layer, Int8Linear):
            assert gap(theirs.get_submodule(name).weight, layer.dequantised()) < 1e-6
    # Their rule for inputs over our file: the same numbers.
    assert gap(twin(load(tmp_path), 127.5)(tokens()).logits, logits) < 1e-5
    # Our levels are 0.4% wider, so numbers are rounded otherwise: apart by no more than rounding costs either way.
    ours, exact = twin(load(tmp_path), 127)(tokens()).logits, twin(load(tmp_path), None)(tokens()).logits
    assert gap(ours, logits) <= gap(ours, exact) + gap(logits, exact)
    assert gap(ours, logits) < 0.05
    assert gap(llama(seed=1)(tokens()).logits, logits) > 1


def test_gpt2_is_refused_there_not_misread(tmp_path: Path) -> None:
    """Its float layers are (in, out), ours (out, in), which does not fit; some versions know no such layer at all."""
    save(quantised(build("gpt2")), tmp_path)
    with pytest.raises((RuntimeError, ValueError), match=r"c_attn|mismatch|Conv1D"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
