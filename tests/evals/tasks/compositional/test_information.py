"""Relative information gain: a naive twin of the equation, and known facts of both tasks."""

from __future__ import annotations

from collections import Counter
from math import log2

import numpy as np
import pytest

from evals.tasks.compositional.information import (
    _choose,
    _entropy,
    of_maximum_sum,
    of_multiplication,
    relative_information_gain,
)
from evals.tasks.compositional.maximum_sum import NonAdjacent


def naive(inputs, output):
    """The equation as it stands, with conditional entropies one after the other."""

    def entropy(values):
        return -sum(c / len(values) * log2(c / len(values)) for c in Counter(values).values())

    groups = {}
    for given, value in zip(inputs, output, strict=True):
        groups.setdefault(tuple(given), []).append(value)
    left = sum(len(values) / len(output) * entropy(values) for values in groups.values())
    return (entropy(output) - left) / entropy(output)


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_against_the_equation(columns):
    rng = np.random.default_rng(columns)
    for _ in range(20):
        inputs = rng.integers(-3, 3, size=(200, columns))
        output = inputs.sum(axis=1) % 3 + rng.integers(0, 2, size=200)
        assert relative_information_gain(inputs, output) == pytest.approx(naive(inputs.tolist(), output.tolist()))


def test_edges():
    ones = np.ones(8, dtype=np.int64)
    bits = np.arange(8) % 2
    assert relative_information_gain(bits[:, None], ones) == 0  # nothing to be told
    assert relative_information_gain(ones[:, None], bits) == 0
    assert relative_information_gain(bits[:, None], bits) == 1
    huge = np.stack([np.arange(8) * 10**6, np.arange(8) * 10**7], axis=1)
    assert _entropy(huge) == pytest.approx(3)  # values too far apart to count in a row
    with pytest.raises(ValueError, match="at least one case"):
        relative_information_gain(np.zeros((0, 1), dtype=np.int64), np.zeros(0, dtype=np.int64))


def gains(found):
    return {(each.inputs, each.output): round(each.gain, 3) for each in found}


def test_known_facts_of_products():
    one = gains(of_multiplication("1x1"))
    assert one[("x1", "y1"), "z2"] == one[("x1", "y1"), "z1"] == 1
    two = of_multiplication("2x2")
    assert all(each.exact and each.n == 8100 for each in two)
    assert [each.gain for each in two] == sorted((each.gain for each in two), reverse=True)
    two = gains(two)
    assert two[("x2", "y2"), "z4"] == 1  # last digits tell the last digit
    assert two[("x2",), "z4"] == two[("y2",), "z4"] == 0.223
    assert two[("x2", "y2"), "z3"] == 0.110
    assert two[("x1",), "z1"] == two[("y1",), "z1"] == 0.198
    assert two[("x1",), "z4"] == 0  # the first digit says nothing of the last
    (whole,) = {each.gain for each in of_multiplication("2x2", [("x1", "x2", "y1", "y2")])}
    assert whole == 1


def test_drawn_problems_come_near_and_follow_from_the_seed():
    groups = [("x4", "y4"), ("x4",)]
    found = of_multiplication("4x4", groups)
    assert not found[0].exact
    assert gains(found)[("x4", "y4"), "z8"] == 1
    assert gains(found)[("x4",), "z8"] == pytest.approx(0.223, abs=0.002)
    assert found == of_multiplication("4x4", groups) != of_multiplication("4x4", groups, seed=1)


def test_known_facts_of_sums():
    two = gains(of_maximum_sum("2"))
    assert two[("a1", "a2"), "o1"] == two[("a1", "a2"), "o2"] == 1
    assert 0 < two[("a2",), "o1"] < two[("a1",), "o1"] < 1
    given = np.random.default_rng(0).integers(-5, 6, size=(300, 7))
    right = [NonAdjacent(tuple(map(int, row))).graph.values["output"] for row in given]
    assert [tuple(row) for row in _choose(given).tolist()] == right


def test_what_is_not_there_is_refused():
    with pytest.raises(ValueError, match="groups: expected inputs out of x1, y1, got"):
        of_multiplication("1x1", [("x2",)])
    with pytest.raises(ValueError, match="size: expected one, got '1-2'"):
        of_multiplication("1-2")
    with pytest.raises(ValueError, match="sizes: expected"):
        of_maximum_sum("1")
