"""Relative information gain: which outputs can be told from which inputs alone (arXiv 2305.18654, sec. 2.3).

    RelativeIG(Y, X) = (H(Y) - H(Y | X)) / H(Y)    in [0, 1]

X is one input or several, Y one output, H the Shannon entropy over uniformly drawn problems. Where it is high, a model
may guess Y from the surface of X without working it out: the first and the last digit of a product, say. 0 where H(Y)
is 0 (nothing to be told).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Int

from evals.tasks.compositional.dynamic_programming import GREATEST, LEAST
from evals.tasks.compositional.dynamic_programming import sizes_of as lengths_of
from evals.tasks.compositional.multiplication import sizes_of

EXACT = 1_000_000  # problems counted one by one at most; of larger sizes some are drawn
SAMPLES = 200_000
_CODES = 1 << 24


@dataclass(frozen=True)
class Gain:
    """What some inputs say of an output.

    Attributes:
        inputs, output: names, such as ("x1", "y1") and "z1"; places count from the left, 1 the first.
        gain: relative information gain, in [0, 1].
        entropy: H(Y) in bits.
        n: problems counted.
        exact: whether these are all there are. Drawn ones make entropies a little too small, and gains of many inputs
            too large, where values of X come up but a few times.
    """

    inputs: tuple[str, ...]
    output: str
    gain: float
    entropy: float
    n: int
    exact: bool


def relative_information_gain(inputs: Int[np.ndarray, "n inputs"], output: Int[np.ndarray, " n"]) -> float:
    """(H(Y) - H(Y | X)) / H(Y) of n equally likely cases; see the head of this module.

    Raises ValueError on no cases.
    """
    if not len(output):
        raise ValueError("output: expected at least one case, got none; give some")
    whole = _entropy(output[:, None])
    # H(Y | X) = H(X, Y) - H(X)
    left = _entropy(np.concatenate([inputs, output[:, None]], axis=1)) - _entropy(inputs)
    return 0.0 if whole == 0 else float(np.clip((whole - left) / whole, 0.0, 1.0))


def of_multiplication(size: str, groups: Sequence[Sequence[str]] | None = None, seed: int = 0) -> list[Gain]:
    """Gains of every digit of the product, for a size such as "2x2", highest first.

    Digits of x are x1 (the first), x2, ...; of y likewise; the product z has as many digits as both together, with a 0
    before it where it has one less.

    Args:
        size: digits of x and y.
        groups: inputs to look at together; all single digits and all pairs of them, if None.
        seed: of the problems drawn, where there are more than ``EXACT``.

    Raises:
        ValueError: another size, or an input there is not.
    """
    (size,) = _single(sizes_of(size), size)
    n, m = (int(digits) for digits in size.split("x"))
    low = (10 ** (n - 1), 10 ** (m - 1))
    exact = 81 * low[0] * low[1] <= EXACT
    if exact:
        x, y = (np.ravel(grid) for grid in np.meshgrid(*(np.arange(a, 10 * a) for a in low), indexing="ij"))
    else:
        rng = np.random.default_rng(seed)
        x, y = (rng.integers(a, 10 * a, size=SAMPLES) for a in low)
    columns = {**_columns("x", x, n), **_columns("y", y, m)}
    return _gains(columns, _columns("z", x * y, n + m), groups, exact)


def of_maximum_sum(size: str, groups: Sequence[Sequence[str]] | None = None, seed: int = 0) -> list[Gain]:
    """Gains of every output (1 or 2) of the dynamic programming task, for a length such as "5", highest first.

    Inputs are a1, a2, ..., outputs o1, o2, ...; the rest as in :func:`of_multiplication`, but that all groups are
    single numbers and up to three in a row, as the authors look at them.
    """
    (size,) = _single(lengths_of(size), size)
    n, values = int(size), GREATEST - LEAST + 1
    exact = values**n <= EXACT
    if exact:
        given = np.array(list(product(range(LEAST, GREATEST + 1), repeat=n)))
    else:
        given = np.random.default_rng(seed).integers(LEAST, GREATEST + 1, size=(SAMPLES, n))
    if groups is None:
        groups = [tuple(f"a{i + k}" for k in range(w)) for w in (1, 2, 3) for i in range(1, n - w + 2)]
    chosen = _choose(given)
    inputs = {f"a{i + 1}": given[:, i] for i in range(n)}
    return _gains(inputs, {f"o{i + 1}": chosen[:, i] for i in range(n)}, groups, exact)


def _gains(
    inputs: Mapping[str, np.ndarray],
    outputs: Mapping[str, np.ndarray],
    groups: Sequence[Sequence[str]] | None,
    exact: bool,
) -> list[Gain]:
    names = list(inputs)
    if groups is None:
        groups = [(name,) for name in names] + [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    for group in groups:
        if not group or not set(group) <= set(names):
            raise ValueError(
                f"groups: expected inputs out of {', '.join(names)}, got {list(group)}; name some of these"
            )
    found = []
    for group in groups:
        columns = np.stack([inputs[name] for name in group], axis=1)
        for name, output in outputs.items():
            gain = relative_information_gain(columns, output)
            found.append(Gain(tuple(group), name, gain, _entropy(output[:, None]), len(output), exact))
    return sorted(found, key=lambda each: -each.gain)


def _choose(given: Int[np.ndarray, "n items"]) -> Int[np.ndarray, "n items"]:
    """The right answers of many lists at once (see ``maximum_sum``)."""
    count, n = given.shape
    best = np.zeros((count, n + 2), dtype=np.int64)  # nothing stands behind the end, which is worth 0
    for i in range(n - 1, -1, -1):
        best[:, i] = np.maximum(np.maximum(best[:, i + 1], given[:, i] + best[:, i + 2]), 0)
    chosen = np.full((count, n), 2)
    may = np.ones(count, dtype=bool)
    for i in range(n):
        take = may & (best[:, i] == given[:, i] + best[:, i + 2])
        chosen[take, i] = 1
        may = ~take
    return chosen


def _columns(name: str, numbers: Int[np.ndarray, " n"], digits: int) -> dict[str, np.ndarray]:
    """Digits from the left, each a column."""
    return {f"{name}{i + 1}": numbers // 10 ** (digits - 1 - i) % 10 for i in range(digits)}


def _entropy(columns: Int[np.ndarray, "n columns"]) -> float:
    """Entropy of rows in bits."""
    code, codes = np.zeros(len(columns), dtype=np.int64), 1
    for column in columns.T:  # rows as numbers, which are counted, not sorted
        low = int(column.min())
        span = int(column.max()) - low + 1
        if codes * span > _CODES:
            _, code = np.unique(code, return_inverse=True)
            codes = int(code.max()) + 1
        code, codes = code * span + (column - low), codes * span
    counts = np.bincount(code) if codes <= _CODES else np.unique(code, return_counts=True)[1]
    share = counts[counts > 0] / len(code)
    return float(-(share * np.log2(share)).sum()) + 0.0


def _single(sizes: tuple[str, ...], text: str) -> tuple[str]:
    if len(sizes) != 1:
        raise ValueError(f"size: expected one, got {text!r}; ask for one at a time")
    return (sizes[0],)
