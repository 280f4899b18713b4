"""``rmt eval run`` from end to end: killed, continued, shared, scored again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evals import load_rows
from evals.cost import load_costs
from evals.rows import Row, RowLog

ROOT = Path(__file__).parents[3]


def command(*arguments: object, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    line = [sys.executable, "-m", *launcher, "rmt.cli", *map(str, arguments), "--no-progress"]
    return subprocess.Popen(line, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-3000:]
    return out


@pytest.fixture
def base(classifier, document):
    def arguments(out: Path, n: int = 8) -> tuple[object, ...]:
        return (
            "eval", "run", "paper", "--model", classifier, "--text", document, "--lengths", "150,300", "--n", n,
            "--out", out,
        )  # fmt: skip

    return arguments


def rows(out: Path) -> dict:
    return {row.key: row for row in load_rows(out / "rows.jsonl")}


def test_run_and_score_again(rmt, base, tmp_path):
    done = rmt(*base(tmp_path / "out", 2), "--no-progress", "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result == json.loads((tmp_path / "out" / "results.json").read_text())
    assert {(c["task"], c["length"]) for c in result["cells"]} == {
        (task, length) for task in ("memorize", "detect", "reasoning") for length in (150, 300)
    }
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"rows.jsonl", "cost.jsonl", "run.json", "results.json"}
    assert json.loads((tmp_path / "out" / "run.json").read_text())["segment"] == 16
    again = rmt("eval", "rescore", tmp_path / "out", "--json")
    assert json.loads(again.stdout)["cells"] == result["cells"]
    assert json.loads(again.stdout)["changed"] == 0
    other = rmt("eval", "rescore", tmp_path / "out", "--scorer", "value")
    assert other.exit_code != 0  # a place is no number


def test_a_task_beyond_the_answers_of_a_model_is_named(rmt, classifier, document, tmp_path):
    base = ("--model", classifier, "--text", document, "--lengths", 300, "--n", 1, "--no-progress")
    said = rmt("eval", "run", "qa5", "needle", "needle:kind=places", *base, "--out", tmp_path / "twice")
    assert said.exit_code == 2
    assert "expected each once, got needle twice" in said.output
    said = rmt("eval", "run", "paper", "qa5", *base, "--out", tmp_path / "out")
    assert said.exit_code == 0, said.output
    assert "No right answer to qa5 is among those of this model: office, kitchen" in said.output


def test_the_answers_are_those_of_the_labels(rmt, base, tmp_path):
    """The same documents, asked in words here and for a label by `rmt eval memory`."""
    arguments = base(tmp_path / "words", 4)
    assert rmt(*arguments, "--no-progress").exit_code == 0
    place = arguments.index("paper")
    labels = ("eval", "memory", *arguments[place + 1 : -1], tmp_path / "labels")
    assert rmt(*labels, "--no-progress").exit_code == 0

    def score(folder):
        return {
            (row.task, row.length, row.control, row.document): row.correct
            for row in load_rows(folder / "rows.jsonl")
            if row.control != "swapped"
        }

    words, theirs = score(tmp_path / "words"), score(tmp_path / "labels")
    assert words == theirs


def test_kill_nine_loses_at_most_the_document_being_read(base, tmp_path):
    whole = tmp_path / "whole"
    finish(command(*base(whole, 24)))
    broken = tmp_path / "broken"
    process = command(*base(broken, 24))
    while not (broken / "rows.jsonl").exists() or len((broken / "rows.jsonl").read_bytes().splitlines()) < 40:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    kept = rows(broken)
    read = {row.digest for row in kept.values()}
    assert 3 <= len(read) < 48
    finish(command(*base(broken, 24)))
    assert rows(broken) == rows(whole)
    costs = load_costs(broken / "cost.jsonl")
    assert 48 <= sum(cost.documents for cost in costs) <= 49 + 1  # at most one was read twice, or had no cost yet
    before = (broken / "rows.jsonl").read_bytes()
    finish(command(*base(broken, 24)))  # a finished run
    assert (broken / "rows.jsonl").read_bytes() == before
    assert load_costs(broken / "cost.jsonl") == costs


def test_two_processes_are_one(base, tmp_path):
    finish(command(*base(tmp_path / "one", 6)))
    launcher = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "-m")
    out = finish(command(*base(tmp_path / "two", 6), launcher=launcher))
    assert (tmp_path / "two" / "rows-1.jsonl").exists()
    assert rows(tmp_path / "two") == rows(tmp_path / "one")
    cells = [json.loads((tmp_path / name / "results.json").read_text())["cells"] for name in ("one", "two")]
    assert cells[0] == cells[1]
    assert out.count("memorize") == 1  # one process speaks


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("eval", "run", "qa99"), "task: expected one of"),
        (("eval", "run", "paper:people=3"), "expected settings out of tasks, distractors"),
        (("eval", "run", "paper", "--lengths", "long"), "--lengths: expected numbers"),
        (("eval", "run", "paper", "--controls", "none,zeroed"), "--controls: expected some of"),
        (("eval", "run", "paper", "--prompt", "no"), "--prompt: expected auto"),
        (("eval", "run", "paper", "--lengths", "100k", "--n", "1"), "background: expected at least 100,000 tokens"),
        (("eval", "rescore", "nothing"), "expected a file of rows"),
    ],
)
def test_bad_input(rmt, classifier, document, tmp_path, arguments, message):
    if arguments[1] == "run":
        arguments = (*arguments, "--model", classifier, "--text", document, "--out", tmp_path / "out")
    done = rmt(*arguments)
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.output.split())
    assert len(done.output.strip().splitlines()) == 1
    assert not list(tmp_path.glob("out/*.tokens"))


def test_rescoring_what_was_measured_with_a_scorer_of_texts_takes_its_text(rmt, tmp_path):
    measured = {"text": " 46.", "nats": -0.5, "tokens": 1, "greedy": True, "choices": [-0.5, -2.0]}
    with RowLog(tmp_path / "rows.jsonl", "m", {}) as log:
        for index, wanted in enumerate(("46", "47")):
            said = ((wanted,), measured, 0.0, "emergence", "12 + 34 =")
            log.append(Row("arithmetic", 0, "memory", index, 0, f"d{index}", f"d{index}", *said))
    for scorer, right in (("exact", 1), ("first_word", 1), ("sequence", 1), ("emergence", 0), ("", 0)):
        done = rmt("eval", "rescore", tmp_path, "--scorer", scorer, "--json")
        assert json.loads(done.stdout)["cells"][0]["successes"] == right, scorer


def test_rescoring_knows_the_labels_of_each_task_and_leaves_numbers_alone(rmt, tmp_path):
    rows = [
        # "maybe" is a label of task 10, and "nothing" of task 8, whatever task has "yes" or "milk" first.
        Row("qa10", 9, "memory", 0, 0, "a", "a", ("yes",), "yes, maybe", 1.0, "babilong_loose", "Is Mary in the park?"),
        Row("qa8", 9, "memory", 1, 0, "b", "b", ("milk",), "milk or nothing", 1.0, "babilong_loose", "What?"),
        Row("perplexity", 9, "memory", 2, 0, "c", "c", ("text at 3",), 2.5, 2.5, "value", "text at 3"),
    ]
    with RowLog(tmp_path / "rows.jsonl", "m", {}) as log:
        for row in rows:
            log.append(row)
    for scorer in ("babilong", "babilong_words"):
        done = rmt("eval", "rescore", tmp_path, "--scorer", scorer, "--json")
        cells = json.loads(done.stdout)["cells"]
        assert [(c["task"], c["rate"], c["unit"]) for c in cells] == [
            ("qa10", 0, "rate"), ("qa8", 0, "rate"), ("perplexity", 2.5, "nats"),
        ]  # fmt: skip
