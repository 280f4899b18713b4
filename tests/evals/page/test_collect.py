"""Folders into runs: what belongs together, what is known of it, and what is refused."""

from __future__ import annotations

import json

import pytest

from evals import load_rows, run, tally
from evals.models import Truncated
from evals.page import collect
from evals.page.collect import label
from evals.rows import Row
from tests.evals.page import made
from tests.evals.words import Codes, Remembers, Words, source


def old(path, model="abc bfloat16", length=64_000, n=4, seed=0):
    """Rows as `rmt eval memory` wrote them first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"format": "evals.rows/1", "key": f"{model}{length}", "model": model, "settings": {"seed": seed}}
    rows = [
        {"task": "memorize", "length": length, "control": "memory", "document": i, "question": 0,
         "digest": f"d{seed} {length} {i}", "source": f"d{i}", "expected": 2, "answered": 2 - i % 2}
        for i in range(n)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in [header, *rows]))
    return path


def test_a_run_of_the_harness_is_read_whole(tmp_path):
    words = Words()
    model = Remembers(words, segment=50)
    for part in (0, 1):
        run(model, [Codes(chance=0.001)], source(words), lengths=[300], n=6, folder=tmp_path, part=(part, 2))
    (found,) = collect([tmp_path])
    assert (found.name, found.fingerprint, found.segment) == ("remembers", "remembers None", 50)
    assert found.chance == {"codes": 0.001}
    assert sum(cost.documents for cost in found.costs) == 6
    assert list(found.rows) == load_rows(tmp_path / "rows.jsonl")
    assert tally(found.rows)[0].n == 6


def test_a_truncated_document_has_no_count_of_updates(tmp_path):
    words = Words()
    run(Truncated(Remembers(words, segment=50), 100), [Codes()], source(words), lengths=[300], n=2, folder=tmp_path)
    (found,) = collect([tmp_path])
    assert found.segment is None


def test_old_rows_are_read_from_a_file_of_any_name(tmp_path):
    (found,) = collect([old(tmp_path / "docs" / "minilm-rmt.rows.jsonl")])
    assert (found.name, found.segment, found.costs) == ("minilm-rmt", None, ())
    assert found.chance == {"memorize": 1 / 6}
    assert label(found.rows[0], 2) == "garden"
    assert label(found.rows[0], -1) == "no place"
    old(tmp_path / "eval" / "rows.jsonl")
    (tmp_path / "eval" / "results.json").write_text('{"model": "/models/mine", "dtype": "bfloat16", "cells": []}')
    (found,) = collect([tmp_path / "eval"])
    assert (found.name, found.about) == ("mine", {"dtype": "bfloat16"})


def test_labels_of_other_tasks_are_as_they_are():
    row = Row("qa1", 9, "memory", 0, 0, "d", "d", ("a", "b"), "x", 1.0, "exact")
    assert (label(row, row.expected), label(row, 2), label(row, 0.123456)) == ("a · b", "2", "0.1235")


def test_lengths_of_one_model_are_put_together(tmp_path):
    short, long = old(tmp_path / "a" / "rows.jsonl"), old(tmp_path / "b" / "rows.jsonl", length=1_000_000)
    other = old(tmp_path / "c" / "rows.jsonl", model="xyz")
    runs = collect([short, other, long])
    assert [(r.name, len(r.rows)) for r in runs] == [("a", 8), ("c", 4)]
    named = collect([f"one={short}", f"two={long}"])  # names say that they are to stand apart
    assert [r.name for r in named] == ["one", "two"]
    again = old(tmp_path / "d" / "rows.jsonl", seed=1)  # the same cells under another seed do not mix
    assert [len(r.rows) for r in collect([short, again])] == [4, 4]
    # nor do they by way of a third folder, which has the settings of one and the lengths of another
    far = old(tmp_path / "e" / "rows.jsonl", length=1_000_000, seed=1)
    assert [len(r.rows) for r in collect([short, far, old(tmp_path / "f" / "rows.jsonl", seed=1)])] == [8, 4]


def test_names_are_told_apart(tmp_path):
    a, b = old(tmp_path / "a" / "rows.jsonl", "abcdefgh"), old(tmp_path / "b" / "rows.jsonl", "xyzxyzxyz")
    assert [r.name for r in collect([f"m={a}", f"m={b}"])] == ["m abcdef", "m xyzxyz"]
    c = old(tmp_path / "c" / "rows.jsonl", "abcdefgh", seed=1)
    assert [r.name for r in collect([f"m={a}", f"m={c}"])] == ["m", "m #2"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "got nothing there"),
        ("", "got nothing there"),
        ("{}\n", "expected a row of"),
        ("\x89PNG\n", "expected a row of"),
        ('{"format":"evals.rows/2","key":"k","model":"m","settings":{}}\n', "got a header alone"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path, content, said):
    if content is not None:
        (tmp_path / "rows.jsonl").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=said):
        collect([tmp_path])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"control": "other"}, "expected a control out of memory"),
        ({"evidence": [[5, 70_000]]}, "evidence inside the document"),
        ({"length": "long"}, "expected a "),  # by the types, or by the check itself
        ({"score": "high"}, "expected a "),
        ({"score": float("nan")}, "expected scores that are numbers, got nan"),
        ({"score": float("inf")}, "expected scores that are numbers, got inf"),
        ({"length": -1}, "expected a score"),
        ({"length": 0, "evidence": [[0, 1]]}, "expected a score"),
    ],
)
def test_rows_that_cannot_be_are_refused(tmp_path, change, said):
    path = old(tmp_path / "rows.jsonl", n=1)
    head, row = path.read_text().splitlines()
    path.write_text(head + "\n" + json.dumps({**json.loads(row), **change}) + "\n")
    with pytest.raises(ValueError, match=said):
        collect([path])


def test_the_rest_that_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one folder"):
        collect([])
    folder = made.run(tmp_path / "a")
    with pytest.raises(ValueError, match="each run once"):
        collect([folder, folder / "rows.jsonl"])
    (folder / "run.json").write_text("[1]")
    with pytest.raises(ValueError, match="expected an object of JSON"):
        collect([folder])


def test_a_question_counts_once_where_runs_of_different_size_are_joined(tmp_path):
    from evals import run
    from tests.evals.words import Codes, Remembers, Words, source

    words = Words()
    for name, n in (("few", 3), ("many", 9)):
        run(Remembers(words), [Codes()], source(words), lengths=[300], n=n, folder=tmp_path / name)
    (joined,) = collect([tmp_path / "few", tmp_path / "many"])
    assert {control: sum(row.control == control for row in joined.rows) for control in ("memory", "swapped")} == {
        "memory": 9,
        "swapped": 9,
    }
