"""Training albums: pictures whole and inside segments, questions answered by marked pictures, nothing else marked."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evals.tasks.images.pool import Pool, draw_pool
from evals.tasks.images.training import SLOTS, AlbumTraining, Stage
from evals.tasks.images.world import ATTRIBUTES, DIGITS, NAMES

from .small import FIRST, IMAGE, Words, background

PER = 16
STAGES = [
    Stage(),
    Stage(segments=1, tags=1, segment_size=16, sentences=0.0),
    Stage(segments=8, segment_size=40, tags=8, distractors=0.6, sentences=0.9, unknown=1.0, questions=4),
    Stage(segments=8, tags=4, worded=0.5, sentences=0.5),
    Stage(segments=3, tags=3, worded=1.0, unknown=0.0),
]


@pytest.fixture(scope="module")
def pool() -> Pool:
    return draw_pool(400, seed=1)


def training(pool: Pool, words: Words | None = None, **fields: Any) -> AlbumTraining:
    settings = {"batch_size": 8, **fields}
    return AlbumTraining((words or Words()).encode, [background(3000)], IMAGE, PER, pool, **settings)


def runs(ids: np.ndarray) -> list[tuple[int, int]]:
    """(row, first token) of each image, row by row."""
    found = []
    for row, line in enumerate(ids):
        places = np.flatnonzero(line == IMAGE)
        assert len(places) % PER == 0
        for at in places[::PER]:
            assert (line[at : at + PER] == IMAGE).all()
            found.append((row, int(at)))
    return found


def asks(words: Words, batch: dict[str, np.ndarray]) -> list[tuple[int, str, str]]:
    """Row, question, and answer."""
    found = []
    for row, column in zip(*batch["question_mask"].any(2).nonzero(), strict=True):
        ids, targets = batch["question_ids"][row, column], batch["question_targets"][row, column]
        mask = batch["question_mask"][row, column].astype(bool)
        assert (targets[targets >= 0] == ids[targets >= 0]).all()
        assert mask[targets >= 0].all()
        found.append((int(row), words.decode(ids[mask & (targets < 0)]), words.decode(ids[targets >= 0])))
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_images_are_whole_in_order_and_inside_segments(pool: Pool, stage: Stage) -> None:
    for index in range(6):
        batch = training(pool, pixels=False).batch(index, stage)
        shown = training(pool).batch(index, stage)
        assert "images" not in batch
        assert np.array_equal(shown["images"], pool.images[batch["image_numbers"]])
        found = runs(batch["input_ids"])
        assert len(found) == len(batch["image_numbers"])
        size = stage.segment_size
        assert batch["input_ids"].shape == (8, stage.segments * size)
        for _, at in found:
            assert at // size == (at + PER - 1) // size
        homes = Counter((row, at // size) for row, at in found)
        assert not homes or max(homes.values()) == 1
        if stage.worded == 1:
            assert found == []


@pytest.mark.parametrize("stage", STAGES)
def test_marked_pictures_answer_every_question(pool: Pool, stage: Stage) -> None:
    words, unknown = Words(), 0
    for index in range(12):
        batch = training(pool, words, pixels=False).batch(index, stage)
        told: dict[tuple[int, str], tuple[str, str]] = {}
        marks = np.zeros_like(batch["salient"])
        for (row, at), number in zip(runs(batch["input_ids"]), batch["image_numbers"], strict=True):
            if (frame := int(pool.frame[number])) >= 0:
                told[row, NAMES[frame]] = DIGITS[pool.digit[number]], NAMES[pool.ink[number]]
                marks[row, at : at + PER, 2 * frame : 2 * frame + 2] = True
        for row, ids in enumerate(batch["input_ids"]):
            text = words.decode(ids)
            for frame, ink, digit in re.findall(r"in the (\w+) frame is an? (\w+) (\w+)\.", text):
                told[row, frame] = digit, ink
        if not stage.worded:
            assert np.array_equal(batch["salient"], marks)
        assert batch["salient"].shape == (*batch["input_ids"].shape, SLOTS)
        for row, question, answer in asks(words, batch):
            frame = re.search(r"in the (\w+) frame", question)[1]
            attribute = 0 if question.startswith("what digit") else 1
            assert answer == told[row, frame][attribute] if (row, frame) in told else answer == "unknown"
            unknown += answer == "unknown"
        for row in range(8):
            of_row = {frame: said for (r, frame), said in told.items() if r == row}
            assert len(of_row) <= stage.tags
            filed = {
                (NAMES[slot // 2], slot % 2): words.decode([token])
                for slot, token in enumerate(batch["memory_targets"][row])
                if token >= 0
            }
            assert filed == {(frame, a): said[a] for frame, said in of_row.items() for a in range(len(ATTRIBUTES))}
            kept = batch["salient"][row].any(0)
            assert {slot for slot in range(SLOTS) if kept[slot]} == {2 * NAMES.index(f) + a for f, a in filed}
    assert bool(unknown) == bool(stage.unknown)


def test_sentences_that_stand_for_pictures_are_marked_exactly(pool: Pool) -> None:
    words = Words()
    for index in range(8):
        batch = training(pool, words).batch(
            index, Stage(segments=4, tags=4, worded=1.0, sentences=1.0, distractors=1.0)
        )
        for ids, salient in zip(batch["input_ids"], batch["salient"], strict=True):
            for slot in np.flatnonzero(salient.any(0)):
                said = words.decode(ids[salient[:, slot]])
                assert re.fullmatch(rf"in the {NAMES[slot // 2]} frame is an? \w+ \w+\.", said)


def test_what_is_no_picture_is_text_in_its_place(pool: Pool) -> None:
    words = Words()
    batch = training(pool, words).batch(0, STAGES[2])
    for ids in batch["input_ids"]:
        text = ids >= FIRST
        assert len(set(ids[text] - np.flatnonzero(text))) == 1  # one slice of the background, overwritten in part
    said = words.decode(batch["input_ids"].ravel())
    assert "frame" in said  # near-facts
    quiet = training(pool, words).batch(0, replace(STAGES[2], sentences=0.0))
    assert words.decode(quiet["input_ids"].ravel()) == ""


def test_everything_follows_from_seed_and_number(pool: Pool) -> None:
    one = training(pool).batch(3, STAGES[0])
    again = training(pool).batch(3, STAGES[0])
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert not np.array_equal(one["input_ids"], training(pool).batch(4, STAGES[0])["input_ids"])
    assert not np.array_equal(one["input_ids"], training(pool, seed=1).batch(3, STAGES[0])["input_ids"])


def test_frames_answers_and_places_are_even(pool: Pool) -> None:
    words = Words()
    maker = training(pool, words, pixels=False, batch_size=64)
    frames, answers, places = Counter(), Counter(), Counter()
    for index in range(20):
        batch = maker.batch(index, Stage(segments=4, tags=1, unknown=0.0, sentences=0.0, distractors=0.0))
        places.update(at // 32 for _, at in runs(batch["input_ids"]))
        frames.update(int(pool.frame[n]) for n in batch["image_numbers"])
        answers.update(answer for _, _, answer in asks(words, batch))
    assert sum(frames.values()) == 1280
    assert all(110 < frames[frame] < 215 for frame in range(8))  # 160 and four standard deviations
    assert all(255 < places[segment] < 385 for segment in range(4))
    assert set(answers) == {*DIGITS, *NAMES}


def test_captions_are_behind_their_images(pool: Pool) -> None:
    words = Words()
    batch = training(pool, words, pixels=False).captions(2)
    assert (batch["input_ids"][:, :PER] == IMAGE).all()
    assert (batch["labels"][:, :PER] == -100).all()
    for row, number in enumerate(batch["image_numbers"]):
        kept = batch["labels"][row] >= 0
        assert words.decode(batch["labels"][row][kept]) == pool.captions[number]
        assert np.array_equal(batch["attention_mask"][row].astype(bool), kept | (np.arange(len(kept)) < PER))
    shown = training(pool, words).captions(2)
    assert np.array_equal(shown["images"], pool.images[batch["image_numbers"]])


def test_lead_is_text_of_whole_segments(pool: Pool) -> None:
    maker, lengths = training(pool), set()
    for index in range(20):
        batch = maker.batch(index, Stage(lead=3))
        lead = batch.get("lead_ids")
        lengths.add(0 if lead is None else lead.shape[1])
        if lead is not None:
            assert (np.diff(lead) == 1).all()
    assert lengths == {0, 32, 64, 96}


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        (Stage(segment_size=12), "room for an image of 16 tokens, got 12; pool images"),
        (Stage(segments=200), "at least 6,400 tokens .*never tiled"),
        (Stage(segments=2, segment_size=8, worded=1.0), "room for 9 tokens, got 8"),
    ],
)
def test_impossible_stages_are_refused(pool: Pool, stage: Stage, said: str) -> None:
    maker = training(pool, batch_size=64)
    with pytest.raises(ValueError, match=said):
        maker.batch(0, stage)


def test_impossible_pools_and_settings_are_refused(pool: Pool) -> None:
    with pytest.raises(ValueError, match="frames of every colour"):
        training(draw_pool(3)).batch(0, Stage())
    with pytest.raises(ValueError, match="without a frame, got none"):
        training(draw_pool(16, framed=1.0)).batch(0, Stage())
    with pytest.raises(ValueError, match="0 to 8, one for each colour"):
        Stage(tags=9)
    with pytest.raises(ValueError, match="at least 1 segment"):
        Stage(segments=0)
    with pytest.raises(ValueError, match="tokens_per_image: expected at least 1, got 0"):
        replace(training(pool), tokens_per_image=0).batch(0, Stage())
