"""Images among token ids: numbered, never cut, found again. Pure index arithmetic; knows nothing of models.

In token ids an image is a run of image tokens, as many as its projector makes. Here each of them gets a *virtual id*,
``vocabulary + row``: a row of a table that holds the features of all images, in the order in which they stand in the
batch. So whatever cuts, batches or repeats plain ids treats images rightly, without knowing of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from rmt.errors import InputError
from rmt.segments import Segment, compact


@dataclass(frozen=True)
class Place:
    """Where an image stands: its number in the batch, its row, and the segment and column of its first token."""

    image: int
    row: int
    segment: int
    column: int


def number(
    input_ids: Int[Tensor, "batch seq"],
    attention_mask: Shaped[Tensor, "batch columns"] | None,
    *,
    image_token: int,
    tokens: int,
    vocabulary: int,
    images: int,
    begin: int = 0,
    columns: int | None = None,
    name: str = "pixel_values",
) -> Int[Tensor, "batch seq"]:
    """Ids in which each image token is virtual, and padding is 0.

    Args:
        input_ids: with runs of image tokens.
        attention_mask: nonzero at real tokens.
        image_token: id of an image token.
        tokens: an image has so many.
        vocabulary: ids of words are below.
        images: that were given, in the order of rows and within a row.
        begin: rows of the table that are taken.
        columns: image tokens stand for images in so many first columns, and are words behind; None for in all.
        name: of the argument that brought the images, for messages.

    Raises:
        InputError: a row whose image tokens make no whole images, an image in pieces, another number of images, or ids
            that are of no word.
    """
    real = _real(input_ids, attention_mask)
    marks = (input_ids == image_token) & real
    if columns is not None:
        marks[:, columns:] = False
    refuse_strangers(input_ids.masked_fill(~real | marks, 0), vocabulary)
    counts = marks.sum(dim=1)
    broken = (counts % tokens != 0).nonzero().flatten().tolist()
    if broken:
        got = ", ".join(f"row {row}: {int(counts[row])}" for row in broken)
        raise InputError(
            f"input_ids: expected {tokens} image tokens an image, got {got}; expand each <image> to so many"
        )
    if int(counts.sum()) != images * tokens:
        each = (counts // tokens).tolist()
        raise InputError(
            f"{name}: expected {sum(each)} images ({each} in the rows of input_ids), got {images}; give one for each"
        )
    _refuse_pieces(marks, real, tokens)
    order = begin + marks.flatten().cumsum(0).view_as(marks) - 1
    return torch.where(marks, vocabulary + order, input_ids.masked_fill(~real, 0))


def refuse_strangers(ids: Int[Tensor, "batch seq"], vocabulary: int) -> None:
    """Refuse ids of no word, which would be taken for an image's.

    Raises:
        InputError: naming the first of them.
    """
    strange = (ids < 0) | (ids >= vocabulary)
    if bool(strange.any()):
        row, column = strange.nonzero()[0].tolist()
        raise InputError(
            f"input_ids: expected ids from 0 to {vocabulary - 1}, got {int(ids[row, column])} in row {row}; use the "
            "tokenizer and the image token of this model"
        )


def _real(ids: Int[Tensor, "batch seq"], mask: Shaped[Tensor, "batch columns"] | None) -> Bool[Tensor, "batch seq"]:
    if mask is None:
        return torch.ones_like(ids, dtype=torch.bool)
    if mask.shape != ids.shape:
        raise InputError(
            f"attention_mask: expected the shape of input_ids {tuple(ids.shape)}, got {tuple(mask.shape)}; give one "
            "number for each token"
        )
    return mask.bool()


def _refuse_pieces(marks: Bool[Tensor, "batch seq"], real: Bool[Tensor, "batch seq"], tokens: int) -> None:
    """Refuse words within an image: among real tokens the last of an image stands ``tokens - 1`` behind its first."""
    rank = real.long().cumsum(dim=1)
    for row in range(len(marks)):
        at = rank[row][marks[row]].view(-1, tokens)
        torn = (at[:, -1] - at[:, 0] != tokens - 1).nonzero().flatten().tolist()
        if torn:
            raise InputError(
                f"input_ids: expected the {tokens} tokens of an image side by side, got words within image "
                f"{torn[0]} of row {row}; put the words in front"
            )


def units(
    ids: Int[Tensor, "batch seq"], *, vocabulary: int, tokens: int, glue: Int[Tensor, "batch columns"] | None = None
) -> Int[Tensor, "batch seq"]:
    """For each token the number of what it must not be cut from, 0 for none.

    Args:
        ids: with virtual ids.
        vocabulary, tokens: see :func:`number`.
        glue: positive and equal at a label and all of its image, 0 elsewhere; images without are units of their own.

    Raises:
        InputError: an image with several numbers, or glue of another shape.
    """
    image = torch.where(ids >= vocabulary, (ids - vocabulary) // tokens + 1, 0)
    if glue is None:
        return image
    if glue.shape != ids.shape:
        raise InputError(
            f"glue: expected the shape of input_ids {tuple(ids.shape)}, got {tuple(glue.shape)}; give "
            "one for each token"
        )
    if bool((glue < 0).any()):
        raise InputError("glue: expected 0 or more, got a negative number; 0 is for tokens that may be cut anywhere")
    # Tokens of an image follow one another, whatever padding stands between them.
    rows = (image > 0).nonzero()[:, 0].view(-1, tokens)[:, 0]
    each = glue[image > 0].view(-1, tokens)
    torn = (each != each[:, :1]).any(dim=1)
    if bool(torn.any()):
        raise InputError(
            f"glue: expected one number over an image and its label, got several in row {int(rows[torn][0])}; give "
            "each image one"
        )
    return torch.where(glue > 0, -glue, image)


def cut(
    ids: Int[Tensor, "batch seq"],
    attention_mask: Shaped[Tensor, "batch columns"] | None,
    size: int,
    unit: Int[Tensor, "batch seq"],
) -> list[Segment]:
    """Cut every row into segments of at most ``size`` tokens, never within a unit; one that has no room ends early.

    Without units the same as :func:`rmt.segments.split`.

    Args:
        ids: with virtual ids.
        attention_mask: nonzero at real tokens; padding may stand anywhere.
        size: most tokens of a segment.
        unit: from :func:`units`; tokens of equal number that stand side by side are one unit.

    Raises:
        InputError: a unit larger than a segment, a row without tokens, or a mask of another shape.
    """
    real = _real(ids, attention_mask)
    empty = (~real.any(dim=1)).nonzero().flatten().tolist()
    if empty or ids.shape[1] == 0:
        raise InputError(f"expected at least one token in each row, got none in rows {empty}; drop empty documents")
    columns = compact(real)
    cuts = [_borders(unit[row][columns[row][columns[row] >= 0]], size) for row in range(len(ids))]
    segments = []
    for place in range(max(len(c) for c in cuts) - 1):
        spans = [(c[place], c[place + 1]) if place + 1 < len(c) else (0, 0) for c in cuts]
        width = max(stop - start for start, stop in spans)
        source = columns.new_full((len(ids), width), -1)
        for row, (start, stop) in enumerate(spans):
            source[row, : stop - start] = columns[row, start:stop]
        mask, source = source >= 0, source.clamp(min=0)
        segments.append(Segment(ids.gather(1, source).masked_fill(~mask, 0), mask, source))
    return segments


def filled(
    ids: Int[Tensor, "batch seq"], mask: Bool[Tensor, "batch seq"], size: int, unit: Int[Tensor, "batch seq"]
) -> tuple[list[Segment], Segment]:
    """Tokens of open segments and those behind them: the segments that each row closes, and what stays open.

    As :func:`rmt.cache.filled`, which this is without units; arguments as of :func:`cut`. A row may have no tokens.
    """
    rows = mask.any(dim=1).nonzero().flatten()
    cuts = cut(ids[rows], mask[rows], size, unit[rows])
    last = torch.stack([s.active for s in cuts]).sum(dim=0) - 1

    def of_all(segment: Segment, keep: Tensor) -> Segment:
        parts = []
        for part in (segment.ids, segment.mask, segment.source):
            whole = part.new_zeros(len(ids), part.shape[1])
            whole[rows] = part.masked_fill(~keep[:, None], 0)
            parts.append(whole)
        return Segment(*parts)

    full = [of_all(s, last > n) for n, s in enumerate(cuts) if bool((last > n).any())]
    open_ones = [of_all(s, last == n) for n, s in enumerate(cuts)]
    width = max(int(s.mask.sum(dim=1).max()) for s in open_ones)
    ends = [torch.zeros(len(ids), width, dtype=t.dtype, device=ids.device) for t in (ids, mask, ids)]
    for segment in open_ones:
        count = min(width, segment.ids.shape[1])
        for end, part in zip(ends, (segment.ids, segment.mask, segment.source), strict=True):
            end[segment.active, :count] = part[segment.active, :count]
    return full, Segment(*ends)


def _borders(unit: Int[Tensor, " tokens"], size: int) -> list[int]:
    """Where a row is cut: 0, the starts of all segments but the first, and its length."""
    total = len(unit)
    change = (unit[1:] != unit[:-1]).nonzero().flatten() + 1
    first = torch.cat([change.new_zeros(1), change])
    starts, numbers = first.tolist(), unit[first].tolist()
    whole = [(a, b) for a, b, n in zip(starts, [*starts[1:], total], numbers, strict=True) if n]
    for a, b in whole:
        if b - a > size:
            raise InputError(
                f"segment_size: expected at least {b - a}, the tokens of an image with its label, got {size}; take "
                "larger segments, or pool the image: projector='pooled' or 'resampler'"
            )
    borders, number = [0], 0
    while borders[-1] + size < total:
        end = borders[-1] + size
        while number < len(whole) and whole[number][1] <= end:
            number += 1
        torn = number < len(whole) and whole[number][0] < end
        borders.append(whole[number][0] if torn else end)
    return [*borders, total]


def places(segments: list[Segment], *, vocabulary: int, tokens: int) -> list[Place]:
    """Where each image of a batch stands, by its number; the map from image to segment to token."""
    found = []
    for place, segment in enumerate(segments):
        first = (segment.ids >= vocabulary) & ((segment.ids - vocabulary) % tokens == 0)
        for row, column in first.nonzero().tolist():
            found.append(Place((int(segment.ids[row, column]) - vocabulary) // tokens, row, place, column))
    return sorted(found, key=lambda p: p.image)
