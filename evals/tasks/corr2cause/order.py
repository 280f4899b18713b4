"""Which problem comes when: sizes in turn, each once, at their natural rate or one of each label in turn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int


def order(
    sizes: Int[np.ndarray, " problems"],
    labels: Bool[np.ndarray, " problems"],
    kinds: Int[np.ndarray, " problems"],
    seed: Sequence[int],
    balanced: bool,
) -> Int[np.ndarray, " ordered"]:
    """Numbers of problems: those of each size shuffled, sizes in turn (smaller first) until they run out.

    Args:
        sizes: number of variables of each.
        labels: whether it is entailed.
        kinds: which relation it asks for.
        seed: of the shuffle.
        balanced: entailed and not entailed in turn, from the first on, two by two of one size and relation; so neither
            tells the label. Ends where there is no such two left.
    """
    rng = np.random.default_rng(tuple(seed))
    shuffled = rng.permutation(len(sizes))
    if not balanced:
        return _in_turn(shuffled, sizes)
    twos = [np.zeros((0, 2), dtype=np.int64)]
    for size, kind in sorted({*zip(sizes.tolist(), kinds.tolist(), strict=True)}):
        own = shuffled[(sizes[shuffled] == size) & (kinds[shuffled] == kind)]
        right, wrong = own[labels[own]], own[~labels[own]]
        most = min(len(right), len(wrong))
        twos.append(np.stack([right[:most], wrong[:most]], axis=1))
    every = np.concatenate(twos)
    turn = _in_turn(rng.permutation(len(every)), sizes[every[:, 0]])
    return every[turn].reshape(-1)


def _in_turn(numbers: Int[np.ndarray, " some"], sizes: Int[np.ndarray, " problems"]) -> Int[np.ndarray, " some"]:
    own = sizes[numbers]
    rank = np.zeros(len(numbers), dtype=np.int64)
    for size in np.unique(own):
        rank[own == size] = np.arange((own == size).sum())
    return numbers[np.lexsort((own, rank))]
