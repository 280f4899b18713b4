"""Linear layers and embeddings whose backward keeps what the weight's gradient is made of.

Modules stay where they are and keep their names, parameters and state dicts: only their class becomes a subclass, and
:func:`undefer` turns them back. Where a module is called with another weight than the one that was deferred (a copy of
the model, ``functional_call``, stacked layers), under ``torch.compile`` or without gradient, it does what it always
did, and what autograd leaves in ``weight.grad`` is added to what was kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from efficiency.lomo.stash import Stash
from efficiency.surgery import become

KEY = "lomo_stash"
Layer = nn.Linear | nn.Embedding


class LinearCall(torch.autograd.Function):
    """``x W^T + b`` whose backward gives dx and db, and keeps (x, dy) in place of dW."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stash: Stash) -> Tensor:
        ctx.stash = stash
        # Saved by autograd's own means, so that a checkpoint may drop x and compute it again.
        ctx.save_for_backward(x, weight)
        # Detached: autocast keeps a copy of a weight that requires grad, and would keep this one without its graph.
        return F.linear(x, weight.detach(), None if bias is None else bias.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        dx = dy @ weight.to(dy.dtype) if needs_x else None
        db = dy.reshape(-1, dy.shape[-1]).sum(0) if needs_bias else None
        if needs_weight:
            ctx.stash.add_linear(x, dy)
        return dx, None, db, None


class LookupCall(torch.autograd.Function):
    """Rows of an embedding; backward keeps (ids, dy)."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor, padding: int | None, stash: Stash) -> Tensor:
        ctx.stash, ctx.padding = stash, padding
        ctx.save_for_backward(ids)
        return F.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (ids,) = ctx.saved_tensors
        if ctx.padding is not None:
            # The row of padding learns nothing: torch.nn.Embedding.
            dy = dy.masked_fill((ids == ctx.padding).unsqueeze(-1), 0.0)
        ctx.stash.add_lookup(ids, dy)
        return None, None, None, None


def keeps(module: Layer) -> Stash | None:
    """Where this call of a deferred module is to keep what it has, or None for a plain call."""
    weight = module.weight
    stash: Stash = module.__dict__[KEY]
    if weight is not stash.weight or not weight.requires_grad or not torch.is_grad_enabled():
        return None
    return None if torch.compiler.is_compiling() else stash


class DeferredLinear(nn.Linear):
    """A linear layer with deferred weight gradients."""

    def forward(self, input: Tensor) -> Tensor:
        """``(..., in)`` to ``(..., out)``, in the dtype of autocast where that is on."""
        stash = keeps(self)
        if stash is None:
            return F.linear(input, self.weight, self.bias)
        kind = input.device.type
        if torch.is_autocast_enabled(kind) and input.dtype != torch.float64:
            input = input.to(torch.get_autocast_dtype(kind))
        return cast(Tensor, LinearCall.apply(input, self.weight, self.bias, stash))


class DeferredEmbedding(nn.Embedding):
    """An embedding with deferred weight gradients."""

    def forward(self, input: Tensor) -> Tensor:
        """Ids of any shape to ``(..., dim)``."""
        stash = keeps(self)
        if stash is None:
            return F.embedding(input, self.weight, self.padding_idx)
        return cast(Tensor, LookupCall.apply(input, self.weight, self.padding_idx, stash))


def deferrable(root: nn.Module) -> Iterator[Layer]:
    """Modules inside whose weight gradients can be deferred: plain linear layers and embeddings.

    Subclasses are left alone, since what they do with their weight is not known, and so are embeddings that rescale.
    """
    for module in root.modules():
        if type(module) is nn.Linear or (type(module) is nn.Embedding and not rescales(module)):
            yield module


def rescales(module: nn.Embedding) -> bool:
    """Whether an embedding changes its weight or its gradient, or wants that sparse."""
    return module.max_norm is not None or module.scale_grad_by_freq or module.sparse


def deferred(root: nn.Module) -> list[Layer]:
    """Modules inside whose weight gradients are deferred."""
    return [m for m in root.modules() if isinstance(m, DeferredLinear | DeferredEmbedding)]


def defer(module: Layer, stash: Stash) -> None:
    """Let a module that is :func:`deferrable` keep what its weight's gradient is made of, in place."""
    assert module.weight is stash.weight
    module.__dict__[KEY] = stash
    become(module, DeferredLinear if type(module) is nn.Linear else DeferredEmbedding)


def undefer(module: Layer) -> None:
    """The reverse of :func:`defer`."""
    become(module, nn.Linear if isinstance(module, nn.Linear) else nn.Embedding)
    module.__dict__.pop(KEY, None)
