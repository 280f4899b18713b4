"""Published files, as CSV, JSON lines, a folder and a dataset; and what is no such file."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from evals.tasks.corr2cause.files import load, load_hub
from evals.tasks.corr2cause.task import Corr2Cause
from tests.evals.tasks.corr2cause.test_words import COLLIDER, FORKED
from tests.evals.words import Words, source

ROWS = [
    {"input": f"Premise: {COLLIDER}\nHypothesis: A directly causes C.", "label": 1},
    {"input": f"Premise: {COLLIDER}\nHypothesis: C directly causes B.", "label": 0},
    {"input": f"Premise: {FORKED}\nHypothesis: B influences A through some mediator(s).", "label": 0},
    {"input": f"Premise: {COLLIDER}\nHypothesis: A directly causes C.", "label": 1},
]


def as_csv(path: Path, rows: list[dict[str, Any]]) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def as_lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_csv_json_lines_and_folder_say_the_same(tmp_path: Path) -> None:
    rows = [{**row, "num_variables": 3, "template": "parent"} for row in ROWS]
    asked, digest = load(as_csv(tmp_path / "test.csv", rows))
    assert load(as_lines(tmp_path / "test.jsonl", rows))[0] == asked == load(str(tmp_path))[0]
    assert len(asked) == 3  # the last is there twice
    assert [one.entailed for one in asked] == [True, False, False]
    assert [one.hypothesis.relation for one in asked] == ["parent", "child", "non-child descendant"]
    assert [one.hypothesis.pair for one in asked] == [("A", "C"), ("B", "C"), ("A", "B")]
    assert asked[0].premise.text == COLLIDER
    assert asked[2].premise.text == FORKED
    assert len(asked[2].premise.parts) == 1 + 6 + 4
    as_csv(tmp_path / "perturbation_by_paraphrasing_test.csv", rows[2:3])
    assert len(load(str(tmp_path), "paraphrase")[0]) == 1
    assert digest != load(str(tmp_path), "paraphrase")[1]
    with pytest.raises(ValueError, match="perturb: expected none with a single file, got 'refactor'"):
        load(str(tmp_path / "test.csv"), "refactor")  # it would be read as it is, and called refactored


def test_a_task_of_a_file_asks_its_lines_with_its_labels(tmp_path: Path) -> None:
    path = as_csv(tmp_path / "test.csv", [{**row, "label": 1} for row in ROWS])  # right or wrong
    task = Corr2Cause(files=path, variables="3")
    words = Words()
    made = list(task.documents(source(words, bare=True), 0, 2))
    assert {words.decode(document.questions[0].ids) for document in made} == {
        " ".join(str(row["input"]).split()) for row in ROWS[:2]
    }
    assert all(document.questions[0].answers == ("Yes",) for document in made)
    assert task.settings()["files"] == load(path)[1]
    (long,) = task.documents(source(words), 500, 1)
    assert len(long.inserts) == 4
    with pytest.raises(ValueError, match="expected at most 2 problems"):
        task.documents(source(words), 0, 3)
    with pytest.raises(ValueError, match="expected at most 0 problems"):
        Corr2Cause(files=path, balanced=True).documents(source(words), 0, 1)


def test_a_balanced_file_stays_balanced_for_some_of_its_sizes(tmp_path: Path) -> None:
    two = "Suppose there is a closed system of 2 variables, A and B. All the statistical relations among these 2 "
    two += "variables are as follows: A correlates with B."
    said = [f"{cause} directly causes {effect}." for cause, effect in ("AC", "BC", "AB")]
    rows = [{"input": f"Premise: {COLLIDER}\nHypothesis: {text}", "label": 1} for text in said]
    other = f"{COLLIDER} A and B are independent given C."
    rows += [{"input": f"Premise: {other}\nHypothesis: {text}", "label": 0} for text in said[:2]]
    rows += [{"input": f"Premise: {two}\nHypothesis: {text}", "label": 0} for text in ("A directly causes B.",)]
    path = as_csv(tmp_path / "test.csv", rows)
    for seed in range(6):
        task = Corr2Cause(files=path, balanced=True, variables="3")
        answers = [document.questions[0].answers for document in task.documents(source(Words(), seed=seed), 0, 4)]
        assert answers == [("Yes",), ("No",)] * 2


def test_the_hub_is_asked_for_its_test_split(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    calls: list[tuple[Any, ...]] = []

    def fake(*args: Any, **named: Any) -> list[dict[str, Any]]:
        calls.append((*args, named["split"]))
        if args[0] == "gone":
            raise FileNotFoundError("no such dataset")
        return ROWS

    monkeypatch.setattr(datasets, "load_dataset", fake)
    load_hub.cache_clear()
    task = Corr2Cause(hub="causalnlp/corr2cause", perturb="refactor")
    assert len(list(task.documents(source(Words()), 0, 3))) == 3
    assert calls == [("causalnlp/corr2cause", "perturbation_by_refactorization", "test")]
    assert task.settings()["hub"][0] == "causalnlp/corr2cause"
    with pytest.raises(ValueError, match="hub: expected a dataset such as causalnlp/corr2cause"):
        load_hub("gone")
    load_hub.cache_clear()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"text": "a", "label": 1}], "expected columns input and label"),
        ([{"input": ROWS[0]["input"], "label": 2}], "a label of 0 or 1 in line 1"),
        ([{"input": "Premise: A. Hypothesis: B.", "label": 0}], "in line 1: premise: expected"),
        ([ROWS[0], {"input": f"Premise: {FORKED}", "label": 0}], "in line 2: hypothesis: expected"),
        ([ROWS[0], {**ROWS[0], "label": 0}], "got two for that of line 2"),
    ],
)
def test_refuses_what_is_malformed(tmp_path: Path, rows: list[dict[str, Any]], said: str) -> None:
    for path in (as_csv(tmp_path / "a.csv", rows), as_lines(tmp_path / "a.jsonl", rows)):
        with pytest.raises(ValueError, match=said):
            load(path)


def test_refuses_what_is_no_file(tmp_path: Path) -> None:
    for path in (str(tmp_path), str(tmp_path / "none.csv"), str(tmp_path / "a.txt")):
        with pytest.raises(ValueError, match=r"files: expected a \.csv or \.jsonl file"):
            load(path)
    for name, text in (("a.jsonl", "{"), ("b.jsonl", "[1]"), ("c.csv", "")):
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match="expected"):
            load(str(tmp_path / name))
    (tmp_path / "d.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="expected CSV or JSON lines"):
        load(str(tmp_path / "d.csv"))
