"""``rmt eval images`` and image tasks of ``rmt eval run``, from end to end, on a tiny model that sees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evals import load_rows
from evals.cost import load_costs
from tests.rmt.cli.pictures_kit import SEGMENT, TOKENS


@pytest.fixture
def base(seeing, document):
    """Short documents with few distractors."""
    return (
        "eval", "images", "--model", seeing, "--text", document, "--lengths", 100, "--n", 2, "--distractors", 20,
        "--sentences", 10, "--no-progress",
    )  # fmt: skip


def cells(folder: Path) -> dict:
    result = json.loads((folder / "results.json").read_text())
    return {(c["task"], c["length"], c["control"]): c for c in result["cells"]}


def test_tasks_controls_and_tables(rmt, base, tmp_path):
    out = tmp_path / "out"
    done = rmt(*base, "--tasks", "needle,tagged,counting,unanswerable", "--k", "2", "--out", out)
    assert done.exit_code == 0, done.output
    found = cells(out)
    tasks = ("image_needle", "image_tagged", "image_counting", "image_unanswerable")
    assert {task for task, *_ in found} == set(tasks)
    assert {control for _, _, control in found} >= {"memory", "zeroed", "shuffled"}
    assert found["image_tagged", 100, "memory"]["n"] == 2 * 2 * 2  # documents, pictures, attributes
    assert "low" in json.dumps(found["image_needle", 100, "memory"])
    result = json.loads((out / "results.json").read_text())
    assert {table["task"] for table in result["breakdowns"]} == set(tasks)
    about = json.loads((out / "run.json").read_text())
    assert about["segment"] == SEGMENT
    assert about["chance"]["image_needle"] == pytest.approx((1 / 10 + 1 / 8) / 2)
    page = rmt("report", out, "-o", tmp_path / "page.html")
    assert page.exit_code == 0, page.output
    said = (tmp_path / "page.html").read_text()
    assert all(task in said for task in tasks)
    before = (out / "rows.jsonl").read_bytes(), load_costs(out / "cost.jsonl")
    assert rmt(*base, "--tasks", "needle,tagged,counting,unanswerable", "--k", "2", "--out", out).exit_code == 0
    assert ((out / "rows.jsonl").read_bytes(), load_costs(out / "cost.jsonl")) == before, "a finished run did more"


def test_a_broken_run_goes_on(rmt, base, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert rmt(*base, "--tasks", "needle", "--out", whole).exit_code == 0
    assert rmt(*base, "--tasks", "needle", "--n", 1, "--out", broken).exit_code == 0
    assert rmt(*base, "--tasks", "needle", "--out", broken).exit_code == 0
    rows = ({row.key: row.answered for row in load_rows(out / "rows.jsonl")} for out in (whole, broken))
    assert next(rows) == next(rows)


def test_a_text_that_says_image_is_no_image(rmt, base, document, tmp_path):
    document.write_text(document.read_text().replace("wall", "<image>"))
    done = rmt(*base, "--tasks", "needle", "--out", tmp_path, "--controls", "none")
    assert done.exit_code == 0, done.output


def test_segments_are_a_length_in_segments_of_the_model(rmt, base, tmp_path):
    done = rmt(*base, "--tasks", "tagged", "--k", "4", "--segments", "16", "--out", tmp_path, "--controls", "none")
    assert done.exit_code == 0, done.output
    ((_, length, control),) = cells(tmp_path)
    assert (length, control) == (16 * SEGMENT, "memory")
    assert cells(tmp_path)["image_tagged", length, "memory"]["n"] == 2 * 4 * 2


def test_any_number_of_tasks_by_their_names(rmt, seeing, document, tmp_path):
    base = ("--model", seeing, "--text", document, "--lengths", 80, "--n", 1, "--no-progress", "--out", tmp_path)
    done = rmt("eval", "run", "image_needle:depths=1,distractors=30,sentences=0", "perplexity", *base)
    assert done.exit_code == 0, done.output
    found = cells(tmp_path)
    assert {task for task, *_ in found} == {"image_needle", "perplexity"}
    rows = [row for row in load_rows(tmp_path / "rows.jsonl") if row.task == "image_needle"]
    assert all(stop - start == TOKENS and start == 0 for row in rows for start, stop in row.evidence)


@pytest.mark.parametrize("kind", ["{}", "truncate:{},size=50"])
def test_models_of_text_are_refused_before_anything_is_read(rmt, seeing, language_model, document, tmp_path, kind):
    model = kind.format(language_model if kind == "{}" else seeing)
    base = ("--text", document, "--lengths", 100, "--n", 1, "--no-progress", "--out", tmp_path / "out")
    for command in (("images", "--tasks", "needle"), ("run", "image_needle")):
        done = rmt("eval", *command, "--model", model, *base)
        assert done.exit_code == 2
        assert "expected a model that sees, for image_needle, got" in done.output
        assert done.output.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--tasks", "paper"), "--tasks: expected some of needle, tagged, counting, unanswerable, open, got 'paper'"),
        (("--tasks", "tagged", "--k", "9"), "images: expected 1 to 8 with a tag of frame, got 9"),
        (("--tasks", "tagged", "--k", "two"), "images: expected numbers joined by +"),
        (("--tasks", "needle", "--ask", "shape"), "ask: expected one of both, digit, color, got 'shape'"),
        (("--tasks", "needle", "--lengths", "3"), "length: expected at least"),
        (("--tasks", "needle", "--lengths", "1M"), "background: expected at least 1,000,000 tokens"),
        (("--tasks", "needle", "--segments", "many"), "--segments: expected numbers"),
    ],
)
def test_bad_input_is_one_line(rmt, base, tmp_path, options, said):
    done = rmt(*base, *options, "--out", tmp_path)
    assert done.exit_code == 2
    assert said in done.output
    assert done.output.count("\n") == 1


def test_an_image_that_cannot_be_read_is_named(rmt, base, tmp_path):
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    line = {"image": str(tmp_path / "cut.jpg"), "question": "what is it?", "answers": ["a cat"]}
    (tmp_path / "asked.jsonl").write_text(json.dumps(line) + "\n")
    done = rmt(*base, "--tasks", "open", "--file", tmp_path / "asked.jsonl", "--n", 1, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "cut.jpg" in done.output
    assert done.output.count("\n") == 1
