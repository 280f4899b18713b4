"""What LLaMA-Adapter V2 trains beside prompts (arXiv 2304.15010, section 4.1): scale and bias of linears, and norms.

Equations 1 and 2: y = s (W x + b), with a learned scale s, at first 1, and bias b, at first 0, for each output; a bias
b_0 that a layer has already is part of what is scaled: s (W x + b_0 + b). Norms are the model's own, left to train.

LoRA over such a layer adds to its output, behind the scale. PEFT merges it into W, in front of the scale, which is not
the same: keep it unmerged, or merge it before V2 is attached. Knows nothing of attention.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from efficiency.surgery import become
from rmt.errors import InputError


class ScaledLinear(nn.Linear):
    """A linear layer with a scale and a bias of its outputs on top; made by :func:`scale_linear`."""

    adapter_scale: nn.Parameter
    adapter_bias: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        """s (W x + b_0 + b), in the format of W x."""
        out = super().forward(x)
        return (out + self.adapter_bias.to(out.dtype)) * self.adapter_scale.to(out.dtype)

    @torch.no_grad()
    def reset_scale(self, init: Any = nn.init) -> None:
        """Scale 1, bias 0: the layer as it was."""
        init.constant_(self.adapter_scale, 1.0)
        init.constant_(self.adapter_bias, 0.0)


def scale_linear(linear: nn.Linear) -> None:
    """Give a plain linear layer its scale and bias, in place and on its device, float32."""
    assert type(linear) is nn.Linear
    for name in ("adapter_scale", "adapter_bias"):
        linear.register_parameter(name, nn.Parameter(torch.empty(linear.out_features, device=linear.weight.device)))
    become(linear, ScaledLinear)
    scaled: Any = linear
    scaled.reset_scale()


def unscale_linear(linear: nn.Linear) -> None:
    """Take scale and bias off again, in place."""
    for name in ("adapter_scale", "adapter_bias"):
        del linear._parameters[name]
    become(linear, nn.Linear)


def linears_of(layer: nn.Module) -> dict[str, nn.Linear]:
    """A layer's linear layers by name, those of other adapters (LoRA) left out.

    Raises:
        InputError: one of another class, whose forward may look at the weight by itself.
    """
    found: dict[str, nn.Linear] = {}
    for name, module in layer.named_modules():
        if not isinstance(module, nn.Linear) or "lora_" in name or name.startswith("adapter."):
            continue
        if type(module) not in (nn.Linear, ScaledLinear):
            raise InputError(
                f"adapter: expected plain linear layers for variant 'v2', got {name} of class {type(module).__name__}; "
                "take variant='v1', or a base model that is not quantised"
            )
        found[name.removesuffix(".base_layer")] = module
    return found


def norms_of(core: nn.Module) -> dict[str, nn.Module]:
    """All norms of a base model by name. They are known by the names of their classes: each family has its own."""
    return {name: module for name, module in core.named_modules() if type(module).__name__.endswith("Norm")}
