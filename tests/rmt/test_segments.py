"""Splitting and joining: pure index arithmetic, against loops written out by hand."""

from __future__ import annotations

import inspect

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rmt.errors import InputError
from rmt.segments import join, next_token_targets, remaining, split


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Token ids and a mask with padding anywhere, at least one token in each row."""
    batch, seq = draw(st.integers(1, 4)), draw(st.integers(1, 23))
    row = st.lists(st.booleans(), min_size=seq, max_size=seq).filter(any)
    mask = torch.tensor(draw(st.lists(row, min_size=batch, max_size=batch)))
    ids = torch.arange(1, batch * seq + 1).view(batch, seq)  # all different, so that order shows
    return ids, mask


sizes = st.integers(1, 25)


@given(batches(), sizes)
def test_join_of_split_is_identity(given_batch: tuple[Tensor, Tensor], size: int) -> None:
    ids, mask = given_batch
    segments = split(ids, mask, size)
    assert torch.equal(join(segments, [s.ids for s in segments], ids.shape[1]), ids * mask)
    # Values of any further shape and dtype go back to where their tokens stood.
    wide = [torch.stack([s.ids, -s.ids], dim=-1).double() for s in segments]
    back = join(segments, wide, ids.shape[1])
    assert torch.equal(back[..., 0], (ids * mask).double())
    assert torch.equal(back[..., 1], -(ids * mask).double())


def test_join_writes_once() -> None:
    # Each write copies the whole batch, which one a segment would make quadratic.
    def nodes(size: int) -> list[str]:
        segments = split(torch.ones(2, 24, dtype=torch.long), None, size)
        values = [torch.ones(*s.ids.shape, 2, requires_grad=True) for s in segments]
        out = join(segments, values, 24)
        assert all(torch.equal(g, torch.ones_like(g)) for g in torch.autograd.grad(out.sum(), values))
        queue, seen = [out.grad_fn], []
        while queue:
            node = queue.pop()
            seen.append(node.name())
            queue += [n for n, _ in node.next_functions if n is not None]
        return [name for name in seen if "AccumulateGrad" not in name]

    assert nodes(12) == nodes(1)


@given(batches(), sizes)
def test_each_row_is_cut_as_it_would_be_alone(given_batch: tuple[Tensor, Tensor], size: int) -> None:
    ids, mask = given_batch
    segments = split(ids, mask, size)
    longest = int(mask.sum(dim=1).max())
    assert len(segments) == -(-longest // size)
    for row, (tokens, real) in enumerate(zip(ids, mask, strict=True)):
        alone = tokens[real].tolist()
        pieces = [alone[i : i + size] for i in range(0, len(segments) * size, size)]
        for segment, piece in zip(segments, pieces, strict=True):
            assert segment.ids[row][segment.mask[row]].tolist() == piece
            assert segment.mask[row].tolist() == [i < len(piece) for i in range(segment.mask.shape[1])]
            assert segment.lengths[row] == len(piece)
            assert bool(segment.active[row]) == bool(piece)
            assert not segment.ids[row][~segment.mask[row]].any()


@given(batches(), sizes)
def test_remaining_counts_down_to_the_end_of_each_document(given_batch: tuple[Tensor, Tensor], size: int) -> None:
    ids, mask = given_batch
    left = remaining(split(ids, mask, size))
    for row, real in enumerate(mask):
        count = -(-int(real.sum()) // size)
        assert left[:, row].tolist() == [max(0, count - n) for n in range(len(left))]


@given(batches(), sizes)
def test_gather_brings_values_to_their_tokens(given_batch: tuple[Tensor, Tensor], size: int) -> None:
    ids, mask = given_batch
    for segment in split(ids, mask, size):
        assert torch.equal(segment.gather(ids * 7, fill=-1), (segment.ids * 7).masked_fill(~segment.mask, -1))


@given(batches(), st.booleans())
def test_next_token_targets_equal_a_naive_loop(given_batch: tuple[Tensor, Tensor], without_mask: bool) -> None:
    labels, mask = given_batch
    labels = labels.masked_fill(labels % 5 == 0, -100)  # a user's own ignored labels stay ignored
    got = next_token_targets(labels, None if without_mask else mask)
    real = torch.ones_like(mask) if without_mask else mask
    expected = torch.full_like(labels, -100)
    for row in range(labels.shape[0]):
        before = None
        for col in range(labels.shape[1]):
            if real[row, col]:
                if before is not None:
                    expected[row, before] = labels[row, col]
                before = col
    assert torch.equal(got, expected)


def test_mask_of_any_dtype_means_the_same() -> None:
    ids = torch.arange(12).view(2, 6)
    mask = torch.tensor([[0, 1, 1, 0, 1, 1], [1, 1, 1, 1, 0, 0]])
    expected = [s.ids.tolist() for s in split(ids, mask.bool(), 3)]
    for dtype in (torch.int64, torch.int32, torch.float32):
        assert [s.ids.tolist() for s in split(ids, mask.to(dtype), 3)] == expected


def test_without_a_mask_all_tokens_are_real() -> None:
    ids = torch.arange(10).view(1, 10)
    assert [s.ids.tolist() for s in split(ids, None, 4)] == [[[0, 1, 2, 3]], [[4, 5, 6, 7]], [[8, 9]]]


def test_empty_rows_are_refused_by_number() -> None:
    mask = torch.tensor([[1, 1], [0, 0], [1, 0], [0, 0]])
    with pytest.raises(InputError, match=r"got none in rows \[1, 3\]; drop empty documents") as error:
        split(torch.ones(4, 2, dtype=torch.long), mask, 2)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="at least one token"):
        split(torch.ones(2, 0, dtype=torch.long), None, 2)


def test_mask_of_another_shape_is_refused() -> None:
    # As where someone adds columns for the memory to the mask, which other libraries ask for. Unwrapped, for
    # the shape checks, which only tests have, would speak first.
    with pytest.raises(InputError, match=r"shape of input_ids \(1, 4\), got \(1, 6\)"):
        inspect.unwrap(split)(torch.ones(1, 4, dtype=torch.long), torch.ones(1, 6), 2)
