"""The emergence score: how sharply a metric moves with scale, undefined where it says nothing.

With y_1..y_N the metric of models of growing size (arXiv 2304.15004, sec. 4, after the "breakthroughness" of Srivastava
et al., arXiv 2206.04615)::

    score = sign(argmax_i y_i - argmin_i y_i) · (max_i y_i - min_i y_i) / sqrt(median_i (y_i - y_(i-1))²)

A straight line over N scales has N - 1. The median is of few differences, and it is zero where a rate is measured as 0
at most scales: then the formula divides by zero. Here that is no score, with the reason, and beside it what the score
would be were each of these steps as large as the resolution 1/n (``resolved``), which is finite and grows with n: it
says how sharp a jump so few questions can show. Plain numbers in and out; knows no row and no picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evals.stats import Interval

FEWEST = 3  # scales: two have one difference, and a score of 1 or -1 whatever they are
TINY = 1e-12  # below it a difference is rounding


@dataclass(frozen=True)
class Emergence:
    """The score of one metric over a family.

    Attributes:
        score: the paper's, positive where the metric rises with scale; None where it is undefined.
        reason: why there is no score, or no interval; empty where there are both.
        interval: 95%, by a bootstrap over questions; None where it has no end.
        resolved: the score with steps below the resolution counted as the resolution; None where that is not known.
        steepest: the share of the range that is covered within the steepest single step, in (0, 1]; 0 where flat.
    """

    score: float | None
    reason: str = ""
    interval: Interval | None = None
    resolved: float | None = None
    steepest: float = 0.0


def emergence_score(values: Sequence[float], floor: float | None = None) -> Emergence:
    """The score of one value a scale, scale rising, without an interval.

    Args:
        values: finite; for a metric where less is better give its negative, so that positive means better.
        floor: resolution 1/n of a rate in [0, 1]; where no value is above it all are as good as 0.

    Returns:
        A score or a reason, never inf or nan.

    Raises:
        ValueError: a value that is not finite, or a floor that is not positive.
    """
    y = np.asarray(values, dtype=np.float64)
    if y.ndim != 1 or not np.isfinite(y).all():
        raise ValueError(f"expected one finite number a scale, got {list(values)}; leave out what was not measured")
    if floor is not None and not floor > 0:
        raise ValueError(f"floor: expected more than 0, got {floor}; give 1/n")
    if y.size < FEWEST:
        return Emergence(None, f"{y.size} scales, and fewer than {FEWEST} have no median of differences")
    steps, span = np.diff(y), float(y.max() - y.min())
    if span <= TINY:
        return Emergence(None, "flat: the same value at all scales")
    steepest = min(1.0, float(np.abs(steps).max()) / span)
    if floor is not None and y.max() <= floor + TINY and y.min() >= -TINY:
        return Emergence(None, f"all at the floor: no value above 1/n = {floor:.3g}", steepest=steepest)
    signed = math.copysign(span, int(y.argmax()) - int(y.argmin()))
    typical = math.sqrt(float(np.median(steps**2)))
    resolved = None if floor is None else signed / max(typical, floor)
    if typical <= TINY:
        reason = "more than half of the steps are 0, so the median that the score divides by is 0"
        return Emergence(None, reason, resolved=resolved, steepest=steepest)
    return Emergence(signed / typical, resolved=resolved, steepest=steepest)


def emergence(
    samples: Sequence[Sequence[float]],
    *,
    units: Sequence[Sequence[int | str]] | None = None,
    floor: float | None = None,
    rises: bool = True,
    resamples: int = 2_000,
    seed: int = 0,
) -> Emergence:
    """The score of samples at each scale, scale rising, with an interval by bootstrap over questions.

    Where every scale was asked the same questions they are drawn together, for what is hard for one model is hard for
    its neighbours; else each scale is drawn by itself. A resample that jumps over zero steps counts as a score without
    bound: where more than 2.5% are of that kind the interval has no end, and is None.

    Args:
        samples: for each scale a value a question.
        units: for each scale a label a value: values of one label are drawn together (such as the document); None
            where each value stands alone.
        floor: resolution 1/n of a rate; None for a metric that has none.
        rises: whether more is better; else the negative is scored.
        resamples: at least 1.
        seed: of the bootstrap; the same one gives the same interval.

    Raises:
        ValueError: a scale without values, labels that do not fit, or resamples < 1.
    """
    if resamples < 1:
        raise ValueError(f"resamples: expected at least 1, got {resamples}; 2000 is a good number")
    labels = [range(len(values)) for values in samples] if units is None else units
    if [len(label) for label in labels] != [len(values) for values in samples] or any(not len(v) for v in samples):
        raise ValueError(
            "expected one or more values a scale and a label for each, got other numbers; leave scales out"
        )
    sign = 1.0 if rises else -1.0
    means = [sign * float(np.mean(values)) for values in samples]
    seen = emergence_score(means, floor)
    if seen.score is None:
        return seen
    drawn = sign * _drawn_means(samples, labels, resamples, np.random.default_rng(seed))
    scores = np.sort([_unbounded(row) for row in drawn])
    low, high = scores[int(0.025 * (resamples - 1))], scores[math.ceil(0.975 * (resamples - 1))]
    if not np.isfinite([low, high]).all():
        share = float(np.isinf(scores).mean())
        reason = f"no interval: in {100 * share:.0f}% of the resamples more than half of the steps are 0"
        return Emergence(seen.score, reason, None, seen.resolved, seen.steepest)
    return Emergence(seen.score, "", Interval(float(low), float(high)), seen.resolved, seen.steepest)


def _drawn_means(
    samples: Sequence[Sequence[float]], labels: Sequence[Sequence[int | str]], count: int, rng: np.random.Generator
) -> np.ndarray:
    """Means of resampled units: float64 of shape (count, scales)."""
    totals = []
    for values, label in zip(samples, labels, strict=True):
        names, member = np.unique(np.asarray(label), return_inverse=True)
        sums = np.bincount(member, weights=np.asarray(values, dtype=np.float64))
        totals.append((names, sums, np.bincount(member).astype(np.float64)))
    together = all(np.array_equal(names, totals[0][0]) for names, _, _ in totals)
    means = np.empty((count, len(totals)))
    for row in range(count):
        shared = rng.integers(0, totals[0][0].size, totals[0][0].size) if together else None
        for scale, (names, sums, sizes) in enumerate(totals):
            picked = rng.integers(0, names.size, names.size) if shared is None else shared
            means[row, scale] = sums[picked].sum() / sizes[picked].sum()
    return means


def _unbounded(values: np.ndarray) -> float:
    """The score of a resample: infinite where it jumps over zero steps, 0 where it is flat."""
    span = float(values.max() - values.min())
    if span <= TINY:
        return 0.0
    signed = math.copysign(span, int(values.argmax()) - int(values.argmin()))
    typical = math.sqrt(float(np.median(np.diff(values) ** 2)))
    return signed / typical if typical > TINY else math.copysign(math.inf, signed)
