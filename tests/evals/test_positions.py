"""Depth, distance and bins against twins that walk over the tokens one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals import MEMORY, Row, wilson
from evals.positions import by_border, by_depth, by_tokens, by_updates, depth, position


def row(length=100, evidence=((0, 4),), right=True, control=MEMORY, task="needle", number=0, score=None):
    digest = f"{length} {number}"
    return Row(task, length, control, number, 0, digest, digest, ("a",), "a" if right else "b",
               score=float(right) if score is None else score, scorer="exact", evidence=tuple(evidence))  # fmt: skip


def naive(length, evidence, segment):
    """Walks over the document: which update each token falls into, and how many are left behind the fact."""
    update, of_token = 0, []
    for token in range(length):
        if token and token % segment == 0:
            update += 1
        of_token.append(update)
    _, stop = min(evidence)
    tokens = len(of_token[stop:])
    updates = len(set(of_token[stop:]) - {of_token[stop - 1]})
    return tokens, updates, any(len(set(of_token[a:b])) > 1 for a, b in evidence)


@st.composite
def places(draw):
    length = draw(st.integers(1, 60))
    ranges = []
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, length - 1))
        ranges.append((start, draw(st.integers(start + 1, length))))
    return length, tuple(ranges), draw(st.integers(1, 70))


@given(places())
def test_distances_are_those_of_a_walk_over_the_tokens(place):
    length, evidence, segment = place
    where = position(row(length, evidence), segment)
    assert (where.tokens, where.updates, where.crosses) == naive(length, evidence, segment)
    assert where.depth == depth(min(evidence), length)
    assert 0 <= where.depth <= 1


def test_depth_runs_from_the_start_to_the_end():
    assert depth((0, 4), 100) == 0
    assert depth((96, 100), 100) == 1
    assert depth((48, 52), 100) == 0.5
    assert depth((0, 100), 100) == 0  # the whole document
    for bad in ((-1, 3), (4, 4), (97, 101)):
        with pytest.raises(ValueError, match="expected a range inside 0 to 100"):
            depth(bad, 100)


def test_a_fact_at_a_border():
    assert not position(row(100, ((6, 10),)), 10).crosses  # ends with its segment
    assert position(row(100, ((6, 10),)), 10).updates == 9
    assert position(row(100, ((7, 11),)), 10).crosses
    assert position(row(100, ((7, 11),)), 10).updates == 8  # counted from the segment in which it ends
    assert position(row(101, ((7, 11),)), 10).updates == 9  # the last segment is one token long
    assert position(row(100, ()), 10) is None
    with pytest.raises(ValueError, match="segment: expected at least 1"):
        position(row(), 0)


def test_a_grid_of_depths_has_a_bin_for_each_length_and_depth():
    rows = [
        row(length, ((at, at + 4),), i < 3 or n > 0, number=n)
        for length in (103, 1001)
        for i, at in enumerate(round(i / 4 * (length - 4)) for i in range(5))
        for n in range(3)
    ]
    rows += [row(control="zeroed"), row(evidence=())]
    bins = by_depth(rows, depths=5)
    assert [(b.length, b.place) for b in bins] == [(n, i / 4) for n in (103, 1001) for i in range(5)]
    assert all(b.n == 3 and b.low <= b.place <= b.high for b in bins)
    assert [b.low for b in bins[1:5]] == [b.high for b in bins[:4]]
    assert [b.cell.successes for b in bins[:5]] == [3, 3, 3, 2, 2]
    assert bins[3].interval == wilson(2, 3)
    assert bins[3].rate == pytest.approx(2 / 3)
    assert bins[3].cell.length == 103
    assert set(bins[7].rows) == set(rows[21:24])
    assert [b.place for b in by_depth(rows, depths=2, control="zeroed")] == [0]
    with pytest.raises(ValueError, match="depths: expected at least 2"):
        by_depth(rows, depths=1)


def test_every_row_is_in_exactly_one_bin_that_reaches_over_it():
    rng = np.random.default_rng(0)
    rows = []
    for number in range(300):
        length = int(rng.choice([50, 500]))
        start = int(rng.integers(0, length - 4))
        rows.append(row(length, ((start, start + 4),), bool(rng.integers(2)), number=number))
    for bins, place in (
        (by_depth(rows, 7), lambda r: depth(r.evidence[0], r.length)),
        (by_tokens(rows), lambda r: r.length - r.evidence[0][1]),
        (by_tokens(rows, [0, 10, 77], pooled=False), lambda r: r.length - r.evidence[0][1]),
        (by_updates(rows, 16), lambda r: naive(r.length, r.evidence, 16)[1]),
        (by_border(rows, 16), lambda r: naive(r.length, r.evidence, 16)[2]),
    ):
        seen = [r.key for b in bins for r in b.rows]
        assert sorted(seen) == sorted(r.key for r in rows)
        for b in bins:
            assert all(b.low <= place(r) < b.high or place(r) == b.high == 1 for r in b.rows)
            assert b.length is None or {r.length for r in b.rows} == {b.length}


def test_distances_double_or_begin_where_they_are_told_to():
    rows = [row(200, ((200 - far - 4, 200 - far),), number=far) for far in (0, 1, 2, 3, 4, 7, 8, 100)]
    assert [(b.low, b.high, b.n) for b in by_tokens(rows)] == [
        (0, 1, 1), (1, 2, 1), (2, 4, 2), (4, 8, 2), (8, 16, 1), (64, 128, 1),
    ]  # fmt: skip
    assert [(b.low, b.high, b.n) for b in by_tokens(rows, [0, 4])] == [(0, 4, 4), (4, math.inf, 4)]
    for bad in ([], [1, 2], [0, 3, 3]):
        with pytest.raises(ValueError, match="edges: expected numbers that rise from 0"):
            by_tokens(rows, bad)


def test_scores_between_0_and_1_get_a_bootstrap_and_lengths_may_stand_together():
    rows = [row(n, ((0, 4),), score=s, number=i) for n in (100, 101) for i, s in enumerate((0.5, 1.0, 0.0))]
    (together,) = by_tokens(rows)
    assert (together.length, together.n, together.rate) == (None, 6, 0.5)
    assert together.cell.length == 0
    assert 0 < together.interval.low < 0.5 < together.interval.high < 1
    assert [b.length for b in by_tokens(rows, pooled=False)] == [100, 101]
