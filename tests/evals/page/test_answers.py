"""Answers on the page that are code, measured, or come with details."""

from __future__ import annotations

import re

import pytest

from evals.page import page
from evals.page.collect import label
from evals.page.samples import details, shown
from evals.rows import Row, RowLog
from tests.evals.page.family import member
from tests.evals.page.made import HOSTILE
from tests.evals.page.test_page import Parsed

CODE = "def f(x):\n\tif x < 1:\n\t\treturn x\n\n\treturn f(x - 1)\n"


def row(answered, **more):
    return Row("t", 0, "memory", 0, 0, "d", "d", ("a",), answered, 0.0, "exact", **more)


def test_a_measured_answer_is_its_text():
    assert label(row(""), {"text": "four", "nats": -3.21098, "tokens": 2}) == "four (right answer: -3.211 nats)"
    assert label(row(""), {"text": "four"}) == "four"
    assert label(row(""), {"text": "four", "nats": None}) == "four"
    assert label(row(""), {"verdict": "ü"}) == '{"verdict": "ü"}'


def test_code_keeps_its_lines_and_is_cut():
    assert shown(CODE) == "def f(x):\n    if x < 1:\n        return x\n\n    return f(x - 1)"
    assert shown("one line\n") == "one line␊"
    assert shown("a\x00\r\nb\x1b") == "a␀\nb␛"
    long = "\n".join(f"line {i}" for i in range(100))
    assert shown(long).splitlines()[-1] == "line 11… (100 lines, 789 characters)"
    assert len(shown("x" * 10_000 + "\ny")) < 600
    assert len(shown("x" * 10_000)) < 300
    assert "\ud800" not in shown("a\ud800\nb")


def test_details_are_short():
    said = details({
        "verdict": "timeout", "size": "3x3", "per_token": 0.123456, "greedy": True, "none": None, "shape": [3, 2],
        "isolation": {"net": True, "level": 2},
    })  # fmt: skip
    assert said == (
        "verdict: timeout; size: 3x3; per token: 0.123; greedy: yes; shape: 3, 2; isolation: net=yes level=2"
    )
    assert details(None) == details({}) == ""
    assert len(details({str(i): HOSTILE * 9 for i in range(50)})) < 300


def test_answers_of_all_kinds_stay_inside_the_page(tmp_path):
    with RowLog(tmp_path / "a" / "rows.jsonl", "a", {}) as log:
        for i, answer in enumerate((CODE, HOSTILE + "\n" + HOSTILE, {"text": HOSTILE, "nats": -1.5}, ["x"], "", 1e9)):
            detail = {"verdict": HOSTILE, HOSTILE: HOSTILE} if i else None
            log.append(
                Row("t", 0, "memory", i, 0, f"d{i}", f"d{i}", (CODE * 9,), answer, 0.0, "exact", CODE, (), detail)
            )
    text = page([tmp_path / "a"])
    parsed = Parsed(text)
    assert [tag for tag, _ in parsed.tags].count("script") == 1
    assert not any(tag == "img" for tag, _ in parsed.tags)
    assert not any(name.startswith("on") for _, found in parsed.tags for name in found)
    assert "<pre>def f(x):\n    if x &lt; 1:" in text
    assert "(right answer: -1.5 nats)" in text
    cells = [said for said, _ in parsed.cells]
    assert "detail" in cells
    assert cells.count("–") >= 1  # of the row without details
    assert any(said.startswith("verdict: </script>") for said in cells)


def test_no_column_of_details_where_there_are_none(tmp_path):
    with RowLog(tmp_path / "a" / "rows.jsonl", "a", {}) as log:
        log.append(row("b"))
    assert "detail" not in [said for said, _ in Parsed(page([tmp_path / "a"])).cells]


@pytest.mark.parametrize("control", ["memory", "zeroed"])
def test_rows_with_details_are_scored_and_compared_as_others(tmp_path, control):
    bare, full = member(tmp_path / "bare", 9, 0.4), member(tmp_path / "full", 9, 0.4)
    lines = (bare / "rows.jsonl").read_text()
    cut = re.sub(r',"detail":\{[^}]*\}', "", lines).replace('"control":"memory"', f'"control":"{control}"')
    (bare / "rows.jsonl").write_text(cut)
    (full / "rows.jsonl").write_text(lines.replace('"control":"memory"', f'"control":"{control}"'))
    assert cut.count("detail") == 0 < lines.count("detail")
    numbers = [
        re.findall(r'class="number"[^>]*><b>([^<]*)</b> <span class="ends">([^<]*)', page([f])) for f in (bare, full)
    ]
    assert numbers[0] == numbers[1]
