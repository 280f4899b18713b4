"""Images among token ids: against loops written out by hand, over random interleavings of text and images."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from multimodal import splice
from rmt.cache import filled as plain_filled
from rmt.errors import InputError
from rmt.segments import Segment, join, next_token_targets, split

IMAGE, VOCABULARY = 30, 32


@dataclass
class Batch:
    """A drawn batch: its tensors, and each row as (id, unit, image) of real tokens, -1 for no image."""

    ids: Tensor
    mask: Tensor
    glue: Tensor
    rows: list[list[tuple[int, int, int]]]
    tokens: int
    images: int

    def numbered(self) -> Tensor:
        return splice.number(
            self.ids, self.mask, image_token=IMAGE, tokens=self.tokens, vocabulary=VOCABULARY, images=self.images
        )

    def unit(self) -> Tensor:
        return splice.units(self.numbered(), vocabulary=VOCABULARY, tokens=self.tokens, glue=self.glue)

    def longest(self) -> int:
        """Tokens of the largest unit, 1 where there is none."""
        return max((sum(u == unit for _, u, _ in row) for row in self.rows for _, unit, _ in row if unit), default=1)


@st.composite
def batches(draw: st.DrawFn, images: bool = True) -> Batch:
    """Rows of words and images, some with labels glued before or behind; padding, of any id, anywhere."""
    tokens = draw(st.integers(1, 4))
    rows: list[list[tuple[int, int, int]]] = []
    image = unit = 0
    for _ in range(draw(st.integers(1, 3))):
        row: list[tuple[int, int, int]] = []
        for kind in draw(st.lists(st.sampled_from(["word", "image", "labelled"][: 3 if images else 1]), max_size=9)):
            if kind == "word":
                row += [(draw(st.integers(0, 29)), 0, -1)] * draw(st.integers(1, 4))
                continue
            unit += 1
            label = [(draw(st.integers(0, 29)), unit, -1)] * (draw(st.integers(1, 3)) if kind == "labelled" else 0)
            behind = [(draw(st.integers(0, 29)), unit, -1)] * (draw(st.integers(0, 1)) if kind == "labelled" else 0)
            row += [*label, *[(IMAGE, unit, image)] * tokens, *behind]
            image += 1
        rows.append(row or [(1, 0, -1)])
    padded = []
    for row in rows:
        gaps = draw(st.lists(st.integers(0, len(row)), max_size=5))
        with_gaps: list[tuple[int, int, int] | None] = list(row)
        for gap in sorted(gaps, reverse=True):
            with_gaps.insert(gap, None)
        padded.append(with_gaps)
    width = max(map(len, padded))
    padding = draw(st.sampled_from([0, IMAGE, VOCABULARY + 5, -100]))
    left = draw(st.booleans())
    ids, mask, glue = (torch.full((len(rows), width), fill) for fill in (padding, 0, 0))
    use_glue = {u for row in rows for t, u, _ in row if u and t != IMAGE}  # images alone are units by themselves
    for number, cells in enumerate(padded):
        cells = [None] * (width - len(cells)) + cells if left else cells
        for column, cell in enumerate(cells):
            if cell is not None:
                ids[number, column], mask[number, column] = cell[0], 1
                glue[number, column] = cell[1] if cell[1] in use_glue else 0
    return Batch(ids, mask, glue, rows, tokens, image)


def greedy(row: list[tuple[int, int, int]], size: int) -> list[list[tuple[int, int, int]]]:
    """Segments of a row by the rule in words: take what comes next, whole, until it no longer fits."""
    segments: list[list[tuple[int, int, int]]] = [[]]
    at = 0
    while at < len(row):
        end = at + 1
        while row[at][1] and end < len(row) and row[end][1] == row[at][1]:
            end += 1
        if len(segments[-1]) + end - at > size:
            segments.append([])
        segments[-1] += row[at:end]
        at = end
    return segments


@given(batches(), st.integers(0, 9))
def test_segments_are_those_of_the_rule(batch: Batch, room: int) -> None:
    """Nothing cut, nothing lost, order kept, none above size, none ended early without need, rows independent."""
    size = batch.longest() + room
    segments = splice.cut(batch.numbered(), batch.mask, size, batch.unit())
    naive = [greedy(row, size) for row in batch.rows]
    assert len(segments) == max(map(len, naive))
    table = 0
    for row, parts in enumerate(naive):
        for number, segment in enumerate(segments):
            part = parts[number] if number < len(parts) else []
            assert segment.mask[row].tolist() == [i < len(part) for i in range(segment.mask.shape[1])]
            wanted = []
            for token, _, image in part:
                wanted.append(token if image < 0 else VOCABULARY + table)
                table += image >= 0
            assert segment.ids[row][segment.mask[row]].tolist() == wanted
            assert not segment.ids[row][~segment.mask[row]].any()
            # Each token knows the column that it came from.
            back = batch.ids[row][segment.source[row]][segment.mask[row]].tolist()
            assert back == [token for token, _, _ in part]
    assert table == batch.images * batch.tokens
    assert max(segment.mask.shape[1] for segment in segments) <= size
    assert all(bool(segment.mask[:, -1].any()) for segment in segments)  # no column of padding alone


@given(batches(), st.integers(0, 9))
def test_places_are_the_map_from_image_to_segment_to_column(batch: Batch, room: int) -> None:
    size = batch.longest() + room
    segments = splice.cut(batch.numbered(), batch.mask, size, batch.unit())
    wanted = []
    for row, tokens in enumerate(batch.rows):
        for number, part in enumerate(greedy(tokens, size)):
            images = [image for _, _, image in part]
            wanted += [(i, row, number, images.index(i)) for i in sorted(set(images) - {-1})]
    found = splice.places(segments, vocabulary=VOCABULARY, tokens=batch.tokens)
    assert [(p.image, p.row, p.segment, p.column) for p in found] == wanted
    assert [p.image for p in found] == list(range(batch.images))


@given(batches(), st.integers(0, 9))
def test_join_puts_back_what_was_cut(batch: Batch, room: int) -> None:
    ids = batch.numbered()
    segments = splice.cut(ids, batch.mask, batch.longest() + room, batch.unit())
    assert torch.equal(join(segments, [s.ids for s in segments], ids.shape[1]), ids * batch.mask)
    columns = torch.arange(ids.shape[1]).expand_as(ids)
    for segment in segments:
        assert torch.equal(segment.gather(columns), segment.source)


@given(batches(images=False), st.integers(1, 9))
def test_without_images_as_plain_segments(batch: Batch, size: int) -> None:
    ids = batch.numbered()
    ours, plain = splice.cut(ids, batch.mask, size, batch.unit()), split(ids, batch.mask, size)
    assert len(ours) == len(plain)
    for a, b in zip(ours, plain, strict=True):
        assert all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("ids", "mask", "source"))


@given(batches(), st.integers(0, 9))
def test_what_is_filled_are_the_segments_but_the_last(batch: Batch, room: int) -> None:
    """Rows without tokens too, of which a batch that is read on may have some."""
    size = batch.longest() + room
    ids, mask, unit = (torch.cat([t, torch.zeros_like(t[:1])]) for t in (batch.numbered(), batch.mask, batch.unit()))
    full, rest = splice.filled(ids, mask.bool(), size, unit)
    for row, tokens in enumerate([*batch.rows, []]):
        naive = greedy(tokens, size)
        got = [segment.source[row][segment.mask[row]] for segment in [*full, rest]]
        assert [len(g) for g in got if len(g)] == [len(part) for part in naive if part]
        assert torch.cat(got).tolist() == mask[row].nonzero().flatten().tolist()
        assert int(rest.mask[row].sum()) == len(naive[-1])
        for segment in [*full, rest]:
            assert torch.equal(segment.ids[row], ids[row][segment.source[row]] * segment.mask[row])


@given(batches(images=False), st.integers(1, 9))
def test_filled_without_images_as_plain(batch: Batch, size: int) -> None:
    ids, mask = batch.numbered(), batch.mask.bool()
    full, rest = splice.filled(ids, mask, size, torch.zeros_like(ids))
    wanted, last = plain_filled(ids, mask, size)
    assert len(full) == len(wanted)
    for a, b in zip([*full, rest], [*wanted, last], strict=True):
        assert torch.equal(a.mask, b.mask)
        assert torch.equal(a.ids, b.ids)
        assert torch.equal(a.source, b.source)


@given(batches(), st.integers(0, 9))
def test_targets_are_the_next_word_and_never_an_image(batch: Batch, room: int) -> None:
    ids = batch.numbered()
    labels = batch.ids.masked_fill(ids >= VOCABULARY, -100)
    targets = next_token_targets(labels, batch.mask)
    for row, tokens in enumerate(batch.rows):
        naive = [t if image < 0 else -100 for t, _, image in tokens[1:]] + [-100]
        assert targets[row][batch.mask[row].bool()].tolist() == naive
        assert bool((targets[row][~batch.mask[row].bool()] == -100).all())
    # Cut into segments they are the same, whatever the border.
    for segment in splice.cut(ids, batch.mask, batch.longest() + room, batch.unit()):
        got = segment.gather(targets, fill=-100)
        rows = torch.arange(len(ids))[:, None].expand_as(segment.source)
        assert torch.equal(got[segment.mask], targets[rows, segment.source][segment.mask])


@given(batches(), st.integers(0, 9))
def test_a_row_is_cut_as_it_would_be_alone(batch: Batch, room: int) -> None:
    size = batch.longest() + room
    ids, unit = batch.numbered(), batch.unit()
    together = splice.cut(ids, batch.mask, size, unit)
    for row in range(len(ids)):
        alone = splice.cut(ids[row : row + 1], batch.mask[row : row + 1], size, unit[row : row + 1])
        for number, segment in enumerate(together):
            mine = segment.ids[row][segment.mask[row]]
            assert torch.equal(mine, alone[number].ids[0] if number < len(alone) else mine[:0])


def cut_of(segments: list[Segment]) -> list[int]:
    return [int(segment.lengths[0]) for segment in segments]


def ids_of(*parts: int) -> Tensor:
    """A row: a positive number of words, or the image token so many times where negative."""
    row = [token for part in parts for token in ([1] * part if part > 0 else [IMAGE] * -part)]
    return torch.tensor([row])


def cut_at(ids: Tensor, size: int, tokens: int, images: int, glue: Tensor | None = None) -> list[int]:
    mask = torch.ones_like(ids)
    numbered = splice.number(ids, mask, image_token=IMAGE, tokens=tokens, vocabulary=VOCABULARY, images=images)
    unit = splice.units(numbered, vocabulary=VOCABULARY, tokens=tokens, glue=glue)
    return cut_of(splice.cut(numbered, mask, size, unit))


def test_examples() -> None:
    assert cut_at(ids_of(6, -4, 2), 8, 4, 1) == [6, 6]  # ends early, and once only
    assert cut_at(ids_of(4, -4, 2), 8, 4, 1) == [8, 2]  # fits to the last place
    assert cut_at(ids_of(20, -4), 8, 4, 1) == [8, 8, 8]  # ends where it would without an image
    assert cut_at(ids_of(-8), 4, 4, 2) == [4, 4]  # two images side by side are two
    assert cut_at(ids_of(5, -4), 8, 4, 1, torch.tensor([[0, 0, 0, 7, 7, 7, 7, 7, 7]])) == [3, 6]


def refused(ids: Tensor, match: str, tokens: int = 4, images: int = 1, mask: Tensor | None = None) -> None:
    with pytest.raises(InputError, match=match):
        splice.number(ids, mask, image_token=IMAGE, tokens=tokens, vocabulary=VOCABULARY, images=images)


def test_malformed_input_is_refused() -> None:
    refused(ids_of(2, -3), "expected 4 image tokens an image, got row 0: 3")
    refused(ids_of(2, -8), r"expected 2 images \(\[2\] in the rows of input_ids\), got 1")
    refused(ids_of(2), r"expected 0 images .* got 1")
    refused(ids_of(-2, 1, -2), "side by side, got words within image 0 of row 0")
    refused(ids_of(-4, 1, -2, 1, -2), "words within image 1 of row 0", images=2)
    refused(torch.tensor([[1, VOCABULARY]]), "expected ids from 0 to 31, got 32 in row 0", images=0)
    refused(torch.tensor([[1, -200]]), "expected ids from 0 to 31, got -200 in row 0", images=0)
    refused(
        ids_of(2, -4), r"attention_mask: expected the shape of input_ids \(1, 6\), got \(1, 7\)", mask=torch.ones(1, 7)
    )


def test_a_row_may_not_lend_an_image_to_another() -> None:
    """The count over the batch is right, that of each row is not: transformers does not look."""
    ids = torch.cat([ids_of(2, -6), ids_of(6, -2)])
    refused(ids, "row 0: 6, row 1: 2", images=2)


def test_an_image_larger_than_a_segment_is_refused() -> None:
    with pytest.raises(InputError, match=r"segment_size: expected at least 4, .* got 3; .*projector='pooled'"):
        cut_at(ids_of(2, -4), 3, 4, 1)
    with pytest.raises(InputError, match="segment_size: expected at least 6"):
        cut_at(ids_of(2, -4), 5, 4, 1, torch.full((1, 6), 3))


def test_glue_is_one_number_over_an_image() -> None:
    ids = ids_of(2, -4, 1)
    with pytest.raises(InputError, match="expected one number over an image and its label, got several in row 0"):
        cut_at(ids, 8, 4, 1, torch.tensor([[0, 1, 1, 1, 1, 0, 0]]))
    with pytest.raises(InputError, match="glue: expected 0 or more"):
        cut_at(ids, 8, 4, 1, torch.full((1, 7), -1))
    with pytest.raises(InputError, match=r"glue: expected the shape of input_ids \(1, 7\), got \(1, 6\)"):
        cut_at(ids, 8, 4, 1, torch.ones(1, 6, dtype=torch.long))


def test_padding_within_an_image_hides_no_torn_glue() -> None:
    ids = torch.tensor([[IMAGE, IMAGE, 0, IMAGE, IMAGE]])
    mask = torch.tensor([[1, 1, 0, 1, 1]])
    numbered = splice.number(ids, mask, image_token=IMAGE, tokens=4, vocabulary=VOCABULARY, images=1)
    with pytest.raises(InputError, match="got several in row 0"):
        splice.units(numbered, vocabulary=VOCABULARY, tokens=4, glue=torch.tensor([[1, 1, 0, 0, 0]]))


def test_words_behind_a_column_are_words() -> None:
    ids = ids_of(1, -4, 1, -1)
    numbered = splice.number(ids, None, image_token=IMAGE, tokens=4, vocabulary=VOCABULARY, images=1, columns=6)
    assert numbered[0].tolist() == [1, 32, 33, 34, 35, 1, IMAGE]
