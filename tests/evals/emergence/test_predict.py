"""p^L against the product of tokens, against what is measured, and over the size of the target."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest

from evals import wilson
from evals.emergence import Member, by_size, power_law, predict
from evals.emergence.family import tokens_of


def test_one_probability_for_all_tokens_makes_both_predictions_one(make):
    (member,) = make((0.8,), n=2_000, tokens=(3, 5, 9))
    found = predict(member, "arithmetic")
    assert found.per_token == pytest.approx(0.8)
    assert found.power == pytest.approx(sum(0.8**length for length in (3, 5, 9)) / 3, rel=1e-3)
    assert found.product == pytest.approx(found.power)
    assert found.measured.interval.low <= found.product <= found.measured.interval.high
    assert found.error.low <= 0 <= found.error.high


def test_unequal_answers_are_told_by_the_product_and_not_by_the_power(make):
    easy, hard = make((0.999, 0.05), n=500, tokens=(6,))
    hard_rows = tuple(replace(row, digest="h" + row.digest) for row in hard.rows)
    found = predict(Member("both", 9, easy.rows + hard_rows), "arithmetic")
    assert found.product == pytest.approx((0.999**6 + 0.05**6) / 2)
    assert found.power == pytest.approx((0.999 * 0.05) ** 3)
    assert found.measured.value == pytest.approx(found.product, abs=0.01)


def test_an_error_is_seen(make):
    """Greedy answers of a middling model: each token right though only likely with 0.6."""
    (member,) = make((0.6,), n=100, tokens=(4,))
    greedy = tuple(replace(row, detail={**row.detail, "exact": 1}) for row in member.rows)
    found = predict(replace(member, rows=greedy), "arithmetic")
    assert found.error == pytest.approx((wilson(100, 100).low - 0.6**4, 1 - 0.6**4))
    assert found.error.low > 0.8


def test_nothing_right_is_no_proof_of_an_error(make):
    (member,) = make((0.05,), n=100, tokens=(4,))
    found = predict(member, "arithmetic")
    assert found.measured.value == 0 < found.product
    assert found.error.low < 0 < found.error.high


def test_without_a_likelihood_there_is_no_prediction(make):
    (member,) = make((0.6,), n=10)
    bare = tuple(replace(row, detail={"exact": 0, "size": 3}) for row in member.rows)
    assert predict(replace(member, rows=bare), "arithmetic") is None
    (point,) = by_size(replace(member, rows=bare), "arithmetic")
    assert (point.size, point.measured.n, point.power, point.product) == (3, 10, None, None)
    unmeasured = tuple(replace(r, detail={k: v for k, v in r.detail.items() if k != "exact"}) for r in member.rows)
    found = predict(replace(member, rows=unmeasured), "arithmetic")
    assert found.measured is None
    assert found.error is None


def test_accuracy_decays_geometrically_with_the_length_of_the_target(make):
    (member,) = make((0.7,), n=6_000, tokens=(1, 2, 3, 4, 5, 6))
    points = by_size(member, "arithmetic")
    assert [p.size for p in points] == [1, 2, 3, 4, 5, 6]
    for p in points:
        assert p.power == pytest.approx(0.7**p.size)
        assert p.measured.interval.low - 0.01 <= p.power <= p.measured.interval.high + 0.01
    ratios = [b.measured.rate / a.measured.rate for a, b in pairwise(points)]
    assert ratios == pytest.approx([0.7] * 5, abs=0.1)


@pytest.mark.parametrize(
    ("detail", "tokens"),
    [
        ({"tokens": 7, "likelihood": -1.0, "probability": math.exp(-3)}, 7),
        ({"likelihood": -1.5, "probability": math.exp(-4.5), "size": 9}, 3),
        ({"likelihood": 0.0, "probability": 1.0, "size": 4}, 4),
        ({"likelihood": -400.0, "probability": 0.0, "size": 4}, 4),
        ({"likelihood": -400.0, "probability": 0.0}, None),
        ({}, None),
    ],
)
def test_how_long_an_answer_is(make, detail, tokens):
    (member,) = make((0.7,), n=1)
    assert tokens_of(replace(member.rows[0], detail=detail)) == tokens


def test_what_is_no_probability_is_refused():
    assert power_law(0.5, [1, 2]) == pytest.approx(0.375)
    for p, lengths in ((1.2, [1]), (-0.1, [1]), (0.5, [])):
        with pytest.raises(ValueError, match="expected a probability"):
            power_law(p, lengths)
