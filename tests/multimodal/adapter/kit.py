"""A LLaMA with an adapter, written out head by head as the papers have it; adapters that are not fresh."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from multimodal.adapter import AdapterConfig, adapter_parameters, attach


def stirred(model: nn.Module, config: AdapterConfig, seed: int = 1) -> Any:
    """The model with an adapter whose gates, scales and biases are away from where they start."""
    attach(model, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapter_parameters(model).items():
            if name.endswith(("gate", "scale", "bias")):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return model


def _rms(x: Tensor, norm: Any) -> Tensor:
    return x / (x.square().mean(dim=-1, keepdim=True) + norm.variance_epsilon).sqrt() * norm.weight


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    one, two = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-two, one], dim=-1) * sin


def _linear(linear: Any, x: Tensor) -> Tensor:
    out = x @ linear.weight.T
    if hasattr(linear, "adapter_scale"):  # LLaMA-Adapter V2, equation 1
        out = linear.adapter_scale * (out + linear.adapter_bias)
    return out


def naive(
    core: Any, embedded: Tensor, picture: Tensor | None = None, seen: list[bool] | None = None, start: int = 0
) -> Tensor:
    """Last hidden states of a LLaMA, row by row and head by head; no padding, no cache.

    Args:
        embedded: (batch, width, hidden).
        picture: (batch, tokens, hidden), and in ``seen`` which rows look at theirs.
        start: position of the first column.
    """
    rows = []
    for row, x in enumerate(embedded):
        look = picture[row] if picture is not None and (seen is None or seen[row]) else None
        cos, sin = (t[0] for t in core.rotary_emb(x[None], torch.arange(len(x))[None] + start))
        for layer in core.layers:
            own = layer.self_attn
            h = _rms(x, layer.input_layernorm)
            x = x + _linear(own.o_proj, torch.cat(_heads(own, h, cos, sin, look), dim=-1))
            h = _rms(x, layer.post_attention_layernorm)
            up = torch.nn.functional.silu(_linear(layer.mlp.gate_proj, h)) * _linear(layer.mlp.up_proj, h)
            x = x + _linear(layer.mlp.down_proj, up)
        rows.append(_rms(x, core.norm))
    return torch.stack(rows)


def _heads(own: Any, h: Tensor, cos: Tensor, sin: Tensor, look: Tensor | None) -> list[Tensor]:
    size, outs = own.head_dim, []
    causal = torch.ones(len(h), len(h)).tril().bool()
    for head in range(own.config.num_attention_heads):
        kv = head // own.num_key_value_groups
        mine, shared = slice(head * size, (head + 1) * size), slice(kv * size, (kv + 1) * size)
        q = _turn(_linear(own.q_proj, h)[:, mine], cos, sin)
        k = _turn(_linear(own.k_proj, h)[:, shared], cos, sin)
        scores = (q @ k.T / size**0.5).masked_fill(~causal, -torch.inf)
        out = scores.softmax(dim=-1) @ _linear(own.v_proj, h)[:, shared]
        adapter = getattr(own, "adapter", None)
        banks: list[tuple[Tensor, Tensor]] = []
        if adapter is not None and adapter.prompts is not None:
            added = look if look is not None and adapter.adds else 0.0
            banks.append((adapter.prompts + added, adapter.gate[head]))
        if adapter is not None and adapter.visual_gate is not None and look is not None:
            banks.append((look, adapter.visual_gate[head]))
        for prompts, gate in banks:
            weights = (q @ _linear(own.k_proj, prompts)[:, shared].T / size**0.5).softmax(dim=-1)
            out = out + (weights * gate.tanh()) @ _linear(own.v_proj, prompts)[:, shared]
        outs.append(out)
    return outs
