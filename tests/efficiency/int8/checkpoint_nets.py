"""Models of 8-bit layers for tests of their files: made layer by layer, without smoothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from efficiency.smoothquant.multiply import to_int8
from efficiency.smoothquant.weights import is_linear
from efficiency.surgery import replace_modules

KEPT = ("lm_head", "classifier", "cell")


def quantised(model: Any, kind: str | Callable[[str], str] = "token", keep: tuple[str, ...] = KEPT) -> Any:
    """The model with its linear layers in 8 bit, in place; static scales are for inputs up to 4."""

    def choose(name: str, module: nn.Module) -> nn.Module | None:
        if not is_linear(module) or any(part in keep for part in name.split(".")):
            return None
        how = kind if isinstance(kind, str) else kind(name)
        return to_int8(module, activations=how, input_scale=4 / 127)

    assert replace_modules(model, choose)
    return model


def llama(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    """A LLaMA of two layers."""
    torch.manual_seed(seed)
    fields = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    fields |= {"intermediate_size": 48, "max_position_embeddings": 64, "initializer_range": 0.2}
    return LlamaForCausalLM(LlamaConfig(**(fields | changes))).eval()


def tokens(batch: int = 2, length: int = 7) -> Tensor:
    """Token ids of shape (batch, length)."""
    return torch.randint(0, 64, (batch, length), generator=torch.Generator().manual_seed(3))


def same_state(one: nn.Module, other: nn.Module) -> bool:
    """Whether two models hold the same numbers in the same formats under the same names."""
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(t.dtype == b[n].dtype and torch.equal(t, b[n]) for n, t in a.items())
