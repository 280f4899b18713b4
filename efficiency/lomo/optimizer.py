"""What LOMO and AdaLomo share: when gradients are taken, added up, measured, applied and freed. Knows no update rule.

Two ways a parameter's gradient comes:

- *early*: a hook runs when autograd has summed all uses of the parameter; a few are gathered and updated together while
  backward goes on. The smallest parameters, a 64th of all, wait for ``step``. Exact at any time, but it saves memory
  only where each layer's backward is finished before the next one's starts (one segment; layer by layer). Under
  recurrence segment by segment nothing is complete before the first segment's backward, so autograd's sums of all
  parameters are alive at a time. Reentrant checkpoints, which run a backward of their own each, are refused: a weight
  would be updated once in each (:mod:`efficiency.lomo.reentrant`).
- *deferred*: linear layers and embeddings keep the factors of their weight gradients
  (:mod:`efficiency.lomo.stash`), and ``step`` forms one at a time, applies it and frees it. All weights stay as they
  are until ``step``, so micro-batches add up, the global norm is known before the first update, and a step with an
  overflow can be dropped whole. For the same reason checkpoints of either kind are exact: a reentrant one only spreads
  one backward over several, whose factors add up as those of micro-batches do, and each is computed with the weights
  of the forward pass. What a checkpoint runs without gradient before it runs it again keeps nothing.

The exact global norm, without a second backward: ``step`` forms each weight's gradient once for its norm and, after the
last, once more for the update. That costs a weight product a layer more, about a sixth of a training step's
multiplications; the paper's way costs a whole forward and backward.
"""

from __future__ import annotations

import math
import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from efficiency.errors import InputError
from efficiency.lomo import defer as deferral
from efficiency.lomo import reentrant
from efficiency.lomo.scale import LossScale
from efficiency.lomo.stash import Gradient, Stash
from efficiency.lomo.watch import Watch, check_alone, strided

# A gradient is formed and applied in pieces of this share of all parameters, or of this many bytes if that is more.
PIECE_SHARE, PIECE_LEAST = 1 / 64, 1 << 16
# So many of the smallest gradients that are left to ``step`` are compared there with copies of what backward left: the
# smallest always, others where they have no more than this share of all parameters.
WATCHED, WATCHED_SHARE = 8, 0.01

Found = tuple[Tensor, dict[str, Any], Gradient]


class GradientFreeing(torch.optim.Optimizer):
    """A torch optimizer that frees gradients as it goes. Subclasses say what an update is.

    ``loss.backward(); opt.step(); opt.zero_grad()`` as with any optimizer. After ``zero_grad`` alone nothing of an
    earlier deferred backward is left. Learning rates and weight decay are read when an update is made.

    Args:
        params: parameters or groups, as of ``torch.optim.Optimizer``.
        defaults: of a group.
        defer: model, or part of one, whose linear layers and embeddings defer their weight gradients.
        early: update what is not deferred during backward. None: if ``defer`` is None.
        clip_norm: largest global norm of all gradients, after unscaling; applied as by
            ``torch.nn.utils.clip_grad_norm_``.
        loss_scale: first value of a dynamic loss scale; call ``opt.backward(loss)`` or ``opt.scale(loss).backward()``.
        piece_bytes: a gradient is formed and applied in pieces of this size; None for a 64th of all parameters.

    Attributes:
        last_norm: global norm of the last step's gradients before clipping; None if it was not asked for.

    Raises:
        InputError: what cannot be had together; see the message.
    """

    def __init__(
        self,
        params: Iterable[Any],
        defaults: dict[str, Any],
        *,
        defer: nn.Module | None,
        early: bool | None,
        clip_norm: float | None,
        loss_scale: float | None,
        piece_bytes: int | None,
    ) -> None:
        for name in ("lr", "weight_decay"):
            if not defaults[name] >= 0:
                raise InputError(f"expected {name} of at least 0, got {defaults[name]}; use a positive number")
        if clip_norm is not None and not clip_norm > 0:
            raise InputError(f"expected clip_norm above 0, got {clip_norm}; use None for no clipping")
        check_alone()
        self.early = defer is None if early is None else early
        for name, value in (("clip_norm", clip_norm), ("loss_scale", loss_scale)):
            if self.early and value is not None:
                raise InputError(
                    f"expected no {name} with updates during backward, got {value}: the first weights are changed "
                    "before the last gradient is known; pass defer=model, which updates in step()"
                )
        self.clip_norm = clip_norm
        self.loss_scale = None if loss_scale is None else LossScale(loss_scale)
        self.last_norm: float | None = None
        self._piece_bytes = piece_bytes
        self._root = defer
        self._index: dict[int, int] = {}  # id of a parameter: its group
        self._stashes: dict[int, Stash] = {}
        self._watch = Watch()
        self._queue: list[Tensor] = []
        self._queued = [0]  # bytes
        self._updated: set[int] = set()
        self._searched = False
        self._handles: list[Any] = []
        self._modules: list[deferral.Layer] = []
        super().__init__(params, defaults)
        self._install()
        # Without the optimizer the model is a plain one again. Nothing here refers to the optimizer.
        self._finalizer = weakref.finalize(self, release, self._handles, self._modules)

    # Set-up --------------------------------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As of ``torch.optim.Optimizer``; the new parameters are hooked, or deferred, as the others."""
        super().add_param_group(param_group)
        if hasattr(self, "_finalizer"):
            self._install()

    def close(self) -> None:
        """Take all hooks away and give the model its plain layers back. The optimizer is of no more use."""
        self.zero_grad()
        self._finalizer()

    def _install(self) -> None:
        params = [p for group in self.param_groups for p in group["params"]]
        new = [p for p in params if id(p) not in self._index and p.requires_grad]
        self._index = {id(p): n for n, group in enumerate(self.param_groups) for p in group["params"]}
        total = sum(p.nbytes for p in params)
        self._most = self._piece_bytes or piece_of(total)
        self._defer(new)
        rest = sorted((p for p in new if id(p) not in self._stashes), key=Tensor.numel)
        sizes = accumulate(p.nbytes for p in rest)
        # A hook costs the same for a small parameter as for a large one, so the smallest, a piece in all, have none.
        late = sum(size <= self._most for size in sizes) if self.early else len(rest)
        for n, p in enumerate(rest[:late]):
            copy = n == 0 or (n < WATCHED and p.nbytes <= WATCHED_SHARE * total)
            if copy or not self.early:
                self._handles.append(p.register_post_accumulate_grad_hook(self._watch.hook(copy)))
        for p in rest[late:]:
            self._handles.append(p.register_post_accumulate_grad_hook(early_hook(self, p.nbytes)))

    def _defer(self, params: list[Tensor]) -> None:
        if self._root is None:
            return
        ours = {id(p) for p in params}
        for module in deferral.deferred(self._root):
            if id(module.weight) in ours:
                raise InputError(
                    "expected a model whose gradients nobody defers, got one that another optimizer has; close() that"
                )
        for module in list(deferral.deferrable(self._root)):
            weight = module.weight
            if id(weight) in ours:
                stash = self._stashes.setdefault(id(weight), Stash(weight))
                deferral.defer(module, stash)
                self._modules.append(module)
        if not self._stashes:
            raise InputError(
                "expected linear layers or embeddings of these params in `defer`, got none (only plain nn.Linear and "
                "nn.Embedding can be deferred); pass the model the params are of, or leave defer out"
            )

    # Backward ------------------------------------------------------------------------------------------------------

    def scale(self, loss: Tensor) -> Tensor:
        """``loss`` times the loss scale; itself without one."""
        return loss if self.loss_scale is None else self.loss_scale.scale(loss)

    def backward(self, loss: Tensor) -> None:
        """``loss.backward()`` with the loss scale, if there is one."""
        self.scale(loss).backward()

    @torch.no_grad()
    def flush(self) -> None:
        """Update what early hooks have gathered."""
        params, self._queue[:], self._queued[0] = list(self._queue), [], 0
        ids = {id(p) for p in params}
        again = len(ids) < len(params) or not ids.isdisjoint(self._updated)
        inside = reentrant.nested()
        if not inside and not self._searched:
            roots = reentrant.running()
            inside = reentrant.has_checkpoint(roots)
            self._searched = bool(roots)
        if inside or again:
            for p in params:
                p.grad = None
        if inside:
            raise InputError(
                "expected updates during backward with non-reentrant checkpointing, got a backward inside a backward: "
                "a weight would be updated once a checkpoint; use checkpoint(..., use_reentrant=False), or defer=model"
            )
        if again:
            raise InputError(
                "expected one backward before step(), got a second (or a reentrant checkpoint): its gradients would be "
                "those of weights that the first has changed already; call step() after each, or pass defer=model, "
                "which adds them up"
            )
        self._updated |= ids
        self._update_dense([p for p in params if p.grad is not None], 1.0)

    def _update_dense(self, params: list[Tensor], factor: float) -> None:
        """Update parameters whose gradient is in ``.grad``, and free it."""
        groups: dict[int, list[Tensor]] = {}
        for p in params:
            groups.setdefault(self._index[id(p)], []).append(p)
        for number, some in groups.items():
            self.update_many(some, [strided(p.grad) for p in some], self.param_groups[number], factor)
        for p in params:
            p.grad = None

    # Step ----------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Make the updates that backward has not made; no gradient is left afterwards.

        Returns:
            what ``closure`` returns, if given: it runs forward and backward first.

        Raises:
            InputError: gradients that were changed or dropped by somebody else, or a loss that was not scaled; no
                deferred weight is changed then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        check_alone()
        self._watch.check(self._params())
        if self._queue:
            self.flush()
        self._updated.clear()
        factor = self._factor()
        if factor is not None:
            for p, group, gradient in self._deferred():
                self.update(p, group, gradient, factor)
                self._stashes[id(p)].clear()
                del gradient
            self._update_dense([p for p in self._params() if p.grad is not None], factor)
        self.zero_grad()
        return loss

    def _params(self) -> Iterator[Tensor]:
        return (p for group in self.param_groups for p in group["params"])

    def _deferred(self) -> Iterator[Found]:
        """Gradients of deferred weights, one after another."""
        for p in self._params():
            stash = self._stashes.get(id(p))
            if stash is not None:
                left, p.grad = p.grad, None
                gradient = stash.gradient(left)
                if gradient is not None:
                    yield p, self.param_groups[self._index[id(p)]], gradient
                    gradient = None  # not alive while the next is made

    def _factor(self) -> float | None:
        """What gradients are to be multiplied by, or None to drop this step."""
        if self.clip_norm is None and self.loss_scale is None:
            return 1.0
        squares = [square(p.grad) for p in self._params() if p.grad is not None and id(p) not in self._stashes]
        for _, _, gradient in self._deferred():
            for _, part in gradient.pieces(self._most):
                squares.append(square(part))
                del part
        scale = 1.0 if self.loss_scale is None else self.loss_scale.used()
        norm = math.sqrt(float(sum(squares))) / scale if squares else 0.0
        self.last_norm = norm
        if self.loss_scale is not None and not self.loss_scale.after(math.isfinite(norm)):
            return None
        if not math.isfinite(norm):
            raise InputError(f"expected gradients with a finite norm, got {norm}; no weight was changed: lower lr")
        clip = 1.0 if self.clip_norm is None else min(1.0, self.clip_norm / (norm + 1e-6))
        return clip / scale

    def _forget(self) -> None:
        for stash in self._stashes.values():
            stash.clear()
        self._watch.clear()
        self._queue.clear()
        self._queued[0] = 0
        self._updated.clear()
        if self.loss_scale is not None:
            self.loss_scale.asked = False

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients, deferred ones too. What an early backward has updated stays updated."""
        super().zero_grad(set_to_none)
        self._forget()

    def held(self) -> int:
        """Bytes of factors that deferred layers keep now, each counted for each weight that keeps it."""
        return sum(stash.held for stash in self._stashes.values())

    def kept(self, param: Tensor) -> int:
        """Bytes of a deferred gradient now: factors, or the buffer in their place."""
        stash = self._stashes.get(id(param))
        if stash is None:
            return 0
        return stash.held + (0 if stash.buffer is None else stash.buffer.nbytes)

    # State ---------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """As of ``torch.optim.Optimizer``, with the loss scale."""
        state = super().state_dict()
        if self.loss_scale is not None:
            state["loss_scale"] = self.loss_scale.state()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As of ``torch.optim.Optimizer``; moments keep the dtype they were saved in."""
        super().load_state_dict(state_dict)
        if self.loss_scale is not None and "loss_scale" in state_dict:
            self.loss_scale.load(state_dict["loss_scale"])
        # torch casts state to the dtype of the parameter, and moments of half-precision weights are float32.
        for number, p in enumerate(self._params()):
            for name, value in state_dict["state"].get(number, {}).items():
                if isinstance(value, Tensor):
                    self.state[p][name] = value.detach().to(p.device, copy=True)

    # What an update is ---------------------------------------------------------------------------------------------

    @abstractmethod
    def update(self, param: Tensor, group: dict[str, Any], gradient: Gradient, factor: float) -> None:
        """Change ``param`` in place by ``factor`` times its gradient."""

    @abstractmethod
    def update_many(self, params: list[Tensor], grads: list[Tensor], group: dict[str, Any], factor: float) -> None:
        """The same for several of a group, whose gradients are there in full and may be changed."""


def piece_of(total: int) -> int:
    """Bytes of a piece of a gradient where nothing else is asked for.

    Args:
        total: bytes of all parameters.
    """
    return max(PIECE_LEAST, int(total * PIECE_SHARE))


def early_hook(optimizer: GradientFreeing, size: int) -> Callable[[Tensor], None]:
    """Gathers a parameter whose gradient is complete. As little as can be: it runs for each parameter."""
    queue, queued, most = optimizer._queue, optimizer._queued, optimizer._most
    flush = weakref.WeakMethod(optimizer.flush)

    def hook(param: Tensor) -> None:
        queue.append(param)
        queued[0] += size
        if queued[0] >= most:
            full = flush()
            assert full is not None
            full()

    return hook


def release(handles: list[Any], modules: list[deferral.Layer]) -> None:
    """Take hooks away, and give modules their own class back."""
    while handles:
        handles.pop().remove()
    while modules:
        deferral.undefer(modules.pop())


def square(grad: Tensor) -> Tensor:
    """Sum of squares, in float32 at least."""
    return torch.linalg.vector_norm(strided(grad), dtype=torch.promote_types(grad.dtype, torch.float32)).square()
