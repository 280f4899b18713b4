from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from evals import MEMORY, Model, load_header, load_rows, run, scorers, tally
from evals.cost import load_costs
from evals.runner import expand
from evals.tasks.registry import ABOUT, GROUPS, TASKS, create, names
from tests.evals.words import Codes, Remembers, Words, source


def score(cells, control=MEMORY, length=300):
    (cell,) = [cell for cell in cells if (cell.control, cell.length) == (control, length)]
    return cell.rate


@pytest.mark.parametrize("method", ["generate", "choose"])
def test_a_model_that_remembers_is_right_and_one_that_forgets_is_not(tmp_path, method):
    words = Words()
    text = source(words)
    whole, short = Remembers(words), Remembers(words, window=30)
    assert isinstance(whole, Model)
    cells = run(whole, [Codes(method=method)], text, lengths=[300, 600], n=10, folder=tmp_path / "a")
    assert score(cells) == score(cells, length=600) == 1
    assert score(cells, "zeroed") == score(cells, "swapped") == 0
    assert not any(cell.control == "shuffled" for cell in cells)  # the model does not allow it
    fewer = run(short, [Codes(method=method)], text, lengths=[300], n=10, folder=tmp_path / "b")
    assert score(fewer) < 0.5


def test_rows_say_what_was_asked_and_where_the_facts_were(tmp_path):
    words = Words()
    model = Remembers(words)
    run(model, [Codes()], source(words, seed=3), lengths=[300], n=4, folder=tmp_path, about={"n": 4})
    rows = [row for row in load_rows(tmp_path / "rows.jsonl") if row.control == MEMORY]
    assert [row.scorer for row in rows] == ["exact"] * 4
    assert all(row.score == scorers.score(row.scorer, row.answered, row.expected, row.asked) for row in rows)
    made = list(Codes().documents(source(words, seed=3), 300, 4))
    for row, document in zip(rows, made, strict=True):
        ((start, stop),) = row.evidence
        assert words.decode(document.tokens(start, stop)) == f"code {row.expected[0]}"
    assert load_header(tmp_path / "rows.jsonl")["settings"]["seed"] == 3
    assert json.loads((tmp_path / "run.json").read_text())["n"] == 4
    assert sum(cost.documents for cost in load_costs(tmp_path / "cost.jsonl")) == 4


def test_a_finished_run_costs_nothing_and_two_parts_are_one(tmp_path):
    words = Words()
    text = source(words)
    whole, once = Remembers(words), {"lengths": [300, 600], "n": 6}
    cells = run(whole, [Codes()], text, folder=tmp_path / "one", **once)
    assert whole.reads == 12
    assert run(whole, [Codes()], text, folder=tmp_path / "one", **once) == cells
    assert whole.reads == 12
    reads = []
    for part in (1, 0):
        model = Remembers(words)
        run(model, [Codes()], text, folder=tmp_path / "two", part=(part, 2), **once)
        reads.append(model.reads)
    assert reads == [6, 6]
    assert {p.name for p in (tmp_path / "two").iterdir()} == {
        "rows.jsonl", "rows-1.jsonl", "cost.jsonl", "cost-1.jsonl", "run.json",
    }  # fmt: skip
    one, two = load_rows(tmp_path / "one" / "rows.jsonl"), load_rows(tmp_path / "two" / "rows.jsonl")
    assert {row.key: row for row in one} == {row.key: row for row in two}
    assert tally(two) == cells
    model = Remembers(words)  # the same run with another number of processes goes on from both files
    assert run(model, [Codes()], text, folder=tmp_path / "two", **once) == cells
    assert model.reads == 0


def test_other_settings_are_refused(tmp_path):
    words = Words()
    run(Remembers(words), [Codes()], source(words), lengths=[300], n=2, folder=tmp_path)
    with pytest.raises(ValueError, match="seed=1"):
        run(Remembers(words), [Codes()], source(words, seed=1), lengths=[300], n=2, folder=tmp_path)


def test_another_text_is_another_run_even_without_a_name(tmp_path):
    words = Words()
    one = source(words, name="")
    assert one.digest == source(words, name="").digest
    other = source(words, 4000, name="")
    run(Remembers(words), [Codes()], one, lengths=[300], n=2, folder=tmp_path)
    with pytest.raises(ValueError, match=f"text='{other.digest}'"):
        run(Remembers(words), [Codes()], other, lengths=[300], n=2, folder=tmp_path)


def test_names():
    assert names("ruler") == GROUPS["ruler"]
    assert names("qa3:files=x") == ("qa3:files=x",)
    assert set(ABOUT) == set(TASKS)
    filed = ("qa_1", "qa_2", "humaneval")  # from a file of the user's
    offline = [name for name in TASKS if name not in (*GROUPS["babilong-10"], *filed) and name[:2] != "qa"]
    assert all(create(name).name == name for name in (*offline, *GROUPS["babilong-10"]))
    assert all(name in TASKS for group in GROUPS.values() for name in group)
    with pytest.raises(ValueError, match=r"expected one of .*qa1"):
        names("qa21")
    with pytest.raises(ValueError, match="expected each once, got codes"):
        expand([Codes(), Codes()])
    with pytest.raises(ValueError, match="name=value"):
        create("paper:distractors")


def test_import_is_light():
    code = (
        "import sys, evals, evals.runner, evals.tasks.registry;"
        "print([m for m in ('torch', 'transformers', 'datasets', 'matplotlib', 'scipy') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert out.stdout.strip() == "[]"


def test_progress_is_of_the_whole_run_and_the_last_has_all_cells(tmp_path):
    words = Words()
    text = source(words)
    once = {"lengths": [300], "n": 6, "folder": tmp_path}
    seen = []
    run(Remembers(words), [Codes()], text, part=(1, 2), progress=lambda p: seen.append(p.documents), **once)
    assert seen == [1, 2, 3]
    waited = []
    cells = run(
        Remembers(words), [Codes()], text, part=(0, 2), progress=lambda p: seen.append(p.documents),
        wait=lambda: waited.append(True), **once,
    )  # fmt: skip
    assert seen[3:] == [4, 5, 6]
    assert waited == [True]
    assert [cell.n for cell in cells if cell.control == MEMORY] == [6]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("copy:filled=no", "expected true or false for filled, got 'no'"),
        ("copy:items=true", "expected a whole number or none for items"),
        ("copy:depth=start", "expected a number or none for depth"),
        ("needle:needles=many", "expected a whole number for needles"),
        ("needle:depths=2.5", "expected a whole number for depths"),
        ("perplexity:span=x", "expected a whole number for span"),
        ("paper:distractors=x", "expected a whole number for distractors"),
    ],
)
def test_a_setting_of_another_type_is_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        create(spec)


def test_settings_have_the_types_of_their_fields():
    assert create("copy:filled=false").settings()["filled"] is False
    assert create("copy:filled=TRUE").settings()["filled"] is True
    assert create("copy:items=none,depth=0").settings() == {**create("copy").settings(), "depth": 0}
    assert create("needle:kind='places'") == create("needle:kind=places")
    assert create("qa11:files=2024").files == "2024"


def test_a_run_is_one_process_at_a_time_and_describes_itself_when_it_begins(tmp_path):
    words = Words()
    text = source(words)

    def again(done):
        if done.documents == 1:
            assert json.loads((tmp_path / "run.json").read_text())["model"] == "remembers"
            with pytest.raises(ValueError, match="expected no other process at work on this run"):
                run(Remembers(words), [Codes()], text, lengths=[300], n=3, folder=tmp_path)

    cells = run(Remembers(words), [Codes()], text, lengths=[300], n=3, folder=tmp_path, progress=again)
    assert run(Remembers(words), [Codes()], text, lengths=[300], n=3, folder=tmp_path) == cells
