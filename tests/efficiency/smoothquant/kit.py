"""What the tests of SmoothQuant share: tiny models of every family and the plain way to round to 8 bits."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.rmt.families import VOCAB, build


class Ops(TorchDispatchMode):
    """Counts the operations that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


def ids(batch: int = 2, length: int = 12, seed: int = 0) -> Tensor:
    """Random tokens."""
    return torch.randint(3, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


def output(model: nn.Module, tokens: Tensor) -> Tensor:
    """Logits of a decoder, last hidden states of an encoder."""
    with torch.no_grad():
        out: Any = model(input_ids=tokens)
    found: Tensor = out.logits if "logits" in out else out.last_hidden_state
    return found


def lively(kind: str, **changes: Any) -> Any:
    """A tiny model whose norms have gains and shifts of their own, so that forgetting one shows."""
    model = build(kind, **changes)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if "Norm" in type(module).__name__:
                weight: Any = module.weight
                weight.copy_(weight + 0.3 * torch.rand(weight.shape, generator=generator))
                if getattr(module, "bias", None) is not None:
                    module.bias.copy_(0.2 * torch.randn(module.bias.shape, generator=generator))
    return model


def rounded(x: Tensor, scale: Tensor) -> Tensor:
    """Numbers as 8 bits with a scale hold them."""
    return (x / scale).round().clamp(-127, 127) * scale


def plain_w8a8(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Linear layer with a scale for each row of inputs and of the weight."""
    xq = rounded(x, x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-30) / 127)
    wq = rounded(weight, weight.abs().amax(dim=-1, keepdim=True).clamp(min=1e-30) / 127)
    return xq @ wq.t() + (0 if bias is None else bias)
