"""Weights of linear layers and gains of norms, whichever way round they are stored."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

# Norms y = (offset + weight) * normalised(x) [+ bias], by the name of the class.
GAINS: dict[str, float] = {
    "LayerNorm": 0.0,
    "RMSNorm": 0.0,
    "LlamaRMSNorm": 0.0,
    "MistralRMSNorm": 0.0,
    "Qwen2RMSNorm": 0.0,
    "Qwen3RMSNorm": 0.0,
    "GemmaRMSNorm": 1.0,
}


def is_linear(module: Any) -> bool:
    """Whether it is a plain ``nn.Linear`` or GPT-2's ``Conv1D``, and no class derived from them."""
    return type(module) in (nn.Linear, Conv1D)


def sizes(module: Any) -> tuple[int, int]:
    """Outputs and inputs of a linear layer."""
    outputs, inputs = matrix(module).shape
    return outputs, inputs


def matrix(module: Any) -> Float[Tensor, "out in"]:
    """The weight of a linear layer as (out, in), a view that may be written to."""
    weight: Tensor = module.weight.detach()
    return weight.t() if isinstance(module, Conv1D) else weight


def divided(module: Any, rows: Float[Tensor, " out"] | None) -> Float[Tensor, "out in"]:
    """A linear layer's weight as it will be once its outputs were divided, see :func:`divide_rows`."""
    weight = matrix(module)
    return weight if rows is None else (weight.float() / rows[:, None]).to(weight.dtype)


def as_linear(module: Any) -> nn.Linear:
    """The layer as ``nn.Linear``: itself, or a new one with the same numbers and the same bias."""
    if not isinstance(module, Conv1D):
        linear: nn.Linear = module
        return linear
    outputs, inputs = sizes(module)
    made = nn.Linear(inputs, outputs, bias=False, device="meta")
    made.weight = nn.Parameter(matrix(module).contiguous(), requires_grad=module.weight.requires_grad)
    made.bias = module.bias
    return made.train(module.training)


@torch.no_grad()
def divided_norm(norm: Any, scale: Float[Tensor, " channels"]) -> tuple[Tensor, Tensor, Tensor | None]:
    """What it takes to divide a norm's output by a scale a channel.

    The two differ where the new gain is rounded to the weight's format: 1 + w of Gemma in bfloat16 has steps of 0.004
    near w = -1, so a gain of 0.05 may be 8% off. What the readers are multiplied by must be what was divided by, not
    what was asked for. Channels whose gain is zero, or would become so, stay as they are.

    Returns:
        the scale that it will be divided by, float32; the weight and the bias that do so.
    """
    offset = GAINS[type(norm).__name__]
    before = norm.weight.float() + offset
    weight = (before / scale - offset).to(norm.weight.dtype)
    after = weight.float() + offset
    applied = before / after
    # Without an offset rounding is relative, harmless, and a power of two must stay one.
    applied = torch.where((applied / scale - 1).abs() < 2e-7, scale, applied)
    good = torch.isfinite(applied) & (applied > 0) & (applied < 2 * scale) & (applied > scale / 2)
    applied = torch.where(good, applied, torch.ones_like(applied))
    return applied, torch.where(good, weight, norm.weight), divided_bias(norm, applied)


def divided_bias(module: Any, scale: Float[Tensor, " out"]) -> Float[Tensor, " out"] | None:
    """The bias of a norm or linear layer, where it has one, divided and rounded to its format."""
    bias = getattr(module, "bias", None)
    return None if bias is None else (bias.detach().float() / scale).to(bias.dtype)


@torch.no_grad()
def divide_norm(norm: Any, scale: Float[Tensor, " channels"]) -> Float[Tensor, " channels"]:
    """Divide a norm's output, in place; gives the scale that it was divided by, see :func:`divided_norm`."""
    applied, weight, bias = divided_norm(norm, scale)
    norm.weight.copy_(weight)
    if bias is not None:
        norm.bias.copy_(bias)
    return applied


@torch.no_grad()
def divide_rows(module: Any, scale: Float[Tensor, " out"]) -> None:
    """Divide the outputs of a linear layer by a scale each, in place."""
    weight, bias = divided(module, scale), divided_bias(module, scale)
    matrix(module).copy_(weight)
    if bias is not None:
        module.bias.copy_(bias)


@torch.no_grad()
def multiply_columns(module: Any, scale: Float[Tensor, " in"]) -> None:
    """Multiply the weights of each input of a linear layer by a scale, in place."""
    weight = matrix(module)
    weight.copy_(weight.float() * scale)
