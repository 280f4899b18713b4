"""A document with images as segments of token ids, in a stream. Knows tokens and borders, nothing of models or pixels.

A *unit* is an image with the words that must not be cut from it. A segment that has no room for the next unit ends
before it; all others are full but the last. So borders follow from the document alone, not from how it comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerBase

from multimodal.pieces import Figure
from rmt.data.stream import StreamTokenizer
from rmt.errors import InputError

IMAGE = -1
"""What stands for a token of an image in ids: no word has it, whatever a text says."""

Look: TypeAlias = Callable[[Any, int], None]
"""Called with each image and the token of the document that it begins at, when its segment is known."""


@dataclass(frozen=True, eq=False)
class Unit:
    """An image and the words around it that it is never cut from, as int64 ids."""

    before: Int[np.ndarray, " words"]
    image: Any
    after: Int[np.ndarray, " more"]


@dataclass(frozen=True, eq=False)
class Page:
    """A segment of one document.

    Attributes:
        ids: int64, :data:`IMAGE` at tokens of images.
        images: how many there are in it.
    """

    ids: Int[np.ndarray, " tokens"]
    images: int


@runtime_checkable
class Illustrated(Protocol):
    """A document of known length whose tokens and images are made when asked for."""

    @property
    def length(self) -> int:
        """Tokens in all, those of images among them."""

    def tokens(self, begin: int, end: int) -> Any:
        """Ids of a range, each image a run of image tokens."""

    def figures(self, begin: int, end: int) -> Iterable[tuple[int, int, int, Any]]:
        """Of every figure that overlaps the range, in order: the tokens [start, stop) that are never cut, where its
        image tokens begin, and the image, or what gives it when called."""


def of_pieces(pieces: Iterable[Any], tokenizer: PreTrainedTokenizerBase) -> Iterator[np.ndarray | Unit]:
    """Token ids and units of a document that comes as text and figures; pieces of text may end inside a word.

    What is said in front of an image, behind it and between two is tokenised by itself.

    Raises:
        InputError: a piece of another kind.
    """
    text = StreamTokenizer(tokenizer)

    def whole(words: str) -> np.ndarray:
        return np.concatenate([text.push(words), text.flush()])

    for piece in pieces:
        if isinstance(piece, str):
            yield text.push(piece)
        elif isinstance(piece, Figure):
            yield text.flush()
            yield Unit(whole(piece.label), piece.image, whole(piece.after))
        else:
            raise InputError(
                f"document: expected text and figures, got {type(piece).__name__}; give str and multimodal.Figure"
            )
    yield text.flush()


def of_document(document: Illustrated, image_token: int, tokens: int, block: int) -> Iterator[np.ndarray | Unit]:
    """Token ids and units of a document that is asked for ranges.

    Args:
        document: see :class:`Illustrated`.
        image_token: the id of an image token.
        tokens: an image has so many.
        block: about how many tokens to ask for at a time.

    Raises:
        InputError: ids and figures that do not match.
    """
    at, length = 0, int(document.length)
    while at < length:
        figures = list(document.figures(at, min(at + block, length)))
        end = max([min(at + block, length), *(stop for _, stop, _, _ in figures)])
        ids = np.asarray(document.tokens(at, end), dtype=np.int64)
        if len(ids) != end - at:
            raise InputError(f"document: expected {end - at} tokens from {at} to {end}, got {len(ids)}; mend tokens()")
        begin = at
        for start, stop, place, image in figures:
            if not begin <= start <= place <= place + tokens <= stop <= end:
                raise InputError(
                    f"document: expected figures in order with {tokens} image tokens inside each, got tokens {start} "
                    f"to {stop} with an image at {place}; mend figures()"
                )
            run = ids[place - at : place + tokens - at]
            if (run != image_token).any():
                raise InputError(
                    f"document: expected {tokens} image tokens ({image_token}) at token {place}, got "
                    f"{run[run != image_token][0]} among them; mend tokens() or figures()"
                )
            yield _words(ids, begin, start, at, image_token)
            before, after = (_words(ids, *part, at, image_token) for part in ((start, place), (place + tokens, stop)))
            yield Unit(before, image, after)
            begin = stop
        yield _words(ids, begin, end, at, image_token)
        at = end


def _words(ids: np.ndarray, begin: int, end: int, at: int, image_token: int) -> np.ndarray:
    """Ids of a range in which no image may be."""
    words = ids[begin - at : end - at]
    stray = (words == image_token).nonzero()[0]
    if len(stray):
        raise InputError(
            f"document: expected a figure at token {begin + stray[0]}, where an image token stands, got none; name it "
            "in figures()"
        )
    return words


def pages(items: Iterable[np.ndarray | Unit], size: int, tokens: int, look: Look) -> Iterator[Page]:
    """Segments of a document, each as soon as it is full.

    The cuts are those of :func:`multimodal.splice.cut`. An image is looked at when the segments before its own have
    been given out.

    Args:
        items: from :func:`of_pieces` or :func:`of_document`.
        size: most tokens of a segment.
        tokens: of an image.
        look: see :data:`Look`.

    Raises:
        InputError: an image that with its label is larger than a segment; whatever ``look`` raises.
    """
    parts: list[np.ndarray] = []
    start = count = images = 0  # of the open segment: its place, its tokens, its images

    def page() -> Page:
        nonlocal parts, start, count, images
        done = Page(np.concatenate(parts), images)
        parts, start, count, images = [], start + count, 0, 0
        return done

    for item in items:
        if isinstance(item, Unit):
            width = len(item.before) + tokens + len(item.after)
            if width > size:
                raise InputError(
                    f"segment_size: expected at least {width}, the tokens of the image at token {start + count} with "
                    f"its label ({tokens} of the image), got {size}; take larger segments, shorten the label, or pool "
                    "the image: projector='pooled' or 'resampler'"
                )
            if count + width > size:
                yield page()
            look(item.image, start + count + len(item.before))
            parts += [item.before, np.full(tokens, IMAGE, dtype=np.int64), item.after]
            count, images = count + width, images + 1
            if count == size:
                yield page()
            continue
        begin = 0
        while begin < len(item):
            part = item[begin : begin + size - count]
            parts.append(part)
            begin, count = begin + len(part), count + len(part)
            if count == size:
                yield page()
    if count:
        yield page()
