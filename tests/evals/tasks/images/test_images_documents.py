"""Documents with images: exact lengths, whole pictures, any slice a slice of the whole, kilobytes for a million."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.tasks.images.digits import split
from evals.tasks.images.documents import (
    GIVEN,
    PHOTOGRAPH,
    SCENE,
    SENTENCE,
    ImageDocument,
    Items,
    digit_kind,
    scattered,
    shown,
    with_images,
)  # fmt: skip
from evals.tasks.images.needle import ImageNeedle
from evals.tasks.images.scenes import ScenePicture
from evals.tasks.images.world import SENTENCES

from .seeing import PER, source
from .small import FIRST, IMAGE, Words, background

WORDS = Words()


def naive(document: ImageDocument) -> list[int]:
    """The tokens, one item after another."""
    ids: list[int] = []
    text = document.start
    for number, offset in enumerate(document.offsets):
        while len(ids) < offset:
            ids.append(FIRST + text)
            text += 1
        ids += document.items.ids(number).tolist()
    while len(ids) < document.length:
        ids.append(FIRST + text)
        text += 1
    return ids


# Drawn as plain values: what is built of them is built in the test, for type checks draw numbers of their own.
kind = st.one_of(st.integers(0, SCENE), st.integers(SENTENCE, SENTENCE + SENTENCES - 1), st.just(GIVEN))
drawn = st.tuples(st.lists(st.tuples(kind, st.booleans()), max_size=6), st.integers(0, 30), st.integers(0, 50))


def built(values: Any) -> ImageDocument:
    pairs, room, start = values
    kinds = np.array([kind for kind, _ in pairs], dtype=np.int64)
    labels = {n: "Picture of the otter:" for n, (k, said) in enumerate(pairs) if said and not SENTENCE <= k < GIVEN}
    items = Items(source(WORDS), kinds, (start,), labels=labels, given=(ScenePicture(()),))
    length = int(items.sizes.sum()) + room
    offsets = scattered(np.random.default_rng(start), length, items.sizes)
    return ImageDocument(length, items, offsets, (), start, 0, "r")


@settings(max_examples=60, deadline=None)
@given(drawn, st.data())
def test_any_slice_is_a_slice_of_the_whole(values: Any, data: st.DataObject) -> None:
    document = built(values)
    ids = naive(document)
    assert len(ids) == document.length
    assert document.tokens().tolist() == ids
    assert document.tokens().dtype == np.int64
    begin = data.draw(st.integers(0, document.length))
    end = data.draw(st.integers(0, document.length + 3))
    assert document.tokens(begin, end).tolist() == ids[begin:end]
    whole = document.figures()
    overlapping = [f for f in whole if f.start < min(end, document.length) and f.stop > begin and begin < end]
    assert [f[:3] for f in document.figures(begin, end)] == [f[:3] for f in overlapping]


@settings(max_examples=40, deadline=None)
@given(drawn)
def test_figures_hold_all_image_tokens_and_their_labels(values: Any) -> None:
    document = built(values)
    ids = document.tokens()
    covered = np.zeros(len(ids), dtype=bool)
    for start, stop, at, _ in document.figures():
        assert (ids[at:stop] == IMAGE).all()
        assert stop - at == PER
        assert WORDS.decode(ids[start:at]) in ("", "Picture of the otter:")
        assert not covered[start:stop].any()
        covered[start:stop] = True
    assert (covered | (ids != IMAGE)).all()


def test_kinds_of_digits_are_all_different() -> None:
    kinds = {digit_kind(d, i, f): (d, i, f) for d in range(10) for i in range(8) for f in range(-1, 8)}
    assert len(kinds) == SCENE
    assert sorted(kinds) == list(range(SCENE))
    assert PHOTOGRAPH < SENTENCE < SENTENCE + SENTENCES == GIVEN
    assert all(shown(kind) == shows for kind, shows in kinds.items())


def test_pictures_are_of_the_test_split_and_show_their_kind() -> None:
    kinds = np.array([digit_kind(n % 10, n % 8, n % 9 - 1) for n in range(100)])
    numbers = set()
    for which in ("test", "train"):
        items = Items(source(WORDS), kinds, (1,), split=which)
        for number in range(100):
            picture = items.picture(number)
            assert (picture.digit, picture.ink, picture.frame) == shown(int(kinds[number]))
            assert picture.number in split(which)
            assert picture.augment == (which == "train")
            numbers.add(picture.number)
    assert len(numbers) > 120  # not the same few again and again
    assert np.array_equal(items.picture(3)(), items.picture(3)())
    scene = Items(source(WORDS, size=48), np.array([SCENE]), (1,)).picture(0)
    assert scene().shape == (48, 48, 3)


def test_a_million_tokens_with_thousands_of_images_cost_kilobytes() -> None:
    class Text:
        taken = 0

        def __len__(self) -> int:
            return 1_500_000

        def __getitem__(self, part: slice) -> np.ndarray:
            self.taken += part.stop - part.start
            return np.arange(part.start, part.stop) + FIRST

    text = Text()
    made = replace(source(WORDS), background=text, digest="million")
    (document,) = ImageNeedle(depths=1).documents(made, 1_000_000, 1)
    assert text.taken == 0
    images = sum(document.items.is_image(n) for n in range(len(document.items.kinds)))
    assert images > 3500
    held = sum(value.nbytes for value in (document.offsets, document.items.kinds, document.items.sizes))
    assert held + sys.getsizeof(document.questions) < 300_000
    assert len(document.tokens(999_000, 1_000_000)) == 1000
    assert text.taken <= 1000
    first, *_ = document.figures(0, 200)
    assert first.start == 0  # the needle, at depth 0
    assert first.image.seen["frame"] is not None


def test_a_source_says_what_it_lacks() -> None:
    words = Words()
    assert with_images(source(words), "x").run.tolist() == [IMAGE] * PER
    for bad in ({"image_token": -1}, {"tokens_per_image": 0}):
        with pytest.raises(ValueError, match="expected an image_token from 0 and tokens_per_image from 1"):
            source(words, **bad)
    with pytest.raises(ValueError, match="at least 16 pixels, got 8"):
        source(words, size=8)
    assert source(words).digest != source(words, size=48).digest
    assert background(3).tolist() == [FIRST, FIRST + 1, FIRST + 2]
    with pytest.raises(ValueError, match=r"room for 2 images and sentences \(8 tokens\), got 7"):
        scattered(np.random.default_rng(0), 7, np.array([4, 4]))
