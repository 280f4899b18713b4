"""Tokens drawn from logits, each row from a generator of its own. Knows nothing of models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from evals.model import Sampling


class Draw:
    """Draws the next token of each row: softmax(logits / temperature), cut to its nucleus.

    One number of a row's generator goes into each token (inversion of the distribution function), so what a row says
    follows from its seed and its logits alone, however many rows are generated together.

    Args:
        ways: one for each row.
    """

    def __init__(self, ways: Sequence[Sampling]) -> None:
        self.ways = tuple(ways)
        self._generators = [np.random.default_rng(way.seed) for way in self.ways]

    def __call__(self, logits: Float[Tensor, "rows vocabulary"]) -> Int[Tensor, " rows"]:
        """Token ids, int64, on the CPU."""
        rows = logits.detach().double().cpu().numpy()
        drawn = [_draw(*each) for each in zip(rows, self.ways, self._generators, strict=True)]
        return torch.tensor(drawn, dtype=torch.long)

    def one(self, row: int, logits: Float[Tensor, " vocabulary"]) -> int:
        """The next token of one row alone."""
        return _draw(logits.detach().double().cpu().numpy(), self.ways[row], self._generators[row])


def _draw(logits: np.ndarray, way: Sampling, generator: np.random.Generator) -> int:
    scaled = np.exp((logits - logits.max()) / way.temperature)
    share = generator.random()
    if way.top_p == 1:
        order = None
        likely = scaled
    else:
        order = np.argsort(-scaled, kind="stable")
        likely = scaled[order]
        kept = int(np.searchsorted(np.cumsum(likely), way.top_p * likely.sum(), side="left")) + 1
        likely = likely[:kept]
    reached = np.cumsum(likely)
    place = min(int(np.searchsorted(reached, share * reached[-1], side="right")), len(likely) - 1)
    return place if order is None else int(order[place])
