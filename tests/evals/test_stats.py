"""Intervals and tests against scipy, enumeration and known limits."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from evals import Proportion, bootstrap, mcnemar, smallest_drop, smallest_effect, student, wilson


@given(st.data())
def test_wilson_is_that_of_scipy(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 3000))
    successes = data.draw(st.integers(0, n))
    confidence = data.draw(st.sampled_from([0.8, 0.95, 0.99]))
    ours = wilson(successes, n, confidence)
    theirs = scipy_stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilson_ends_are_exact_where_all_or_none_succeed() -> None:
    assert wilson(0, 32).low == 0.0 < wilson(0, 32).high
    assert wilson(32, 32).high == 1.0 > wilson(32, 32).low


@pytest.mark.parametrize(("successes", "n", "confidence"), [(1, 0, 0.95), (5, 4, 0.95), (-1, 4, 0.95), (1, 4, 95)])
def test_wilson_refuses_what_is_no_proportion(successes: int, n: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        wilson(successes, n, confidence)
    assert "\n" not in str(caught.value)


def test_proportion_prints_percent_interval_and_n() -> None:
    assert str(Proportion(31, 32)) == "96.9 [84.3, 99.4] n=32"
    assert Proportion(31, 32).rate == 31 / 32
    with pytest.raises(ValueError, match="got 33"):
        Proportion(33, 32)


def test_bootstrap_is_seeded_and_near_the_normal_interval() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 400).tolist()
    low, high = bootstrap(values, seed=5)
    assert (low, high) == bootstrap(values, seed=5) != bootstrap(values, seed=6)
    half = 1.96 * np.std(values) / math.sqrt(len(values))
    assert (low, high) == pytest.approx((np.mean(values) - half, np.mean(values) + half), abs=0.03)


def test_bootstrap_of_clusters_is_as_wide_as_the_clusters_are_few() -> None:
    values = [float(document % 2) for document in range(20) for _ in range(10)]
    clusters = [document for document in range(20) for _ in range(10)]
    alone, together = bootstrap(values), bootstrap(values, clusters=clusters)
    one_each = bootstrap(values[::10])
    assert together.high - together.low > 2 * (alone.high - alone.low)
    assert together == pytest.approx(one_each, abs=1e-12)
    with pytest.raises(ValueError, match="got 3"):
        bootstrap(values, clusters=[1, 2, 3])


def test_bootstrap_does_not_depend_on_how_much_is_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [0.0, 1.0, 1.0, 4.0]
    whole = bootstrap(values, resamples=1000)
    monkeypatch.setattr("evals.stats._BOOTSTRAP_CELLS", 40)
    assert bootstrap(values, resamples=1000) == pytest.approx(whole, abs=0.2)
    with pytest.raises(ValueError, match="got shape"):
        bootstrap([])


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_sign_test(first: int, second: int) -> None:
    p_value = mcnemar(first, second).p_value
    if first + second == 0:
        assert p_value == 1.0
    else:
        assert p_value == pytest.approx(scipy_stats.binomtest(first, first + second, 0.5).pvalue, rel=1e-9)


def test_mcnemar_by_hand() -> None:
    assert mcnemar(5, 0).p_value == 2 / 2**5
    assert mcnemar(0, 5) == mcnemar(0, 5) != mcnemar(5, 0)
    with pytest.raises(ValueError, match="got -1"):
        mcnemar(-1, 2)


@pytest.mark.parametrize(("n", "baseline"), [(8, 1 / 6), (32, 1 / 6), (100, 0.5), (1000, 0.9)])
def test_smallest_effect_is_where_the_exact_test_reaches_its_power(n: int, baseline: float) -> None:
    effect = smallest_effect(n, baseline)
    critical = next(k for k in range(n + 1) if scipy_stats.binom.sf(k - 1, n, baseline) <= 0.025)
    assert scipy_stats.binom.sf(critical - 1, n, baseline + effect) == pytest.approx(0.8, abs=1e-9)


def test_smallest_effect_shrinks_with_n_and_may_not_exist() -> None:
    effects = [smallest_effect(n, 0.5) for n in (8, 32, 128, 512)]
    assert effects == sorted(effects, reverse=True)
    assert smallest_effect(2, 0.5) == math.inf
    with pytest.raises(ValueError, match="baseline"):
        smallest_effect(10, 50)


def test_smallest_effect_of_a_large_sample_is_little_work(monkeypatch: pytest.MonkeyPatch) -> None:
    called, lgamma = [0], math.lgamma

    def counting(x: float) -> float:
        called[0] += 1
        return lgamma(x)

    monkeypatch.setattr(math, "lgamma", counting)
    assert 0 < smallest_effect(1000, 0.9) < 0.1
    assert called[0] < 60 * 3 * 1000, "it grows with the square of n"


@pytest.mark.parametrize(("n", "baseline"), [(32, 0.97), (100, 0.97), (1000, 0.5)])
def test_smallest_drop_is_shown_four_times_in_five(n: int, baseline: float) -> None:
    drop = smallest_drop(n, baseline)
    generator = np.random.default_rng(0)
    first = generator.binomial(n, baseline, 40_000) / n
    second = generator.binomial(n, baseline - drop, 40_000) / n
    pooled = (first + second) / 2
    spread = np.sqrt(np.maximum(2 * pooled * (1 - pooled) / n, 1e-12))
    found = np.mean((first - second) / spread > 1.96)
    # The formula is a normal approximation: near the edge and at n=32 it is off by a few points of power.
    assert found == pytest.approx(0.8, abs=0.08)


def test_smallest_drop_of_a_tiny_sample_is_none() -> None:
    assert smallest_drop(1, 0.5) == math.inf
    assert smallest_drop(32, 1.0) < 0.25
    with pytest.raises(ValueError, match="not percent"):
        smallest_drop(32, 97)


def test_student_against_a_table_and_scipy():
    # t at 97.5% with 2 degrees of freedom is 4.3027: 2 +- 4.3027 / sqrt(3).
    low, high = student([1.0, 2.0, 3.0])
    assert (low, high) == (pytest.approx(2 - 2.48414, abs=1e-4), pytest.approx(2 + 2.48414, abs=1e-4))
    assert student([5.0, 5.0]) == (5.0, 5.0)
    with pytest.raises(ValueError, match="two or more values"):
        student([1.0])
