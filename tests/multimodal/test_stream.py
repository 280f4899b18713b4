"""Segments of a stream against the cuts of a whole batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from multimodal import splice
from multimodal.stream import IMAGE, Unit, of_document, of_pieces, pages
from rmt.errors import InputError
from tests.multimodal.album_kit import album, tokenizer

WORDS, TAG, TOKENS = 50, 60, 4
parts = st.lists(
    st.one_of(st.integers(0, 40), st.tuples(st.integers(0, 3), st.integers(0, 2))), min_size=1, max_size=12
)


def items_of(layout: list[Any]) -> list[Any]:
    """Runs of words, and images with words before and behind."""
    words = iter(range(1, 10_000))

    def take(count: int) -> np.ndarray:
        return np.array([next(words) % WORDS for _ in range(count)], dtype=np.int64)

    return [take(p) if isinstance(p, int) else Unit(take(p[0]), object(), take(p[1])) for p in layout]


def whole(items: list[Any], mark: int) -> tuple[np.ndarray, list[tuple[int, int, int, Any]]]:
    """All ids, and start, stop, place and image of each unit."""
    ids: list[np.ndarray] = []
    figures = []
    for item in items:
        if not isinstance(item, Unit):
            ids.append(item)
            continue
        start = sum(map(len, ids))
        ids += [item.before, np.full(TOKENS, mark), item.after]
        figures.append((start, sum(map(len, ids)), start + len(item.before), item.image))
    return np.concatenate([np.zeros(0, dtype=np.int64), *ids]), figures


@given(parts, st.integers(9, 20))
def test_borders_are_those_of_a_whole_batch(layout: list[Any], size: int) -> None:
    items = items_of(layout)
    ids, figures = whole(items, IMAGE)
    if not len(ids):
        assert not list(pages(items, size, TOKENS, lambda *_: None))
        return
    looked: list[tuple[Any, int]] = []
    got = list(pages(items, size, TOKENS, lambda *seen: looked.append(seen)))
    glue = torch.zeros(1, len(ids), dtype=torch.long)
    for number, (start, stop, _, _) in enumerate(figures, 1):
        glue[0, start:stop] = number
    rows = torch.from_numpy(np.where(ids == IMAGE, 1000 + np.cumsum(ids == IMAGE) - 1, ids))[None]
    cut = splice.cut(rows, None, size, splice.units(rows, vocabulary=1000, tokens=TOKENS, glue=glue))
    assert [len(page.ids) for page in got] == [s.ids.shape[1] for s in cut]
    assert np.array_equal(np.concatenate([page.ids for page in got]), ids), "nothing lost, order kept"
    assert looked == [(image, place) for _, _, place, image in figures]
    assert [p.images * TOKENS for p in got] == [int((p.ids == IMAGE).sum()) for p in got]


@dataclass
class Made:
    """A document that is asked for ranges."""

    ids: np.ndarray
    units: list[tuple[int, int, int, Any]]

    @property
    def length(self) -> int:
        return len(self.ids)

    def tokens(self, begin: int, end: int) -> np.ndarray:
        return self.ids[begin:end]

    def figures(self, begin: int, end: int) -> list[tuple[int, int, int, Any]]:
        return [unit for unit in self.units if unit[0] < end and unit[1] > begin]


@given(parts, st.integers(9, 20), st.integers(1, 50))
def test_ranges_of_any_size_give_the_same_segments(layout: list[Any], size: int, block: int) -> None:
    items = items_of(layout)
    looked: list[tuple[Any, int]] = []
    wanted = list(pages(items, size, TOKENS, lambda *seen: looked.append(seen)))
    again: list[tuple[Any, int]] = []
    ranges = of_document(Made(*whole(items, TAG)), TAG, TOKENS, block)
    got = list(pages(ranges, size, TOKENS, lambda *seen: again.append(seen)))
    assert [p.ids.tolist() for p in got] == [p.ids.tolist() for p in wanted]
    assert again == looked


def test_an_image_is_looked_at_after_the_segments_before_it() -> None:
    seen: list[int] = []
    stream = pages(items_of([20, (1, 1), 3, (0, 0), (2, 0)]), 10, TOKENS, lambda image, at: seen.append(at))
    ends = []
    end = 0
    for page in stream:
        end += len(page.ids)
        ends.append((end, [at for at in seen if at >= end]))
    assert all(not later for _, later in ends), "images of later segments are not held yet"
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("ids", "units", "said"),
    [
        ([1, 60, 60, 60, 60, 2], [], "expected a figure at token 1"),
        ([1, 60, 60, 60, 2, 2], [(1, 5, 1, None)], r"expected 4 image tokens \(60\) at token 1, got 2"),
        ([1, 60, 60, 60, 60, 2], [(1, 4, 1, None)], "expected figures in order with 4 image tokens"),
    ],
)
def test_ids_and_figures_that_do_not_match(ids: list[int], units: list[Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        list(of_document(Made(np.array(ids), units), 60, TOKENS, 100))


def test_an_image_larger_than_a_segment_says_what_to_do() -> None:
    with pytest.raises(InputError, match=r"at least 9, the tokens of the image at token 3 .*pool"):
        list(pages(items_of([3, (3, 2)]), 8, TOKENS, lambda *_: None))


def test_labels_are_tokenised_by_themselves() -> None:
    words = tokenizer()
    items = list(of_pieces(album(3), words))
    units = [item for item in items if isinstance(item, Unit)]
    labels = [piece.label for piece in album(3) if not isinstance(piece, str)]
    assert [words.decode(unit.before) for unit in units] == labels
    text = np.concatenate([item for item in items if not isinstance(item, Unit)])
    said = " ".join(piece.strip() for piece in album(3) if isinstance(piece, str))
    assert words.decode(text).replace(" ", "") == said.replace(" ", "")
    with pytest.raises(InputError, match="expected text and figures, got bytes"):
        list(of_pieces([b"no"], words))
