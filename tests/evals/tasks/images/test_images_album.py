"""Albums on disk: what lies in the folder is what is said to lie there, and text tells no answer."""

from __future__ import annotations

import json
import re
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evals.tasks.images.album import contact_sheet, diary, paragraphs, pictures, questions, write
from evals.tasks.images.open_questions import load
from evals.tasks.images.world import DIGITS, NAMES

from .small import frame_of


def test_an_album_holds_what_its_answers_say(tmp_path: Path) -> None:
    shown = pictures(3, framed=4, others=9)
    paths = write(tmp_path / "album", shown, diary(np.random.default_rng(1)))
    album = paths["album"].read_text()
    named = re.findall(r"^!\[\]\((\d{4}\.png)\)$", album, re.M)
    assert named == [f"{number:04}.png" for number in range(1, 14)]
    assert {path.name for path in paths["album"].parent.iterdir()} == {*named, *(p.name for p in paths.values())}
    answers = json.loads(paths["answers"].read_text())
    frames = {}
    for entry, picture in zip(answers["pictures"], shown, strict=True):
        image = np.asarray(Image.open(paths["album"].parent / entry["file"]))
        assert np.array_equal(image, picture())
        assert entry["seen"] == picture.seen
        if entry["seen"].get("frame"):
            assert frame_of(image) == entry["seen"]["frame"]
            frames[entry["seen"]["frame"]] = entry["seen"]
    assert len(frames) == 4
    assert len(answers["questions"]) == 16
    for ask in answers["questions"]:
        frame = next(name for name in NAMES if f"the {name} frame" in ask["question"])
        attribute = "digit" if "what digit" in ask["question"] else "color"
        assert ask["answers"] == [frames[frame][attribute] if frame in frames else "unknown"]
    alone = load(paths["questions"])
    assert {Path(entry.image).name for entry in alone} <= set(named)
    assert sum(entry.question == "what digit is it?" for entry in alone) == sum(
        p.seen["kind"] == "digit" for p in shown
    )


def test_an_album_follows_from_its_seed(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write(tmp_path / name, pictures(seed, 2, 3), diary(np.random.default_rng(seed)), seed)
    a, b, c = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in "abc")
    assert a == b
    assert a["album.md"] != c["album.md"]


def test_a_text_of_ones_own_stands_between_the_pictures(tmp_path: Path) -> None:
    text = "\n\n".join(f"Paragraph\n{n}." for n in range(40))
    paths = write(tmp_path / "new", pictures(0, 1, 4), paragraphs(text))
    said = [line for line in paths["album"].read_text().splitlines() if line and not line.startswith("!")]
    assert said == [f"Paragraph {n}." for n in range(len(said))]
    assert 5 <= len(said) <= 15
    with pytest.raises(ValueError, match="paragraphs for 5 pictures, got too few"):
        write(tmp_path / "short", pictures(0, 1, 4), paragraphs("One.\n\nTwo."))


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for folder in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(ValueError, match="expected a new or an empty folder"):
            write(folder, pictures(0, 1, 0), diary(np.random.default_rng(0)))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_diary_never_says_what_was_seen_in_a_picture() -> None:
    said = " ".join(islice(diary(np.random.default_rng(0)), 400)).lower()
    assert re.search(r"\b(red|blue)\b", said)
    assert not re.search(rf"in the \w+ frame|({'|'.join(DIGITS)}) in a \w+ frame", said)


def test_frames_differ_and_wrong_numbers_are_refused() -> None:
    shown = pictures(0, 8, 0)
    assert {p.seen["frame"] for p in shown} == set(NAMES)
    assert [answer for _, answer in questions(shown)].count("unknown") == 0
    assert [answer for _, answer in questions(shown[:3])].count("unknown") == 10
    for framed, others, said in ((9, 0, "one for each colour, got 9"), (0, 0, "at least one"), (1, -1, "at least one")):
        with pytest.raises(ValueError, match=said):
            pictures(0, framed, others)


def test_a_sheet_shows_every_picture() -> None:
    images = [picture() for picture in pictures(1, 3, 4, size=16)]
    sheet = contact_sheet(images, scale=2)
    assert sheet.shape == (3 * 33, 3 * 33, 3)
    for number, image in enumerate(images):
        row, column = divmod(number, 3)
        assert np.array_equal(sheet[33 * row : 33 * row + 32 : 2, 33 * column : 33 * column + 32 : 2], image)
    with pytest.raises(ValueError, match="some of one size, got none"):
        contact_sheet([])
    with pytest.raises(ValueError, match="some of one size"):
        contact_sheet([images[0], np.zeros((5, 5, 3), dtype=np.uint8)])
