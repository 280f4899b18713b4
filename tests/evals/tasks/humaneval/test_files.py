"""The benchmark's file, packed or not, and what is refused of it."""

from __future__ import annotations

import gzip
import json
from dataclasses import asdict, replace

import pytest

from evals.tasks.humaneval.files import digest, items, load, read
from tests.evals.tasks.humaneval.made import DOUBLE, MADE, benchmark, write


def test_the_same_problems_however_they_are_read(tmp_path):
    packed = write(tmp_path / "HumanEval.jsonl.gz")
    plain = write(tmp_path / "mine.jsonl")
    assert read(packed) == read(str(plain)) == read(tmp_path) == MADE
    hub = tmp_path / "hub"
    hub.mkdir()
    write(hub / "test.jsonl")
    assert load(str(hub)) == MADE
    assert digest(read(packed)) == digest(load(str(hub))) != digest(MADE[:2])
    write(plain, MADE[::-1])
    assert read(plain) == MADE[::-1], "a file that changed is read again"


def test_blank_lines_and_further_columns_change_nothing(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("\n" + json.dumps({**asdict(DOUBLE), "more": 1}) + "\n\n  \n")
    assert read(path) == (DOUBLE,)


def test_what_is_no_such_file_is_refused(tmp_path):
    cases = {
        "none.jsonl": (None, "expected HumanEval.jsonl.gz or HumanEval.jsonl, got nothing"),
        "plain.jsonl.gz": (b"{}", "expected a file that can be read"),
        "half.jsonl.gz": (gzip.compress(b"{}" * 1000)[:-10], "expected a file that can be read"),
        "packed.jsonl": (gzip.compress(b"{}"), "expected text in UTF-8"),
        "words.jsonl": (b"{}x", "expected JSON in line 1"),
        "list.jsonl": (b"\n[]", "expected an object in line 2, got list"),
        "empty.jsonl": (b"\n", "expected problems, got none"),
        "short.jsonl": (b'{"task_id": "a", "prompt": "", "test": 3}', "none for canonical_solution, test, entry_point"),
    }
    for name, (data, wrong) in cases.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=wrong):
            read(tmp_path / name)
    with pytest.raises(ValueError, match="got nothing of that name"):
        read(tmp_path)
    with pytest.raises(ValueError, match="hub: expected the split test of"):
        load(str(tmp_path / "nowhere"))


def test_problems_that_are_none_are_refused():
    def record(**changes: str) -> list[tuple[str, dict[str, str]]]:
        return [("line 1", asdict(replace(DOUBLE, **changes)))]

    with pytest.raises(ValueError, match="each task_id once, got Made/0 again in line 1"):
        items(record() * 2, "x")
    with pytest.raises(ValueError, match="a prompt that a body makes a program in line 1, got Made/0"):
        items(record(prompt="def doubled(values:\n"), "x")
    with pytest.raises(ValueError, match="a function called as entry_point says"):
        items(record(entry_point="halved"), "x")


def test_the_benchmark_has_164():
    found = benchmark()
    assert [item.task_id for item in found] == [f"HumanEval/{n}" for n in range(164)]
