"""From few segments to many: when to go on, and how much of the earlier to keep. Knows nothing of models."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Curriculum:
    """Where training stands.

    Goes on to the next stage when the mean accuracy of the last ``window`` batches of the current one reaches
    ``advance_at``, or after ``patience`` of its batches. Earlier stages are mixed in.

    Args:
        stages: how many there are.
        advance_at: accuracy in [0, 1].
        window: batches.
        mix: share of batches drawn from earlier stages.
        patience: batches of a stage after which to go on all the same; None for never.
        seed: with the step, all the randomness there is.
    """

    stages: int
    advance_at: float = 0.93
    window: int = 20
    mix: float = 0.3
    patience: int | None = None
    seed: int = 0
    current: int = 0
    seen: int = 0
    recent: deque[float] = field(default_factory=deque)

    def choose(self, step: int) -> int:
        """The stage of batch number ``step``."""
        rng = np.random.default_rng((self.seed, step, 7))
        if self.current and rng.random() < self.mix:
            return int(rng.integers(self.current))
        return self.current

    def observe(self, stage: int, accuracy: float) -> bool:
        """Take note of a batch; true when this moved training to the next stage."""
        if stage != self.current:
            return False
        self.seen += 1
        self.recent.append(accuracy)
        while len(self.recent) > self.window:
            self.recent.popleft()
        good = len(self.recent) == self.window and self.accuracy >= self.advance_at
        tired = self.patience is not None and self.seen >= self.patience
        if not (good or tired) or self.current == self.stages - 1:
            return False
        self.current += 1
        self.seen = 0
        self.recent.clear()
        return True

    @property
    def accuracy(self) -> float:
        """Mean accuracy over the window; 0 before the first batch."""
        return float(np.mean(self.recent)) if self.recent else 0.0

    def state_dict(self) -> dict[str, Any]:
        """What must be saved to go on from here."""
        return {"current": self.current, "seen": self.seen, "recent": list(self.recent)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self.current, self.seen, self.recent = state["current"], state["seen"], deque(state["recent"])
