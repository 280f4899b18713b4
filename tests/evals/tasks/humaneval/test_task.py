"""The task: prompts verbatim, samples with seeds of their own, specifications spread over documents, and whole runs."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from evals import load_rows, run
from evals.breakdowns import breakdowns
from evals.scorers import assess
from evals.tasks.humaneval.specification import notes, without
from evals.tasks.humaneval.task import HumanEval, sample_seed
from evals.tasks.registry import create
from tests.evals.tasks.humaneval.made import MADE, Programmer, source, spelled, trusting, write

__all__ = ["trusting"]  # a fixture
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")


@pytest.fixture
def file(tmp_path):
    return str(write(tmp_path / "HumanEval.jsonl.gz"))


def made(task, length=0, count=3, first=0, seed=0):
    return list(task.documents(source(seed=seed), length, count, first))


def test_at_length_0_the_prompt_is_the_benchmarks(file, trusting):
    for document, item in zip(made(HumanEval(file)), MADE, strict=True):
        (question,) = document.questions
        assert (document.length, len(document.tokens())) == (0, 0)
        assert spelled(question.ids) == item.prompt == question.text
        assert question.answers == (item.test, item.entry_point)
        assert (question.stop, question.max_tokens, question.sampling) == (STOPS, 512, None)
        assert question.about == {"problem": item.task_id, "sample": 0}


def test_behind_text_the_specification_is_in_the_document(file, trusting):
    for document, item in zip(made(HumanEval(file), 700), MADE, strict=True):
        (question,) = document.questions
        text, parts = spelled(document.tokens()), notes(item.prompt, item.entry_point)
        assert len(text) == document.length == 700
        assert [spelled(document.tokens(*span)) for span in question.evidence] == ["\n" + part for part in parts]
        assert all(one[1] <= other[0] for one, other in pairwise(question.evidence))
        assert text.replace(".", "") == "".join("\n" + part for part in parts).replace(".", "")
        assert spelled(question.ids) == "\n\n" + without(item.prompt, item.entry_point)
        assert question.text == item.prompt, "what is checked is the benchmark's program"
    with pytest.raises(ValueError, match="expected room for the"):
        made(HumanEval(file), 20)


def test_seeds_follow_from_run_problem_and_sample_alone(file, trusting):
    task = HumanEval(file, samples=4, temperature=0.8)
    whole = [[q.sampling for q in d.questions] for d in made(task)]
    assert [[q.sampling for q in d.questions] for d in made(task, count=1, first=2)] == whole[2:]
    assert [[q.sampling for q in d.questions] for d in made(task, 700, count=2)] == whole[:2]
    more = HumanEval(file, samples=6, temperature=0.8)
    assert [[q.sampling for q in d.questions][:4] for d in made(more)] == whole
    seeds = [way.seed for ways in whole for way in ways]
    assert len({seed for seed in seeds if 0 <= seed < 2**63}) == 12
    assert {(way.temperature, way.top_p) for ways in whole for way in ways} == {(0.8, 0.95)}
    other = [q.sampling.seed for d in made(task, seed=1) for q in d.questions]
    assert not set(other) & set(seeds)
    assert sample_seed(0, "HumanEval/1", 11) != sample_seed(0, "HumanEval/11", 1)
    for n in range(3):  # nor do prompts and places
        (alone,), document = made(task, 700, count=1, first=n), made(task, 700)[n]
        assert (alone.tokens() == document.tokens()).all()


def test_settings_are_those_that_change_answers(file, tmp_path, trusting):
    plain = str(write(tmp_path / "other.jsonl"))
    assert HumanEval(file).settings() == HumanEval(plain).settings() == HumanEval(file, top_p=0.5).settings()
    base = {"samples": 2, "temperature": 0.8}
    changes = [{"samples": 3}, {"temperature": 0.2}, {"top_p": 0.5}, {"max_tokens": 9}, {"fences": True}]
    keys = {json.dumps(HumanEval(file, **(base | change)).settings()) for change in [{}, *changes]}
    assert len(keys) == 6
    whole = create(f"humaneval:files={file},temperature=1,top_p=1").settings()
    assert json.dumps(whole) == json.dumps(HumanEval(file, temperature=1.0, top_p=1.0).settings())
    write(tmp_path / "other.jsonl", MADE[:2])
    assert HumanEval(plain).settings() != HumanEval(file).settings()
    assert create(f"humaneval:files={file},samples=2,temperature=0.5") == HumanEval(file, samples=2, temperature=0.5)
    asked = made(create(f"humaneval:files={file},fences=true"))[0].questions[0]
    assert (asked.stop, asked.scorer) == ((), "humaneval:fences")


def test_what_cannot_be_asked_is_refused(file, trusting):
    refused = {
        "humaneval: expected the benchmark's file, got none; download https://github.com/openai/human-eval": {},
        "expected one of them, got both": {"files": file, "hub": "x"},
        "samples: expected 1 at temperature 0": {"files": file, "samples": 2},
        "samples: expected at least 1": {"files": file, "samples": 0},
        "max_tokens: expected at least 1": {"files": file, "max_tokens": 0},
        "temperature: expected at least 0": {"files": file, "temperature": -1.0},
        "top_p: expected more than 0": {"files": file, "temperature": 1.0, "top_p": 0.0},
    }
    for wrong, settings in refused.items():
        with pytest.raises(ValueError, match=wrong):
            HumanEval(**settings)
    with pytest.raises(ValueError, match="expected problems for 4 documents, got 3"):
        made(HumanEval(file), count=2, first=2)
    with pytest.raises(ValueError, match="length: expected at least 0"):
        made(HumanEval(file), -1)


def test_nothing_is_read_where_nothing_isolates(file, monkeypatch):
    given = []

    def box(consent):
        given.append(consent)
        if not consent:
            raise ValueError("nothing isolates")

    monkeypatch.setattr("evals.tasks.humaneval.scoring.box", box)
    with pytest.raises(ValueError, match="nothing isolates"):
        HumanEval(file).documents(source(), 0, 1)
    HumanEval(file, unsandboxed=True).documents(source(), 0, 1)
    assert given == [False, True]


def test_a_run_passes_what_is_right_at_all_lengths(file, tmp_path, trusting):
    model = Programmer()
    cells = run(model, [HumanEval(file)], source=source(), lengths=[0, 700], n=3, folder=tmp_path / "run")
    rates = {(cell.length, cell.control): cell.rate for cell in cells}
    assert rates == {(0, "memory"): 1.0, (700, "memory"): 1.0, (700, "zeroed"): 0.0}
    passes, verdicts = breakdowns(load_rows(tmp_path / "run" / "rows.jsonl"))
    assert [line[:3] for line in passes.lines] == [(0, 3, 1), (700, 3, 1)]
    assert verdicts.lines == ((0, "none", 3, 0, 0, 0, 0, 0), (700, "none", 3, 0, 0, 0, 0, 0))


def test_a_killed_run_goes_on_and_is_the_unbroken_one(file, tmp_path, trusting):
    task = HumanEval(file, samples=5, temperature=0.7)
    run(Programmer(), [task], source=source(), lengths=[0, 700], n=3, folder=tmp_path / "whole")
    killed = Programmer(fails_after=17)
    with pytest.raises(KeyboardInterrupt):
        run(killed, [task], source=source(), lengths=[0, 700], n=3, folder=tmp_path / "broken")
    rows = tmp_path / "broken" / "rows.jsonl"
    assert 0 < len(load_rows(rows)) < 45
    with rows.open("a") as file_:
        file_.write('{"task": "humaneval", "len')  # half a line
    again = Programmer()
    run(again, [task], source=source(), lengths=[0, 700], n=3, folder=tmp_path / "broken")
    assert rows.read_text() == (tmp_path / "whole" / "rows.jsonl").read_text()
    assert len(again.asked) < 45
    scores = [row.score for row in load_rows(rows) if not row.length]
    assert 0 < sum(scores) < len(scores)


def test_a_row_is_scored_again_from_the_log_alone(file, tmp_path, trusting):
    run(
        Programmer(),
        [HumanEval(file, samples=4, temperature=1.0)],
        source=source(),
        lengths=[0, 700],
        n=3,
        folder=tmp_path,
    )
    for row in load_rows(tmp_path / "rows.jsonl"):
        again = assess(row.scorer, row.answered, row.expected, row.asked)
        assert again.score == row.score
        assert {**row.detail, **again.detail} == row.detail


def test_a_run_in_the_sandbox_says_what_isolated_it(file, tmp_path):
    task = HumanEval(file, samples=4, temperature=1.0, unsandboxed=True)
    run(Programmer(), [task], source(), lengths=[0, 700], n=3, folder=tmp_path, controls=[])
    rows = load_rows(tmp_path / "rows.jsonl")
    for row in rows:
        right = row.answered in [item.canonical_solution for item in MADE]
        assert row.detail["outcome"] == ("passed" if right else "failed")
        assert row.detail["isolation"]
    assert {row.correct for row in rows} == {True, False}
