"""The streaming search finds exactly what a search over all pairs finds, whatever the pieces."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rmt import InputError
from rmt.models.spans import Span, SpanSearch, pieces


def brute_force(start, end, longest, top):
    found = [
        Span(i, j, float(start[i] + end[j])) for i in range(len(start)) for j in range(i, min(i + longest, len(end)))
    ]
    return sorted(found, key=lambda span: -span.score)[:top]


@given(
    seed=st.integers(0, 10_000),
    cuts=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    longest=st.integers(1, 12),
    top=st.integers(1, 5),
)
def test_equals_brute_force(seed, cuts, longest, top):
    generator = torch.Generator().manual_seed(seed)
    start, end = torch.randn(2, 2, sum(cuts), generator=generator)
    search = SpanSearch.begin(2, longest, top)
    for piece in zip(start.split(cuts, dim=1), end.split(cuts, dim=1), strict=True):
        search = search.add(*piece)
        assert search.starts.shape[1] < longest  # what is carried has a bound
    for row in range(2):
        assert search.spans()[row] == brute_force(start[row], end[row], longest, top)


def test_a_span_across_three_pieces():
    start, end = torch.zeros(1, 9), torch.zeros(1, 9)
    start[0, 2], end[0, 7] = 5.0, 5.0
    search = SpanSearch.begin(1, 6, 1)
    for piece in zip(start.split(3, dim=1), end.split(3, dim=1), strict=True):
        search = search.add(*piece)
    assert search.spans() == [[Span(2, 7, 10.0)]]
    shorter = SpanSearch.begin(1, 5, 1).add(start, end).spans()[0][0]
    assert shorter.score == 5.0


def test_bad_limits():
    with pytest.raises(InputError, match="1 or more, got 0 and 1"):
        SpanSearch.begin(1, 0, 1)


@given(cuts=st.lists(st.integers(0, 7), max_size=6), size=st.integers(1, 8))
def test_pieces_are_the_document(cuts, size):
    ids = torch.arange(sum(cuts))
    for document in (ids, ids.numpy(), ids.tolist(), iter(ids.split(cuts)), iter(ids.numpy()[None])):
        got = list(pieces(document, size))
        assert torch.equal(torch.cat([ids[:0], *got]), ids)
        assert [len(p) for p in got] == [len(p) for p in ids.split(size) if len(p)]


def test_pieces_take_only_what_they_need():
    taken = []

    def source():
        for number in range(1000):
            taken.append(number)
            yield np.full(10, number)

    stream = pieces(source(), 7)
    assert next(stream).tolist() == [0] * 7
    assert len(taken) == 1
