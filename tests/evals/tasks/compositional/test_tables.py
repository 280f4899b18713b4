"""Breakdowns of compositional tasks: by size, by depth, by layer, from rows made by hand and from a log."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evals.breakdowns import BREAKDOWNS, Estimate, breakdowns
from evals.rows import Row
from evals.stats import bootstrap, wilson
from evals.tasks.compositional.tables import tables


def row(document, score, size, depth, length=0, control="memory", question=0, **detail):
    return Row(
        "multiplication", length, control, document, question, f"d{document}", f"d{document}", ("1",), "1", score,
        "multiplication", "1*1", detail={"size": size, "depth": depth, **detail},
    )  # fmt: skip


def test_accuracy_by_size_and_by_depth():
    rows = [row(i, float(i < 3), "2x2", 7, first=True, last=i < 6) for i in range(8)]
    rows += [row(8 + i, 1.0, "10x1", 23, first=True, last=True) for i in range(4)]
    rows += [row(i, 0.0, "2x2", 7, length=300, first=False, last=False) for i in range(5)]
    rows += [row(i, 1.0, "2x2", 7, length=300, control="zeroed", first=True, last=True) for i in range(5)]
    by_size, by_depth = tables(rows)
    assert by_size.columns == ("tokens", "size", "accuracy", "first digit", "last digit")
    assert by_size.lines == (
        (0, "2x2", Estimate(3 / 8, wilson(3, 8), 8), Estimate(1, wilson(8, 8), 8), Estimate(6 / 8, wilson(6, 8), 8)),
        (0, "10x1", *[Estimate(1, wilson(4, 4), 4)] * 3),
        (300, "2x2", *[Estimate(0, wilson(0, 5), 5)] * 3),
    )
    assert by_depth.columns == ("tokens", "depth", "accuracy")
    assert [line[:2] for line in by_depth.lines] == [(0, 7), (0, 23), (300, 7)]
    assert by_depth.lines[0][2] == Estimate(3 / 8, wilson(3, 8), 8)


def test_questions_of_one_document_and_partial_scores_are_resampled_together():
    scores = [0.5, 1.0, 0.0, 0.25]
    ((by_size), _) = tables([row(i // 2, score, "2x2", 7, question=i % 2) for i, score in enumerate(scores)])
    interval = bootstrap(scores, clusters=[0, 0, 1, 1], resamples=2000)
    assert by_size.lines[0][2] == Estimate(0.4375, interval, 4)


def test_places_that_two_calls_gave_to_different_documents_make_them_no_cluster():
    """The first call asked two lengths (documents 4 to 7), the second the longer one alone (new ones are 4 to 7)."""
    layers = {"1": {"correct": 1, "local": 1}}
    rows = [row(4 + i, float(i < 2), "2x2", 7, layers=layers, unsaid=0) for i in range(4)]
    rows += [replace(each, digest=f"new {each.digest}") for each in rows]
    by_size, _, labels = tables(rows)
    assert by_size.lines[0][2] == Estimate(0.5, wilson(4, 8), 8)
    interval = bootstrap([1.0, 0.0] * 8, clusters=[i // 2 for i in range(16)], resamples=2000)
    assert labels.lines[0][3] == Estimate(0.5, interval, 16)


def test_labels_by_layer():
    good = {"1": {"correct": 2}, "2": {"correct": 2}, "10": {"correct": 1}}
    bad = {"1": {"correct": 1, "local": 1}, "2": {"propagation": 1}}
    rows = [row(i, 1.0, "2x2", 10, layers=good, unsaid=0) for i in range(3)]
    rows += [row(3, 0.0, "2x2", 10, layers=bad, unsaid=2), row(4, 0.0, "2x2", 10, layers={}, unsaid=5)]
    *_, labels = tables(rows)
    assert labels.columns == ("tokens", "layer", "nodes", "correct", "local", "propagation", "restoration", "stated")
    assert [line[1:3] for line in labels.lines] == [("all", 18), ("1", 8), ("2", 7), ("10", 3)]
    every, first, second, last = labels.lines
    assert [entry.value for entry in every[3:7]] == pytest.approx([16 / 18, 1 / 18, 1 / 18, 0])
    assert every[7].value == pytest.approx(18 / 25)
    assert every[7].n == 25
    assert [entry.value for entry in first[3:7]] == [7 / 8, 1 / 8, 0, 0]
    assert [entry.value for entry in second[3:7]] == pytest.approx([6 / 7, 0, 1 / 7, 0])
    assert first[3].interval == bootstrap([1.0] * 7 + [0.0], clusters=[0, 0, 1, 1, 2, 2, 3, 3], resamples=2000)
    assert last[3] == Estimate(1, wilson(3, 3), 3)  # as many as there are documents, not nodes
    assert first[7] is None


def test_a_scratchpad_that_states_nothing():
    *_, labels = tables([row(0, 0.0, "1x1", 5, layers={}, unsaid=5)])
    assert labels.lines == ((0, "all", 0, None, None, None, None, Estimate(0, wilson(0, 1), 5)),)


def test_nothing_to_say():
    assert tables([]) == []
    assert tables([row(0, 1.0, "1x1", 5, control="zeroed")]) == []


def test_they_are_registered():
    assert {"multiplication", "dp"} <= set(BREAKDOWNS)
    found = breakdowns([row(0, 1.0, "1x1", 5)])
    assert [(table.task, table.title) for table in found] == [
        ("multiplication", "Accuracy by size"), ("multiplication", "Accuracy by depth"),
    ]  # fmt: skip
