"""The paper's claim on made-up models: smooth in each token, sharp under exact match, smooth in edit distance."""

from __future__ import annotations

import numpy as np
import pytest

from evals import wilson
from evals.emergence import Member, curve, curves, predictions, score_of

# The probability of a right token rises by the same step each time.
EVEN = (0.45, 0.56, 0.67, 0.78, 0.89, 1.0 - 1e-9)


def means(points):
    return [p.value for p in points]


def test_a_smooth_curve_turns_sharp_under_exact_match_and_not_under_edit_distance(make):
    family = make(EVEN, n=2_500, tokens=(12,))
    sharp, smooth = score_of(family, "arithmetic", "exact"), score_of(family, "arithmetic", "distance")
    # Each step of a line over 6 scales is a fifth of its rise, and its score is 5.
    assert smooth.score == pytest.approx(5, abs=0.25)
    assert smooth.steepest == pytest.approx(0.2, abs=0.03)
    assert sharp.score > 3 * smooth.score
    assert sharp.steepest > 0.6, "most of the rise lies in one step"
    assert sharp.interval is not None
    assert smooth.interval is not None
    assert sharp.interval.low > smooth.interval.high
    # The same answers: both curves come of one draw of right and wrong tokens.
    exact, distance = (curve(family, "arithmetic", metric) for metric in ("exact", "distance"))
    assert means(exact) == pytest.approx([p**12 for p in EVEN], abs=0.03)
    assert means(distance) == pytest.approx([12 * (1 - p) for p in EVEN], abs=0.15)


def test_a_short_answer_is_not_sharp_under_exact_match(make):
    """The control: with one token exact match is the probability of a token, and as smooth."""
    found = score_of(make(EVEN, n=2_000, tokens=(1,)), "arithmetic", "exact")
    assert found.score == pytest.approx(5, abs=0.6)
    assert found.steepest < 0.3


def test_too_few_questions_measure_nothing_where_p_to_the_l_is_more(make):
    small = (0.10, 0.15, 0.2, 0.25, 0.3)
    few, many = make(small, n=30, tokens=(5,)), make(small, n=8_000, tokens=(5,))
    held = predictions(few, "arithmetic")
    assert all(0 < p.power < 1 / p.n for p in held), "all that is predicted lies below the floor"
    assert means(curve(few, "arithmetic", "exact")) == [0] * 5
    assert {p.floor for p in curve(few, "arithmetic", "exact")} == {1 / 30}
    assert score_of(few, "arithmetic", "exact").reason.startswith("flat")
    # With enough questions the same models are seen to do better than nothing, as the paper says.
    assert all(p.value > 0 for p in curve(many, "arithmetic", "exact")[-2:])
    assert curve(many, "arithmetic", "exact")[-1].interval.low > 0.3**5 / 2


def test_points_have_the_interval_that_fits_them(make):
    family = make(n=50)
    found = curves(family, "arithmetic")
    assert list(found)[:2] == ["exact", "grade"]
    assert [p.parameters for p in found["exact"]] == sorted(m.parameters for m in family)
    for p, member in zip(found["exact"], family, strict=True):
        right = sum(row.detail["exact"] for row in member.rows)
        assert (p.value, p.interval, p.n) == (right / 50, wilson(int(right), 50), 50)
    for p in found["edit"]:
        assert p.interval.low <= p.value <= p.interval.high


def test_questions_of_one_document_are_no_independent_trials(make):
    (member,) = make((0.9,), n=100)
    from dataclasses import replace

    rows = tuple(replace(row, digest=str(number // 50), question=number) for number, row in enumerate(member.rows))
    (apart,), (together,) = (curve([Member("m", 9, held)], "arithmetic", "exact") for held in (member.rows, rows))
    assert apart.interval == wilson(round(100 * apart.value), 100)
    ends = [np.mean([row.detail["exact"] for row in rows if row.digest == name]) for name in ("0", "1")]
    assert together.interval == pytest.approx((min(ends), max(ends)))


def test_what_rows_do_not_say_is_left_out(make):
    from dataclasses import replace

    first, second = make((0.4, 0.8), n=20)
    bare = tuple(replace(row, detail={"exact": 1, "edit": None, "brier": float("nan")}) for row in second.rows)
    family = [Member("second", 10, bare), replace(first, parameters=5)]
    found = curves(family, "arithmetic")
    assert [p.member for p in found["exact"]] == ["m0", "second"]
    assert [p.member for p in found["edit"]] == ["m0"]
    assert [p.member for p in found["brier"]] == ["m0"]
    assert curves([replace(second, rows=tuple(replace(r, detail=None) for r in bare))], "arithmetic") == {}
    controls = tuple(replace(row, control="zeroed") for row in bare)
    assert curves([Member("c", 1, controls)], "arithmetic") == {}


def test_lengths_are_not_mixed(make):
    from dataclasses import replace

    (member,) = make((0.8,), n=10)
    both = Member("m", 1, member.rows + tuple(replace(row, length=64_000) for row in member.rows))
    with pytest.raises(ValueError, match=r"expected one length of arithmetic, got \[0, 64000\]"):
        curve([both], "arithmetic", "exact")
    assert curve([both], "arithmetic", "exact", 64_000)[0].n == 10
    with pytest.raises(ValueError, match="metric: expected one of"):
        curve([both], "arithmetic", "colour", 0)
