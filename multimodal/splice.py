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
    attention_mask: Shaped[Tensor, "batch seq"] | None,
    *,
    image_token: int,
    tokens: int,
    vocabulary: int,
    images: int,
    begin: int = 0,
    name: str = "pixel_values",
) -> Int[Tensor, "batch seq"]:
    """Ids in which each image token is virtual.

    Args:
        input_ids: with runs of image tokens.
        attention_mask: nonzero at real tokens.
        image_token: id of an image token.
        tokens: an image has so many.
        vocabulary: ids of words are below.
        images: that were given, in the order of rows and within a row.
        begin: rows of the table that are taken.
        name: of the argument that brought the images, for messages.

    Raises:
        InputError: a row whose image tokens make no whole images, an image in pieces, or another number of images.
    """
    real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    marks = (input_ids == image_token) & real
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
    return torch.where(marks, vocabulary + order, input_ids)


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
    ids: Int[Tensor, "batch seq"], *, vocabulary: int, tokens: int, glue: Int[Tensor, "batch seq"] | None = None
) -> Int[Tensor, "batch seq"]:
    """For each token the number of what it must not be cut from, 0 for none.

    Args:
        ids: with virtual ids.
        vocabulary, tokens: see :func:`number`.
        glue: positive and equal at a label and all of its image, 0 elsewhere; images without are units of their own.

    Raises:
        InputError: an image with several numbers.
    """
    image = torch.where(ids >= vocabulary, (ids - vocabulary) // tokens + 1, 0)
    if glue is None:
        return image
    if glue.shape != ids.shape:
        raise InputError(f"glue: expected the shape of input_ids {tuple(ids.shape)}, got {tuple(glue.shape)}")
    first = torch.where(image > 0, (ids - vocabulary) % tokens == 0, False)
    torn = (image[:, 1:] > 0) & ~first[:, 1:] & (glue[:, 1:] != glue[:, :-1]) & (image[:, 1:] == image[:, :-1])
    if bool(torn.any()):
        row = int(torn.nonzero()[0, 0])
        raise InputError(f"glue: expected one number over an image and its label, got several in row {row}")
    return torch.where(glue > 0, -glue, image)


def cut(
    ids: Int[Tensor, "batch seq"],
    attention_mask: Shaped[Tensor, "batch seq"] | None,
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
        InputError: a unit larger than a segment, or a row without tokens.
    """
    real = torch.ones_like(ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
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


def _borders(unit: Int[Tensor, " tokens"], size: int) -> list[int]:
    """Where a row is cut: 0, the starts of all segments but the first, and its length."""
    total = len(unit)
    change = (unit[1:] != unit[:-1]).nonzero().flatten() + 1
    starts = torch.cat([change.new_zeros(1), change]).tolist()
    stops = [*starts[1:], total]
    whole = [(a, b) for a, b in zip(starts, stops, strict=True) if int(unit[a])]
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
