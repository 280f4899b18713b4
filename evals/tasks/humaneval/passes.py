"""pass@k of samples, and how programs ended. Knows rows and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from evals.breakdowns import Breakdown, Entry, Estimate, of_memory
from evals.rows import Row
from evals.stats import bootstrap, wilson

K = (1, 10, 100)
OUTCOMES = ("passed", "failed", "timeout", "memory", "killed", "forbidden")


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that at least one of k samples passes, drawn without replacement from n of which c do; unbiased.

    Chen et al. (arXiv 2107.03374), eq. 1, as a product, so that no binomial coefficient overflows::

        1 - C(n - c, k) / C(n, k) = 1 - prod over i = n - c + 1 .. n of (1 - k / i)

    Raises ValueError unless 0 <= c <= n and 1 <= k <= n.
    """
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"pass@k: expected 0 <= c <= n and 1 <= k <= n, got n={n}, c={c}, k={k}; draw more samples")
    if n - c < k:
        return 1.0
    return 1.0 - float(np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def estimate(counts: Sequence[tuple[int, int]], k: int) -> Estimate | None:
    """Mean pass@k over problems, each with its samples and how many pass; None where one has fewer than k samples.

    The interval (95%) resamples problems, whose samples are not independent; where each problem is 0 or 1 it is
    Wilson's, because resampling zeros gives zeros. One problem has none.
    """
    if not counts or min(n for n, _ in counts) < k:
        return None
    values = [pass_at_k(n, c, k) for n, c in counts]
    interval = None
    if len(values) > 1:
        binary = all(value in (0, 1) for value in values)
        interval = wilson(int(sum(values)), len(values)) if binary else bootstrap(values)
    return Estimate(float(np.mean(values)), interval, len(values))


def counted(rows: Iterable[Row]) -> list[tuple[int, int]]:
    """Samples, and how many pass, of each problem: in order of appearance."""
    found: dict[str, list[bool]] = {}
    for row in rows:
        problem = (row.detail or {}).get("problem", row.digest)
        found.setdefault(str(problem), []).append(row.correct)
    return [(len(passed), sum(passed)) for passed in found.values()]


def tables(rows: Sequence[Row]) -> list[Breakdown]:
    """pass@k by length, and verdicts by length and level of isolation."""
    lengths = of_memory(rows)
    lines: list[tuple[Entry, ...]] = []
    verdicts: list[tuple[Entry, ...]] = []
    ended = Counter(
        (length, _said(row, "isolation"), _said(row, "outcome")) for length in lengths for row in lengths[length]
    )
    outcomes = (*OUTCOMES, *sorted({outcome for _, _, outcome in ended} - set(OUTCOMES)))
    for length, own in lengths.items():
        counts = counted(own)
        lines.append((length, len(counts), min(n for n, _ in counts), *(estimate(counts, k) for k in K)))
        for level in sorted({_said(row, "isolation") for row in own}):
            verdicts.append((length, level, *(ended[length, level, outcome] for outcome in outcomes)))
    if not lines:
        return []
    return [
        Breakdown(
            "humaneval",
            "pass@k",
            ("tokens", "problems", "samples", *(f"pass@{k}" for k in K)),
            tuple(lines),
            "Unbiased, of the samples of each problem (the fewest there are); 95% intervals over problems.",
        ),
        Breakdown(
            "humaneval",
            "verdicts",
            ("tokens", "isolation", *outcomes),
            tuple(verdicts),
            "How many programs ended so, by the isolation they ran under.",
        ),
    ]


def _said(row: Row, name: str) -> str:
    return str((row.detail or {}).get(name, "unknown"))
