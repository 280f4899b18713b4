"""The emergence score against its formula written plainly, and where it is undefined."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import median

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.emergence import emergence, emergence_score, score_of


def plain(y: list[float]) -> float:
    """The formula as the paper writes it."""
    rise = y.index(max(y)) - y.index(min(y))
    sign = (rise > 0) - (rise < 0)
    return sign * (max(y) - min(y)) / math.sqrt(median([(b - a) ** 2 for a, b in pairwise(y)]))


@given(st.lists(st.integers(-50, 50), min_size=3, max_size=9, unique=True))
def test_it_is_the_formula(values):
    y = [value / 7 for value in values]
    assert emergence_score(y).score == pytest.approx(plain(y))


@pytest.mark.parametrize("scales", [3, 5, 9])
def test_a_straight_line_has_as_many_as_steps(scales):
    line = [0.1 + 0.05 * i for i in range(scales)]
    assert emergence_score(line).score == pytest.approx(scales - 1)
    assert emergence_score(line[::-1]).score == pytest.approx(1 - scales)
    assert emergence_score(line).steepest == pytest.approx(1 / (scales - 1))


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), max_size=7), st.sampled_from([None, 0.25]))
def test_it_is_a_finite_number_or_none_with_a_reason(values, floor):
    found = emergence_score(values, floor)
    assert (found.score is None) == bool(found.reason)
    for number in (found.score, found.resolved, found.steepest):
        assert number is None or math.isfinite(number)


@pytest.mark.parametrize(
    ("values", "floor", "reason"),
    [
        ([0.1, 0.9], None, "2 scales"),
        ([], None, "0 scales"),
        ([0.5] * 5, None, "flat"),
        ([0.0] * 5, 0.01, "flat"),
        ([0.0, 0.0, 0.01, 0.0, 0.01], 0.01, "all at the floor"),
        ([0.0, 0.0, 0.0, 0.9], 0.01, "more than half of the steps"),
    ],
)
def test_where_it_is_undefined_it_says_why(values, floor, reason):
    found = emergence_score(values, floor)
    assert found.score is None
    assert reason in found.reason


def test_a_jump_over_zero_steps_is_as_sharp_as_the_questions_resolve():
    jump = [0.0, 0.0, 0.0, 0.0, 0.9]
    assert emergence_score(jump, 1 / 100).resolved == pytest.approx(90)
    assert emergence_score(jump, 1 / 1000).resolved == pytest.approx(900)
    assert emergence_score(jump).resolved is None


@pytest.mark.parametrize(("values", "floor"), [([0, 1, math.nan], None), ([0, 1, 2], 0.0), ([0, 1, math.inf], None)])
def test_what_is_no_curve_is_refused(values, floor):
    with pytest.raises(ValueError, match="expected"):
        emergence_score(values, floor)


def test_the_interval_holds_the_score_and_narrows_with_questions():
    def drawn(n: int) -> list[list[float]]:
        rng = np.random.default_rng(3)
        return [(rng.random(n) < rate).astype(float).tolist() for rate in (0.1, 0.3, 0.5, 0.7, 0.9)]

    few, many = (emergence(drawn(n), floor=1 / n, resamples=400) for n in (200, 5_000))
    assert few.interval is not None
    assert many.interval is not None
    assert many.interval.low <= 4 <= many.interval.high
    assert few.interval.low <= few.score <= few.interval.high
    assert many.interval.high - many.interval.low < few.interval.high - few.interval.low
    assert emergence(drawn(200), floor=1 / 200, resamples=400) == few


def test_the_same_questions_are_drawn_together():
    """Where models differ by the same on every question, nothing is left to chance."""
    base = np.random.default_rng(0).normal(0, 5, 60)
    shifted = [(base + step).tolist() for step in (0.0, 1.0, 2.0, 3.0)]
    together = emergence(shifted, resamples=200)
    assert together.interval == pytest.approx((3, 3))
    apart = emergence(shifted, units=[[100 * scale + i for i in range(60)] for scale in range(4)], resamples=200)
    assert apart.interval is None or apart.interval.high - apart.interval.low > 0.5


def test_an_interval_without_an_end_is_none():
    one_right = [[0.0] * 50, [0.0] * 49 + [1.0], [0.0] * 48 + [1.0] * 2, [0.0] * 5 + [1.0] * 45]
    found = emergence(one_right, floor=1 / 50, resamples=300)
    assert found.score is not None
    assert found.interval is None
    assert "no interval" in found.reason


def test_samples_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="one or more values"):
        emergence([[1.0], []])
    with pytest.raises(ValueError, match="a label for each"):
        emergence([[1.0, 2.0]], units=[[1]])
    with pytest.raises(ValueError, match="resamples"):
        emergence([[1.0]] * 3, resamples=0)


def test_less_is_better_for_some_metrics(make):
    family = make()
    assert score_of(family, "arithmetic", "distance").score == pytest.approx(
        score_of(family, "arithmetic", "edit").score
    )
    assert score_of(family, "arithmetic", "brier").score > 0
    with pytest.raises(ValueError, match="metric: expected one of exact"):
        score_of(family, "arithmetic", "colour")
