"""``rmt eval humaneval`` and the other benchmarks with commands of their own, from end to end on small models."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest

from evals import MEMORY, load_rows
from evals.rows import Row, RowLog
from evals.sandbox import Sandbox
from evals.tasks.registry import GROUPS, options_of
from rmt.cli import evaluate_problems
from tests.evals.tasks.humaneval.made import MADE, write

COMMANDS = {
    "corr2cause": ("--variables", "2-3", "--balanced"),
    "multiplication": ("--sizes", "1x1,2x2", "--scratchpad"),
    "puzzle": ("--sizes", "2x2", "--shots", 1),
    "dp": ("--sizes", "2-3"),
    "emergence": ("--shots", 2),
}


@pytest.fixture
def text(tmp_path) -> Path:
    """Some 4,000 tokens."""
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{n}. The clock on a wall had stopped at noon, and nobody wound it. " for n in range(300)))
    return path


@pytest.fixture
def base(language_model, text):
    return ("--model", language_model, "--text", text, "--n", 2, "--no-progress")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_benchmark_in_a_prompt_and_behind_text(rmt, base, name, tmp_path):
    done = rmt("eval", name, *COMMANDS[name], *base, "--background", "0,3k", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    rows = load_rows(tmp_path / "out" / "rows.jsonl")
    assert {row.length for row in rows} == {0, 3_000}
    assert {row.control for row in rows if row.length == 0} == {MEMORY}
    assert {"zeroed", "shuffled"} <= {row.control for row in rows if row.length}
    assert all(row.detail for row in rows)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {table["task"] for table in results["breakdowns"]} == {row.task for row in rows}
    for table in results["breakdowns"]:
        assert f"{table['task']}: {table['title']}" in done.output
    assert json.loads((tmp_path / "out" / "run.json").read_text())["parameters"] > 0
    page = rmt("report", tmp_path / "out", "-o", tmp_path / "page.html")
    assert page.exit_code == 0, page.output
    assert "Breakdowns" in (tmp_path / "page.html").read_text()


def test_tables_are_of_the_answers_that_were_asked_for_whatever_else_the_folder_holds(rmt, base, tmp_path):
    command = ("eval", "dp", "--sizes", "2", *base, "--out", tmp_path / "out", "--json")
    first = json.loads(rmt(*command).stdout)
    more = json.loads(rmt(*command, "--n", 5).stdout)
    again = json.loads(rmt(*command).stdout)
    assert again == first
    assert [table["lines"][0][2]["n"] for table in more["breakdowns"]] == [5, 5]
    assert [table["lines"][0][2]["n"] for table in again["breakdowns"]] == [2, 2]


@pytest.mark.parametrize(
    ("options", "bare"),
    [
        (("multiplication", "--sizes", "1x1"), True),
        (("multiplication", "--sizes", "1x1", "--shots", 2), False),
        (("puzzle", "--sizes", "2x2", "--shots", 1), False),
        (("dp", "--sizes", "2", "--prompt", "benchmark"), False),
        (("emergence", "--shots", 3), True),  # whose bare prompts have examples
    ],
)
def test_solved_problems_that_are_asked_for_are_shown_to_our_models_too(rmt, base, tmp_path, options, bare):
    done = rmt("eval", *options, *base, "--n", 1, "--out", tmp_path / "out", "--json")
    assert json.loads(done.stdout)["bare"] is bare


def test_programs_are_drawn_checked_and_counted(rmt, base, tmp_path):
    try:
        Sandbox().close()
    except ValueError as error:
        pytest.skip(str(error))
    files = write(tmp_path / "made.jsonl")
    options = ("--files", files, "--samples", 3, "--temperature", 0.8, "--max-tokens", 8, "--background", "0,3k")
    done = rmt("eval", "humaneval", *options, *base, "--controls", "none", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    rows = load_rows(tmp_path / "out" / "rows.jsonl")
    assert len(rows) == 2 * 2 * 3
    assert all("rlimits" in row.detail["isolation"] and row.detail["outcome"] != "passed" for row in rows)
    assert "pass@1" in done.output
    again = rmt("eval", "rescore", tmp_path / "out")
    assert "0 of 12 scores changed" in again.output


def test_a_log_is_no_consent_to_run_its_programs(rmt, tmp_path, monkeypatch):
    given = []
    verdict = type("Verdict", (), {"outcome": "failed", "why": "", "isolation": "none"})()
    box = type("Box", (), {"check": lambda *_: verdict})()
    monkeypatch.setattr("evals.tasks.humaneval.scoring.box", lambda consent: given.append(consent) or box)
    item = MADE[0]
    said = (item.test, item.entry_point), "    return 0"
    with RowLog(tmp_path / "rows.jsonl", "m", {}) as log:
        log.append(Row("humaneval", 0, MEMORY, 0, 0, "a", "a", *said, 0.0, "humaneval:unsandboxed", item.prompt))
    for more, consent in (((), False), (("--scorer", "humaneval:unsandboxed"), True)):
        done = rmt("eval", "rescore", tmp_path, *more)
        assert done.exit_code == 0, done.output
        assert given.pop() is consent


@pytest.mark.parametrize("name", ["humaneval", *COMMANDS])
def test_every_setting_of_a_task_is_an_option(name):
    """Except those that only its own commands of Python need."""
    tasks = GROUPS.get(name, (name,))
    shared = set.intersection(*(set(options_of(task)) for task in tasks))
    options = set(inspect.signature(getattr(evaluate_problems, name)).parameters)
    assert shared - {"method"} <= options


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("humaneval",), "HumanEval.jsonl.gz"),
        (("humaneval", "--files", "nowhere.jsonl"), "nowhere.jsonl"),
        (("corr2cause", "--variables", "1"), "variables"),
        (("corr2cause", "--semantics", "mine"), "semantics"),
        (("multiplication", "--sizes", "9x"), "sizes"),
        (("multiplication", "--split", "mine"), "split"),
        (("puzzle", "--sizes", "1x1"), "sizes"),
        (("dp", "--sizes", "a"), "sizes"),
        (("multiplication", "--background", "-4"), "--background"),
        (("multiplication", "--shots", 2, "--prompt", "bare"), "--shots"),
        (("multiplication", "--background", "5"), "length"),
    ],
)
def test_wrong_input_is_one_line(rmt, base, arguments, said, tmp_path):
    done = rmt("eval", *arguments, *base, "--out", tmp_path / "out")
    assert done.exit_code == 2, done.output
    (line,) = done.output.splitlines()
    assert line.startswith("rmt: ")
    assert said in line
    assert "expected" in line
    assert not (tmp_path / "out" / "text-0.tokens").exists()
