"""Intervals and tests for proportions and means: how much a sample can say, and what it cannot.

Everything here is plain numbers in, plain numbers out; nothing knows of models, tasks or files.
Rates are fractions in [0, 1]; only the printed form is in percent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

_RESAMPLES = 10_000  # of a p-value
_BOOTSTRAP_CELLS = 2_000_000  # numbers drawn at once, so that a large sample does not need large memory


class Interval(NamedTuple):
    """A confidence interval, both ends included."""

    low: float
    high: float


@dataclass(frozen=True)
class Proportion:
    """Successes out of n, with its interval. ValueError unless 0 <= successes <= n and n >= 1."""

    successes: int
    n: int
    confidence: float = 0.95

    def __post_init__(self) -> None:
        _check_counts(self.successes, self.n)
        _check_open("confidence", self.confidence)

    @property
    def rate(self) -> float:
        """Share of successes, in [0, 1]."""
        return self.successes / self.n

    @property
    def interval(self) -> Interval:
        """Wilson interval of the rate, in [0, 1]."""
        return wilson(self.successes, self.n, self.confidence)

    def __str__(self) -> str:
        """Percent, interval and sample size: ``96.9 [84.3, 99.4] n=32``."""
        low, high = self.interval
        return f"{100 * self.rate:.1f} [{100 * low:.1f}, {100 * high:.1f}] n={self.n}"


@dataclass(frozen=True)
class McNemar:
    """Result of a paired test: discordant counts and the two-sided p-value."""

    only_first: int
    only_second: int
    p_value: float


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson score interval of a binomial proportion, without continuity correction.

    With p = successes / n and z the normal quantile at (1 + confidence) / 2::

        (p + z²/2n ± z · sqrt(p(1 - p)/n + z²/4n²)) / (1 + z²/n)

    Unlike p ± z·sqrt(p(1 - p)/n) it stays inside [0, 1] and does not shrink to nothing at 0 or n
    successes. Source: E. B. Wilson, "Probable inference, the law of succession, and statistical
    inference", JASA 22 (1927), 209-212.

    Raises ValueError unless 0 <= successes <= n, n >= 1 and 0 < confidence < 1.
    """
    _check_counts(successes, n)
    _check_open("confidence", confidence)
    return _score_interval(successes / n, n, confidence)


def wilson_clustered(sums: Sequence[float], counts: Sequence[int], confidence: float = 0.95) -> Interval:
    """Wilson interval of a mean of scores in [0, 1] that come in clusters, such as samples of one prompt.

    ``sums`` are the scores of each cluster added up, ``counts`` how many they are. With m clusters, n scores in all,
    p their mean and the variance of that mean between clusters::

        v = m / (m - 1) · sum_i (sum_i - p · count_i)² / n²

    n scores are worth p(1 - p) / v independent ones, at most n and at least 1, and Wilson's formula is used with that
    number: Kish's effective sample size ("Survey Sampling", 1965, sec. 8.2) in a score interval, as N. Dean and
    M. Pagano studied it ("Evaluating confidence interval methods for binomial proportions in clustered surveys",
    J. Surv. Stat. Methodol. 3 (2015), 484-503). Where the mean is 0 or 1, or there is one cluster, nothing is known
    of v, and n scores are worth m.

    Raises ValueError on no clusters, an empty one, or sums that scores in [0, 1] cannot have.
    """
    _check_open("confidence", confidence)
    if not sums or len(sums) != len(counts):
        raise ValueError(f"expected a count for each of one or more clusters, got {len(sums)} and {len(counts)}")
    for total, count in zip(sums, counts, strict=True):
        _check_counts(total, count)
    m, n = len(sums), sum(counts)
    p = min(1.0, sum(sums) / n)
    if m == 1 or p in (0, 1):
        return _score_interval(p, m, confidence)
    spread = sum((total - p * count) ** 2 for total, count in zip(sums, counts, strict=True))
    variance = m / (m - 1) * spread / n**2
    worth = min(float(n), max(1.0, p * (1 - p) / variance)) if variance > 0 else float(n)
    return _score_interval(p, worth, confidence)


def _score_interval(p: float, n: float, confidence: float) -> Interval:
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    scale = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / scale
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / scale
    # At 0 and at n successes the formula gives 0 and 1 exactly; rounding would leave 1e-17 beside them.
    low = 0.0 if p == 0 else max(0.0, centre - half)
    high = 1.0 if p == 1 else min(1.0, centre + half)
    return Interval(low, high)


def bootstrap(
    values: Sequence[float],
    confidence: float = 0.95,
    *,
    resamples: int = 10_000,
    seed: int = 0,
    clusters: Sequence[int] | None = None,
) -> Interval:
    """Percentile bootstrap interval of the mean of ``values``; the same seed gives the same interval.

    ``clusters`` (one label per value, such as the document of a question) resamples whole clusters,
    for values that are not independent inside one. Source: B. Efron and R. Tibshirani, "An Introduction
    to the Bootstrap" (1993), ch. 13 (percentile interval) and ch. 8 (resampling the independent units).

    Raises ValueError on no values, another number of labels than values, or resamples < 1.
    """
    _check_open("confidence", confidence)
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or data.size == 0:
        raise ValueError(f"expected one or more values in a row, got shape {data.shape}; give a flat sequence")
    if resamples < 1:
        raise ValueError(f"expected resamples >= 1, got {resamples}; 10000 is a good number")
    if clusters is None:
        sums: np.ndarray = data
        counts: np.ndarray = np.ones_like(data)
    else:
        labels = np.asarray(clusters)
        if labels.shape != data.shape:
            raise ValueError(f"expected {data.size} cluster labels, got {labels.size}; give one for each value")
        _, member = np.unique(labels, return_inverse=True)
        sums, counts = np.bincount(member, weights=data), np.bincount(member).astype(np.float64)
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, _BOOTSTRAP_CELLS // sums.size)
    for start in range(0, resamples, step):
        stop = min(start + step, resamples)
        drawn = generator.integers(0, sums.size, size=(stop - start, sums.size))
        means[start:stop] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def student(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Student's t interval of the mean of few independent values, such as one a seed.

    With s the sample standard deviation and t the quantile at (1 + confidence) / 2 with n - 1 degrees of freedom:
    mean ± t · s / sqrt(n). Source: Student, "The probable error of a mean", Biometrika 6 (1908), 1-25.

    Raises ValueError on fewer than two values.
    """
    from scipy.stats import t

    _check_open("confidence", confidence)
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or data.size < 2:
        raise ValueError(f"expected two or more values in a row, got shape {data.shape}; run more seeds")
    half = float(t.ppf((1 + confidence) / 2, data.size - 1)) * float(data.std(ddof=1)) / math.sqrt(data.size)
    return Interval(float(data.mean()) - half, float(data.mean()) + half)


def mcnemar(only_first: int, only_second: int) -> McNemar:
    """Exact two-sided McNemar test of two conditions answered on the same questions.

    ``only_first`` questions were right in the first condition alone, ``only_second`` in the second
    alone; under the null hypothesis the former is Binomial(m, 1/2), m their sum, and::

        p = min(1, 2 · P(X <= min(only_first, only_second)))

    Questions right in both or in neither say nothing. Source: Q. McNemar, Psychometrika 12 (1947),
    153-157; the exact form is the sign test on the discordant pairs.

    Raises ValueError on a negative count.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"expected counts of at least 0, got {only_first} and {only_second}; count discordant pairs")
    total = only_first + only_second
    tail = sum(math.comb(total, k) for k in range(min(only_first, only_second) + 1))
    p_value = min(1.0, float(2 * tail / 2**total)) if total else 1.0
    return McNemar(only_first, only_second, p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: with p sorted rising, p'_(i) = max over j <= i of min(1, (m - j + 1) p_(j)).

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6 (1979), 65-70.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def agresti_min(only_first: int, only_second: int, n: int) -> Interval:
    """95% interval of the difference of two rates on the same n questions; not nothing where no answer differs.

    With b and c the discordant counts, half a pair added to each of the four cells, and N = n + 2::

        (b - c) / N ± z · sqrt(b + c + 1 - (b - c)² / N) / N

    Source: A. Agresti and Y. Min, "Simple improved confidence intervals for comparing matched proportions",
    Statistics in Medicine 24 (2005), 729-740.
    """
    total = n + 2
    gap = only_first - only_second
    half = NormalDist().inv_cdf(0.975) * math.sqrt(only_first + only_second + 1 - gap * gap / total) / total
    return Interval(max(-1.0, gap / total - half), min(1.0, gap / total + half))


def bootstrap_p(differences: Sequence[float], clusters: Sequence[int] | None = None, seed: int = 0) -> float:
    """Two-sided p-value that the mean of paired differences is 0, by a bootstrap of centred differences.

    Differences are moved to mean 0, resampled (whole clusters, if given), and the share of means at least as far
    from 0 as the one seen is the p-value, (1 + count) / (1 + resamples). Source: Efron and Tibshirani, "An
    Introduction to the Bootstrap" (1993), sec. 16.4. It is never below 2 / 2^m for m clusters that differ, the least
    that any test of signs can give: a bootstrap of two differences knows nothing of a third. Raises ValueError on no
    differences.
    """
    data = np.asarray(differences, dtype=np.float64)
    if data.size == 0:
        raise ValueError("expected at least one difference, got none; leave the comparison out")
    labels = np.arange(data.size) if clusters is None else np.asarray(clusters)
    _, member = np.unique(labels, return_inverse=True)
    counts = np.bincount(member).astype(np.float64)
    sums = np.bincount(member, weights=data - data.mean())
    differ = np.count_nonzero(np.abs(np.bincount(member, weights=data)) > 1e-12)
    seen = abs(data.mean())
    generator = np.random.default_rng(seed)
    extreme, step = 0, max(1, _BOOTSTRAP_CELLS // sums.size)
    for start in range(0, _RESAMPLES, step):
        drawn = generator.integers(0, sums.size, size=(min(step, _RESAMPLES - start), sums.size))
        means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
        extreme += int((np.abs(means) >= seen - 1e-12).sum())
    return float(max((1 + extreme) / (1 + _RESAMPLES), min(1.0, 2.0 ** (1 - differ))))


def smallest_effect(n: int, baseline: float = 0.5, *, confidence: float = 0.95, power: float = 0.8) -> float:
    """Smallest rise over a known ``baseline`` rate (such as chance) that n samples are likely to show.

    The exact binomial test rejects at k successes or more, k being the smallest with
    P(X >= k | baseline) <= (1 - confidence) / 2; returned is the least p - baseline for which
    P(X >= k | p) >= power, and ``inf`` where n is too small for any rise. Source: J. L. Fleiss,
    B. Levin and M. C. Paik, "Statistical Methods for Rates and Proportions" (3rd ed., 2003), sec. 2.4.

    Raises ValueError unless n >= 1 and baseline, confidence and power lie strictly between 0 and 1.
    """
    _check_counts(0, n)
    for name, value in (("baseline", baseline), ("confidence", confidence), ("power", power)):
        _check_open(name, value)
    level = (1 - confidence) / 2
    critical, tail = n + 1, 0.0
    while critical and (tail := tail + _binomial(critical - 1, n, baseline)) <= level:
        critical -= 1
    if critical > n:
        return math.inf
    low, high = baseline, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _binomial_tail(critical, n, middle) >= power else (middle, high)
    return high - baseline


def smallest_drop(n: int, baseline: float, *, confidence: float = 0.95, power: float = 0.8) -> float:
    """Smallest fall from ``baseline`` between two independent samples of n each that they are likely to show.

    The least d = p1 - p2 with p1 = baseline and p = (p1 + p2) / 2 for which::

        n · d² >= (z_a · sqrt(2 p (1 - p)) + z_b · sqrt(p1 (1 - p1) + p2 (1 - p2)))²

    (two-sided z_a at ``confidence``, z_b at ``power``; ``inf`` where even a fall to 0 is too small).
    For "no worse at a million tokens than at four thousand" it says how much worse would go unseen.
    Source: Fleiss, Levin and Paik (2003), eq. 4.14.

    Raises ValueError unless n >= 1, 0 < baseline <= 1 and confidence and power lie between 0 and 1.
    """
    _check_counts(0, n)
    if not 0 < baseline <= 1:
        raise ValueError(f"expected a baseline in (0, 1], got {baseline}; give a rate, not percent")
    for name, value in (("confidence", confidence), ("power", power)):
        _check_open(name, value)
    normal = NormalDist()
    z_a, z_b = normal.inv_cdf((1 + confidence) / 2), normal.inv_cdf(power)

    def shows(drop: float) -> bool:
        other = baseline - drop
        mean = (baseline + other) / 2
        spread = baseline * (1 - baseline) + other * (1 - other)
        needed = z_a * math.sqrt(2 * mean * (1 - mean)) + z_b * math.sqrt(max(0.0, spread))
        return math.sqrt(n) * drop >= needed

    if not shows(baseline):
        return math.inf
    low, high = 0.0, baseline
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if shows(middle) else (middle, high)
    return high


def _binomial_tail(k: int, n: int, p: float) -> float:
    """P(X >= k) for X ~ Binomial(n, p), summed in logarithms so that large n does not overflow."""
    if k <= 0:
        return 1.0
    if p >= 1:
        return 1.0
    return min(1.0, math.fsum(_binomial(i, n, p) for i in range(k, n + 1)))


def _binomial(k: int, n: int, p: float) -> float:
    """P(X = k) for X ~ Binomial(n, p) and 0 < p < 1."""
    choices = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(choices + k * math.log(p) + (n - k) * math.log1p(-p))


def _check_counts(successes: float, n: int) -> None:
    if n < 1:
        raise ValueError(f"expected a sample of at least 1, got n={n}; leave empty cells out")
    if not 0 <= successes <= n:
        raise ValueError(f"expected 0 <= successes <= {n}, got {successes}; count each sample once")


def _check_open(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"expected {name} strictly between 0 and 1, got {value}; give a fraction, not percent")
