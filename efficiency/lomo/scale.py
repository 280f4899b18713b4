"""A loss scale that grows while gradients are finite and shrinks when one is not, as ``torch.amp.GradScaler`` does."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from efficiency.errors import InputError

GROWTH, BACKOFF, INTERVAL = 2.0, 0.5, 2000


class LossScale:
    """Multiplies losses so that half-precision gradients do not vanish.

    Args:
        value: to begin with.

    Attributes:
        value: now.
        good: finite steps since it last changed.
        skipped: steps dropped in all.
        asked: whether a loss was scaled since the last step.
    """

    def __init__(self, value: float) -> None:
        if not value > 0:
            raise InputError(f"expected loss_scale above 0, got {value}; 2.0**16 is usual, None is for no scaling")
        self.value, self.good, self.skipped, self.asked = float(value), 0, 0, False

    def scale(self, loss: Tensor) -> Tensor:
        """``loss`` times the scale."""
        self.asked = True
        return loss * self.value

    def used(self) -> float:
        """The scale that gradients now carry.

        Raises:
            InputError: no loss was scaled.
        """
        if not self.asked:
            raise InputError(
                "expected a scaled loss, got a step without one; call opt.backward(loss), or opt.scale(loss).backward()"
            )
        return self.value

    def after(self, finite: bool) -> bool:
        """Settle the next scale; returns ``finite``, whether the step is to be made."""
        if not finite:
            self.value, self.good, self.skipped = self.value * BACKOFF, 0, self.skipped + 1
        else:
            self.good += 1
            if self.good >= INTERVAL:
                self.value, self.good = self.value * GROWTH, 0
        return finite

    def state(self) -> dict[str, Any]:
        """What to save."""
        return {"value": self.value, "good": self.good, "skipped": self.skipped}

    def load(self, state: dict[str, Any]) -> None:
        """The reverse of :meth:`state`."""
        self.value, self.good, self.skipped = float(state["value"]), int(state["good"]), int(state["skipped"])
