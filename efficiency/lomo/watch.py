"""Has somebody changed, or dropped, gradients between backward and step who cannot know that most are not there?

``clip_grad_norm_`` takes the norm of what is in ``.grad``; a ``GradScaler`` unscales that. Deferred gradients are not
in it, and those that were applied during backward are gone, so both would be silently wrong. What can be seen of it:

- a gradient in ``.grad`` is another tensor, or was written to: its version counter moved. Clipping writes even where it
  multiplies by one, as it does where the norm of the few gradients that it saw was small enough;
- values differ, of a few of the smallest gradients, of which copies are kept: what does not count versions, a
  ``GradScaler`` above all;
- a Hugging Face Trainer above this code clips. One that does not takes the norm by clipping to infinity, so in it only
  values count.

What cannot be seen: clipping where a model has deferred weights and nothing else, no bias and no norm. There
``clip_grad_norm_`` finds no gradient at all, and does nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from types import FrameType

import torch
from torch import Tensor, distributed

from efficiency.errors import InputError


class Watch:
    """Gradients as backward left them.

    Attributes:
        left: of a parameter by its id, its gradient and the version of that.
        copies: of some of them.
        changed, dropped: whether a gradient was written to, or replaced by that of a later backward, between backwards.
    """

    def __init__(self) -> None:
        self.left: dict[int, tuple[Tensor, int]] = {}
        self.copies: dict[int, Tensor] = {}
        self.changed = self.dropped = False

    def clear(self) -> None:
        """Forget everything: gradients were used, or dropped as they should be."""
        self.left.clear()
        self.copies.clear()
        self.changed = self.dropped = False

    def hook(self, copy: bool) -> Callable[[Tensor], None]:
        """For ``register_post_accumulate_grad_hook`` of a parameter.

        Args:
            copy: keep one of the gradient.
        """

        def look(param: Tensor) -> None:
            grad = param.grad
            if grad is None:
                return
            before, version = self.left.get(id(param), (None, 0))
            # Backward adds to what is there: one write in place, unless it is sparse or records a graph of its own.
            if before is grad:
                self.changed = self.changed or grad._version > version + 1
            elif before is not None and not grad.requires_grad and grad.layout == torch.strided:
                self.dropped = True
            self.left[id(param)] = grad, grad._version
            if copy:
                self.copies[id(param)] = strided(grad).clone()

        return look

    def check(self, params: Iterable[Tensor]) -> None:
        """Refuse gradients that are not those that backward left.

        Args:
            params: whose gradients are looked at.

        Raises:
            InputError: they were changed or dropped, or a Trainer clips.
        """
        clipped = norm_of_trainer()
        if clipped:
            raise InputError(
                f"expected max_grad_norm=0 in TrainingArguments, got {clipped:g}: most gradients are not in .grad for "
                f"Trainer to clip; pass clip_norm={clipped:g} to this optimizer, if it has defer=model"
            )
        changed, dropped = self.changed, self.dropped
        for p in params:
            grad, version = self.left.get(id(p), (None, 0))
            if grad is not None and p.grad is None:
                dropped = True
            elif grad is not None:
                written = p.grad is not grad or grad._version != version
                changed = changed or (written and clipped is None) or self._differs(p)
        if changed:
            raise InputError(
                "expected the gradients that backward left, got some that were changed since (clip_grad_norm_, a "
                "GradScaler, zero_grad of the model?): most are not in .grad here; use clip_norm=, loss_scale= and "
                "zero_grad() of this optimizer, with defer=model (clip_norm=inf only measures), or "
                "Tensor.register_hook for a single gradient"
            )
        if dropped:
            raise InputError(
                "expected the gradients that backward left, got some that were dropped since, though others that are "
                "not in .grad were not; call zero_grad() of this optimizer, which drops all, and not the model's"
            )

    def _differs(self, p: Tensor) -> bool:
        copy = self.copies.get(id(p))
        if copy is None or torch.equal(copy, strided(p.grad)):
            return False
        return not bool(torch.isnan(copy).any())  # which equals nothing


TRAINER = "transformers.trainer"


def norm_of_trainer() -> float | None:
    """``max_grad_norm`` of the Hugging Face Trainer that this code runs in; None outside of one.

    Seen in the frames of this thread, by the name of their module: nothing is imported.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        # Its own frames only: to look at those of others would keep what their variables hold alive.
        if frame.f_globals.get("__name__") == TRAINER and frame.f_code.co_varnames[:1] == ("self",):
            args = getattr(frame.f_locals.get("self"), "args", None)
            if args is not None:
                return float(getattr(args, "max_grad_norm", None) or 0.0)
        frame = frame.f_back
    return None


def check_alone() -> None:
    """Refuse to train one model in several processes.

    Raises:
        InputError: there are.
    """
    count = distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
    if count > 1:
        raise InputError(
            f"expected one process, got {count}: a gradient that is not in .grad is not averaged over them, and their "
            "weights would drift apart; train in one process, or with torch.optim.AdamW"
        )


def strided(grad: Tensor | None) -> Tensor:
    """A gradient in full."""
    assert grad is not None
    return grad if grad.layout == torch.strided else grad.to_dense()
