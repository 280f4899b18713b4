"""The two update rules: SGD (LOMO, arXiv 2306.09782) and a factored, normalised one (AdaLomo, arXiv 2310.10195)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from efficiency.errors import InputError
from efficiency.lomo.optimizer import GradientFreeing
from efficiency.lomo.stash import Gradient, Rows


class Lomo(GradientFreeing):
    """SGD that frees each gradient once it is applied (Lv et al., arXiv 2306.09782, Algorithm 1).

        θ ← (1 - lr · weight_decay) θ - lr · g

    The same as ``torch.optim.SGD(lr, weight_decay=weight_decay)`` without momentum.

    Args:
        params: parameters or groups, as of any torch optimizer.
        lr: learning rate.
        weight_decay: added to the gradient as ``weight_decay`` times the weight.
        defer, early, clip_norm, loss_scale, piece_bytes: see :class:`efficiency.lomo.optimizer.GradientFreeing`.

    Example::

        opt = Lomo(model.parameters(), lr=1e-2, defer=model, clip_norm=1.0)
        model(**batch).loss.backward()
        opt.step()
        opt.zero_grad()
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        weight_decay: float = 0.0,
        defer: nn.Module | None = None,
        early: bool | None = None,
        clip_norm: float | None = None,
        loss_scale: float | None = None,
        piece_bytes: int | None = None,
    ) -> None:
        super().__init__(
            params,
            {"lr": lr, "weight_decay": weight_decay},
            defer=defer,
            early=early,
            clip_norm=clip_norm,
            loss_scale=loss_scale,
            piece_bytes=piece_bytes,
        )

    def update(self, param: Tensor, group: dict[str, Any], gradient: Gradient, factor: float) -> None:
        """See the class. Within the product that makes the gradient; else piece by piece, no two alive at a time."""
        lr = float(group["lr"])
        keep = 1.0 - lr * group["weight_decay"]
        if gradient.add_to(param, alpha=-lr * factor, beta=keep):
            return
        if group["weight_decay"]:
            param.mul_(keep)
        for at, part in gradient.pieces(self._most):
            param[at].add_(part, alpha=-lr * factor)
            del part  # not alive while the next is made

    def update_many(self, params: list[Tensor], grads: list[Tensor], group: dict[str, Any], factor: float) -> None:
        """See the class. One call for all."""
        lr = float(group["lr"])
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1.0 - lr * group["weight_decay"])
        torch._foreach_add_(params, grads, alpha=-lr * factor)


class AdaLomo(GradientFreeing):
    """LOMO with a factored second moment and normalised updates (Lv et al., arXiv 2310.10195, Algorithm 1).

    For a weight of m rows and n columns at step t, with β = 1 - t^-0.8 as in the authors' code:

        r ← β r + (1 - β) (g² + ε₁) 1 / n          row means; the paper has sums, the next line is the same
        c ← β c + (1 - β) 1ᵀ (g² + ε₁) / m         column means
        v = r cᵀ / mean(r)
        u = g / √v
        û = u / max(1, RMS(u)) · max(ε₂, RMS(θ))    grouped normalisation: each weight by its own
        θ ← (1 - lr · scale · weight_decay) θ - lr · û    with scale = max(ε₂, RMS(θ)), as in the authors' code

    Vectors keep a full second moment. Moments are float32 at least, m + n numbers a weight.

    Args:
        params: parameters or groups, as of any torch optimizer.
        lr: learning rate, relative to the size of a weight.
        decay_rate: exponent of t in β.
        eps: ε₁ and ε₂.
        weight_decay: decoupled.
        defer, early, clip_norm, loss_scale, piece_bytes: see :class:`efficiency.lomo.optimizer.GradientFreeing`. A
            weight larger than a piece is formed three times a step, since the update's size must be known before it is
            made.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        decay_rate: float = 0.8,
        eps: tuple[float, float] = (1e-30, 1e-3),
        weight_decay: float = 0.0,
        defer: nn.Module | None = None,
        early: bool | None = None,
        clip_norm: float | None = None,
        loss_scale: float | None = None,
        piece_bytes: int | None = None,
    ) -> None:
        if not 0 < decay_rate <= 1:
            raise InputError(f"expected decay_rate above 0 and up to 1, got {decay_rate}; the paper's code has 0.8")
        super().__init__(
            params,
            {"lr": lr, "decay_rate": decay_rate, "eps": eps, "weight_decay": weight_decay},
            defer=defer,
            early=early,
            clip_norm=clip_norm,
            loss_scale=loss_scale,
            piece_bytes=piece_bytes,
        )

    def update(self, param: Tensor, group: dict[str, Any], gradient: Gradient, factor: float) -> None:
        """See the class."""
        state, eps, wide = self.state[param], group["eps"], wide_dtype(param)
        state["step"] = state.get("step", 0) + 1
        beta = 1.0 - state["step"] ** -group["decay_rate"]
        scaling = self._second_moment(param, state, gradient, factor, beta, eps[0])
        total = torch.zeros((), dtype=wide, device=param.device)
        for at, part in gradient.pieces(self._most):
            total += (scaling(at) * part.to(wide)).square_().sum()
            del part
        rms = (total * factor**2 / param.numel()).sqrt()
        size = (torch.linalg.vector_norm(param, dtype=wide) / param.numel() ** 0.5).clamp(min=eps[1])
        shrink = 1.0 - group["lr"] * size * group["weight_decay"]
        length = group["lr"] * size * factor / rms.clamp(min=1.0)
        for at, part in gradient.pieces(self._most):
            here = param[at]
            here.copy_((here.to(wide) * shrink).sub_(scaling(at).mul_(part.to(wide)).mul_(length)))
            del part

    def _second_moment(
        self, param: Tensor, state: dict[str, Any], gradient: Gradient, factor: float, beta: float, eps: float
    ) -> Callable[[Rows], Tensor]:
        """Bring the moments up to date; returns what makes 1 / √v of some rows."""
        wide = wide_dtype(param)
        if param.dim() < 2:
            if "square" not in state:
                state["square"] = torch.zeros_like(param, dtype=wide)
            for _, part in gradient.pieces(self._most):
                state["square"].lerp_((part.to(wide) * factor).square_().add_(eps), 1.0 - beta)
            return lambda at: state["square"][at].rsqrt()
        rows = torch.empty(param.shape[:-1], dtype=wide, device=param.device)
        columns = torch.zeros(param.shape[:-2] + param.shape[-1:], dtype=wide, device=param.device)
        for at, part in gradient.pieces(self._most):
            squares = (part.to(wide) * factor).square_().add_(eps)
            rows[at] = squares.mean(-1)
            columns += squares.sum(-2)
            del squares, part
        columns /= param.shape[-2]
        for name, now in (("row", rows), ("column", columns)):
            if name not in state:
                state[name] = torch.zeros_like(now)
            state[name].lerp_(now, 1.0 - beta)
        row = (state["row"] / state["row"].mean(-1, keepdim=True)).rsqrt_().unsqueeze(-1)
        column = state["column"].rsqrt().unsqueeze(-2)
        return lambda at: row[at] * column

    def update_many(self, params: list[Tensor], grads: list[Tensor], group: dict[str, Any], factor: float) -> None:
        """See the class. One by one: each is normalised by its own size."""
        for param, grad in zip(params, grads, strict=True):
            self.update(param, group, Gradient(param, dense=grad), factor)


def wide_dtype(param: Tensor) -> torch.dtype:
    """The dtype to compute an update in: float32 at least."""
    return torch.promote_types(param.dtype, torch.float32)
