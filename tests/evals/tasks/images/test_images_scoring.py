"""Scorers of answers about images, and open questions from files of a user's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evals import MEMORY, load_rows, run
from evals.breakdowns import breakdowns
from evals.memory_eval import _plan
from evals.rows import Row
from evals.scorers import assess, score
from evals.stats import wilson
from evals.tasks.images.needle import ImageNeedle
from evals.tasks.images.open_questions import FilePicture, ImageOpen, load
from evals.tasks.images.tables import counting, tables
from multimodal.images import open_image

from .seeing import PER, Seeing, source
from .small import Words


@pytest.mark.parametrize(
    ("said", "right", "value"),
    [
        ("seven", "seven", 1), ("7", "seven", 1), ("Seven.", "7", 1), (" the seven\n", "seven", 1), ("A 7!", "7", 1),
        ("07", "seven", 1), ("eight", "seven", 0), ("seven eight", "seven", 0), ("17", "seven", 0), ("", "seven", 0),
        ("the", "seven", 0), ("Blue", "blue", 1), ("dark blue", "blue", 0), ("unknown", "unknown", 1),
        ("twenty", "20", 1), ("it is seven", "seven", 0), ("7.5", "seven", 0),
    ],
)  # fmt: skip
def test_one_word_against_one_word(said: str, right: str, value: float) -> None:
    assert score("image", said, (right,), "") == value
    assert score("image", said, ("green", right), "") == value  # any of several


@pytest.mark.parametrize(
    ("said", "right", "value", "error"),
    [
        ("three", "three", 1, 0), ("3", "three", 1, 0), ("there were three.", "three", 1, 0), ("5", "three", 0, 2),
        ("zero", "three", 0, 3), ("none", "three", 0, None), ("3 or 4", "three", 0, None), ("100", "three", 0, 97),
    ],
)  # fmt: skip
def test_counts(said: str, right: str, value: float, error: int | None) -> None:
    found = assess("image_count", said, (right,), "")
    assert (found.score, found.detail["error"]) == (value, error)


def test_open_answers_by_three_metrics() -> None:
    answers = ("a red fruit bowl", "bowl")
    found = assess("image_free:f1", "It is the bowl of fruit", answers, "")
    assert found.detail == {"exact": 0, "contains": 1, "f1": pytest.approx(2 * 2 / (5 + 3))}
    assert found.score == found.detail["f1"]
    assert assess("image_free:contains", "Red fruit bowl!", answers, "").detail == {"exact": 1, "contains": 1, "f1": 1}
    assert score("image_free", "fruit", answers, "") == 0
    assert assess("image_free", "", answers, "").detail == {"exact": 0, "contains": 0, "f1": 0}
    assert assess("image_free", "...", ("...",), "").score == 0  # an answer without words is none
    assert assess("image_free", "A.", ("a",), "").detail == {"exact": 1, "contains": 1, "f1": 1}  # a letter
    assert assess("image_free", "the", ("a",), "").score == 0
    with pytest.raises(ValueError, match="expected one of exact, contains, f1, got 'bleu'"):
        score("image_free:bleu", "x", answers, "")


def test_errors_of_counts_are_averaged_over_numbers() -> None:
    said = [("two", "two"), ("four", "two"), ("many", "two")]
    rows = []
    for number, (answered, right) in enumerate(said):
        found = assess("image_count", answered, (right,), "")
        detail = {"attribute": "digit", "count": 2, **found.detail}
        rows.append(
            Row("image_counting", 9, MEMORY, number, 0, f"{number}", "", (right,), answered, found.score,
                "image_count", "how many?", (), detail)
        )  # fmt: skip
    first, by = counting(rows)
    (line,) = first.lines
    assert (line[2], line[3].value, line[4].value, line[4].n, line[5]) == (3, pytest.approx(1 / 3), 1, 2, 1)
    assert by.lines[0][1] == 2


def test_intervals_are_of_documents_not_of_their_questions() -> None:
    # A memory that holds all or nothing: eight answers from it are worth one.
    rows = [
        Row("image_tagged", 9, MEMORY, document, number, f"{document}", "", ("two",), "two", float(document < 2),
            "image", f"{number}?", (), {"attribute": "digit", "images": 8})
        for document in range(4) for number in range(8)
    ]  # fmt: skip
    ((*_, found),) = tables(rows)[0].lines
    assert (found.value, found.n) == (0.5, 32)
    assert found.interval.low < wilson(2, 4).low + 0.05
    assert found.interval.high > wilson(2, 4).high - 0.05
    ((*_, single),) = tables([row for row in rows if row.question == 0])[0].lines
    assert single.interval == wilson(2, 4)


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Three images of sizes and modes of their own, with a question each."""
    lines = []
    for number, (mode, size) in enumerate([("RGB", (40, 30)), ("L", (20, 20)), ("RGBA", (17, 50))]):
        Image.new(mode, size).save(tmp_path / f"{number}.png")
        lines.append({"image": f"{number}.png", "question": f"What is {number}", "answers": [f"picture {number}", "x"]})
    file = tmp_path / "asked.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    return file


@pytest.mark.parametrize("others", [0, 2])
def test_open_questions_from_a_file(album: Path, others: int, tmp_path: Path) -> None:
    class Knows(Seeing):
        def solve(self, state: Any, asked: str) -> str:
            numbers = {seen["label"]: Path(seen["path"]).stem for seen in state if seen["kind"] == "file"}
            if not others:
                return f"the picture {next(iter(numbers.values()))}" if numbers else "nothing"
            tag = asked.partition("picture of the ")[2].partition(":")[0]
            return f"picture {numbers.get(f'Picture of the {tag}:', 'nothing')}"

    words = Words()
    spec = f"image_open:file={album},others={others},depths=3,metric=exact,sentences=5,distractors=5"
    cells = run(Knows(words), [spec], source(words), lengths=[300], n=6, folder=tmp_path / "run")
    # With two others every document shows all three images, so none may lend its memory.
    swapped = [] if others else [("swapped", 0)]
    assert [(c.control, c.rate) for c in cells] == [(MEMORY, 1), ("zeroed", 0), *swapped]
    (table,) = breakdowns(load_rows(tmp_path / "run" / "rows.jsonl"))
    assert [entry.value for entry in table.lines[0][2:]] == [1, 1, 1]
    made = list(ImageOpen(str(album), others=others, depths=3).documents(source(words), 300, 6))
    assert [d.questions[0].answers[0] for d in made] == [f"picture {n}" for n in (0, 1, 2, 0, 1, 2)]
    assert len({d.recipe for d in made}) == 6
    for document in made:
        files = [f for f in document.figures() if f.image.seen["kind"] == "file"]
        assert len(files) == 1 + others
        ((start, stop),) = document.questions[0].evidence
        assert start == int(document.questions[0].about["depth"] * (300 - (stop - start)) + 0.5)
        assert all((f.at > f.start) == bool(others) for f in files)
        assert all(f.stop - f.at == PER for f in files)
    assert made[1].figures()[0].image().shape[2] == 3  # from shades of grey


def test_a_swapped_memory_never_saw_the_image_that_is_asked_about(tmp_path: Path) -> None:
    lines = []
    for number in range(6):
        Image.new("RGB", (20, 20)).save(tmp_path / f"{number}.png")
        lines += [{"image": f"{number}.png", "question": q, "answer": f"{number} {q}"} for q in ("what?", "where?")]
    file = tmp_path / "asked.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    for others in (0, 1):
        documents = list(ImageOpen(str(file), others=others).documents(source(Words()), 300, 24))
        lent = 0
        for lender, asks in enumerate(_plan(documents, ["swapped"])):
            held = {picture.path for picture in documents[lender].items.given}
            for ask in asks:
                if ask.control == "swapped":
                    assert documents[ask.document].items.given[0].path not in held
                    lent += 1
        assert lent == 24
    one, other = next(ImageNeedle().documents(source(Words()), 300, 1)), documents[0]
    assert not one.gives_away(other)  # tasks that run together
    assert not other.gives_away(one)


def test_images_are_shown_as_they_are_read(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (10, 20, 30, 0)).save(tmp_path / "clear.png")
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "deep.png")
    for name, value in (("clear.png", 255), ("deep.png", 156)):
        shown = FilePicture(str(tmp_path / name))()
        assert (shown == value).all()
        assert (shown == np.asarray(open_image(tmp_path / name))).all()
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "real.tif")
    with pytest.raises(ValueError, match=r"real.tif: expected an image file, got: float32 \(mode F\)"):
        FilePicture(str(tmp_path / "real.tif"))()


def test_files_as_other_programs_write_them(album: Path) -> None:
    said = json.dumps({"image": "0.png", "question": "one\u2028two", "answer": "x"}, ensure_ascii=False)
    album.write_bytes(b"\xef\xbb\xbf" + said.encode() + b"\r\n")
    assert [entry.question for entry in load(album)] == ["one\u2028two"]
    album.write_bytes(said.replace("\u2028", "\xe9").encode("latin-1"))
    with pytest.raises(ValueError, match=r"asked\.jsonl: expected UTF-8 text, got another byte at offset"):
        load(album)
    album.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="line 1: expected a flat object"):
        load(album)


def test_what_a_file_says_is_part_of_the_settings(album: Path) -> None:
    one = ImageOpen(str(album)).settings()
    assert one["file"].startswith("asked.jsonl ")
    album.write_text(album.read_text().replace("What", "Where"))
    assert ImageOpen(str(album)).settings()["file"] != one["file"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1: expected JSON"),
        ("[]", "line 1: expected an object, got list"),
        ('{"image": "0.png", "question": "?"}', r"line 1: expected an image, a question and answers as texts, got \["),
        ('{"image": "0.png", "question": "?", "answers": [3]}', "answers as texts"),
        ('{"image": "9.png", "question": "?", "answer": "x"}', "expected an image at .*9.png, got no file"),
        ("", "at least one question, got none"),
    ],
)
def test_a_faulty_line_is_named(album: Path, line: str, said: str) -> None:
    album.write_text(line)
    with pytest.raises(ValueError, match=said):
        load(album)


def test_faulty_images_and_settings_are_one_clear_error(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = album.parent / "whole.jpg"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(whole)
    cut = album.parent / "cut.jpg"
    cut.write_bytes(whole.read_bytes()[:-500])
    assert FilePicture(str(whole))().shape == (64, 64, 3)
    for path in (cut, album, album.parent / "none.png"):
        with pytest.raises(ValueError, match=f"{path.name}: expected an image file, got: .*replace it"):
            FilePicture(str(path))()
    for most in (3000, 1000):  # above the limit PIL warns, above twice the limit it refuses
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        with pytest.raises(ValueError, match=r"at most [13],000 pixels, got a larger one"):
            FilePicture(str(whole))()
    for fields, said in (
        ({"metric": "bleu"}, "expected one of exact"), ({"depths": 0}, "from 1, got 0"),
        ({"others": 16}, "0 to 15, got 16"), ({"max_tokens": 0}, "from 1"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            ImageOpen(str(album), **fields)
    with pytest.raises(ValueError, match="images of more than 3 files, got 3"):
        ImageOpen(str(album), others=3).documents(source(Words()), 300, 1)
    with pytest.raises(ValueError, match="got '', which is no file"):
        ImageOpen().settings()
