"""Breakdowns on the page, in the terminal and in JSON, of tables that a made-up task makes of its rows."""

from __future__ import annotations

import json
import math
import re

import pytest

from evals import load_rows, to_json
from evals.breakdowns import BREAKDOWNS, Breakdown, Estimate, breakdowns
from evals.page import collect, page
from evals.page.broken_down import naming, sheets
from evals.report import breakdown_json, breakdown_text
from evals.stats import Interval
from tests.evals.page.made import HOSTILE, run
from tests.evals.page.tables import tables
from tests.evals.page.test_page import Parsed


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two runs of a task with tables and one without."""
    base = tmp_path_factory.mktemp("tables")
    own = BREAKDOWNS["puzzle"]
    BREAKDOWNS["puzzle"] = "tests.evals.page.tables:tables"
    yield [
        run(base / name, name, half_life=life, tasks=("puzzle", "qa1"), lengths=(0, 4_096), n=30, segment=None)
        for name, life in (("long", 1e6), ("short", 1e3))
    ]
    BREAKDOWNS["puzzle"] = own


@pytest.fixture(scope="module")
def text(made):
    return page(made)


def two(columns, first, second=None):
    return [Breakdown("t", "T", columns, tuple(lines)) for lines in (first, second) if lines is not None]


def test_every_estimate_of_a_maker_is_on_the_page(made, text):
    shown = {said for said, _ in Parsed(text).cells}
    checked = 0
    for folder in made:
        rows = [row for row in load_rows(folder / "rows.jsonl") if row.task == "puzzle"]
        for table in tables(rows):
            for line in table.lines:
                for entry in line:
                    if isinstance(entry, Estimate) and entry.interval and entry.percent:
                        low, high = (f"{100 * end:.1f}" for end in entry.interval)
                        assert f"{100 * entry.value:.1f} [{low}, {high}] n={entry.n}" in shown
                        checked += 1
    assert checked >= 2 * (2 * 4 + 1)
    assert "0.500 [0.400, 0.600]" in " ".join(shown)
    assert "undefined" in shown
    assert "nan" not in text.split("<main")[1]


def test_models_stand_side_by_side_where_tables_have_the_same_shape(made):
    found = sheets(collect(made), "t")["puzzle"]
    assert [(s.title, s.runs, s.names) for s in found] == [
        ("By size", (0, 1), ("tokens", "size")),
        ("By verdict", (0, 1), ("verdict",)),
        ("Metrics", (0, 1), ("metric",)),
        ("Only of some", (1,), ("k",)),
    ]
    size = found[0]
    assert size.beside
    assert [len(line.entries) for line in size.lines] == [4] * 8
    assert [line.spans for line in size.lines] == [(4, 1), (0, 1), (0, 1), (0, 1)] * 2
    assert [line.names[0].text for line in size.lines[::4]] == ["0 in prompt", "4k"]
    # right of both, then nodes of both
    rows = [[r for r in load_rows(folder / "rows.jsonl") if r.task == "puzzle"] for folder in made]
    first = [tables(own)[0].lines[-1][2] for own in rows]
    assert [entry.text for entry in size.lines[-1].entries[:2]] == [f"{100 * one.value:.1f}" for one in first]
    assert [f.title for f in size.figures] == [
        "right, all in the prompt", "right, 4k tokens", "nodes, all in the prompt", "nodes, 4k tokens",
    ]  # fmt: skip
    assert [f.title for f in found[3].figures] == ["pass@k"]
    assert found[1].figures == found[2].figures == ()
    assert "qa1" not in sheets(collect(made), "t")


@pytest.mark.parametrize(
    ("columns", "lines", "count"),
    [
        (("a", "b"), [(1, Estimate(0.1)), (2, Estimate(0.2))], 1),
        (("a", "b", "c"), [(1, 1, Estimate(0.1)), (1, 2, Estimate(0.2))], 2),
        (("a", "b", "c"), [(1, 9, Estimate(0.1)), (2, 9, Estimate(0.2))], 1),  # counts behind the name
        (("a", "b", "c"), [(1, "x", Estimate(0.1)), (2, "y", Estimate(0.2))], 2),  # words behind it
        (("a", "b"), [(1, 2), (1, 2)], 2),  # nothing tells them apart
        (("a", "b"), [(Estimate(0.1), 2)], 0),
    ],
)
def test_what_names_a_line(columns, lines, count):
    assert naming(two(columns, lines)) == count


def test_lines_that_one_model_lacks_stay_in_order_and_empty(monkeypatch):
    from evals.page import broken_down
    from evals.page.collect import Run
    from evals.rows import Row

    row = Row("t", 0, "memory", 0, 0, "d", "d", ("a",), "a", 1.0, "exact")
    runs = [Run(name, name, (row,)) for name in "ab"]
    one, other = two(("k", "v"), [(1, Estimate(0.1)), (4, Estimate(0.4))], [(2, Estimate(0.2)), (4, None)])
    answers = iter(([one], [other]))
    monkeypatch.setattr(broken_down, "breakdowns", lambda rows: next(answers))
    (sheet,) = sheets(runs, "t")["t"]
    assert [[e and e.text for e in (*line.names, *line.entries)] for line in sheet.lines] == [
        ["2", None, "20.0"], ["1", "10.0", None], ["4", "40.0", None],
    ]  # fmt: skip
    # Too many columns to stand side by side: a line for each model.
    wide = ("k", *"abcd")
    one, other = two(wide, [(1, *[Estimate(0.1)] * 4)], [(1, *[Estimate(0.2)] * 4)])
    answers = iter(([one], [other]))
    (sheet,) = sheets(runs, "t")["t"]
    assert not sheet.beside
    assert [(line.spans, line.run, line.entries[3].text) for line in sheet.lines] == [
        ((2,), 0, "10.0"), ((0,), 1, "20.0"),
    ]  # fmt: skip


def test_the_page_stays_whole_whatever_a_table_says(text):
    parsed = Parsed(text)
    assert "breakdowns" in parsed.ids
    assert len(set(parsed.ids)) == len(parsed.ids)
    assert {href for href in parsed.hrefs if href[1:] not in parsed.ids} == set()
    assert [tag for tag, _ in parsed.tags].count("script") == 1
    assert not any(tag == "img" for tag, _ in parsed.tags)
    assert "A note of </script>" in "".join(parsed.said)


def test_a_page_without_breakdowns_has_no_section(tmp_path):
    assert 'id="breakdowns"' not in page([run(tmp_path / "a", n=3)])


def test_in_the_terminal_columns_are_aligned():
    table = Breakdown(
        "puzzle", "By size", ("size", "right", "depth"),
        ((2, Estimate(0.5, Interval(0.25, 0.75), 1_200), "a\x1b[31mb"), (1_000, Estimate(math.inf, None, 3), None)),
        "Of all. " * 20,
    )  # fmt: skip
    lines = breakdown_text([table, table]).split("\n\n")[0].splitlines()
    assert lines[:4] == [
        "puzzle: By size",
        "   size  right                      depth",
        "      2  50.0 [25.0, 75.0] n=1,200  a?[31mb",
        "  1,000  undefined n=3              -",
    ]
    assert max(map(len, lines)) <= 80
    assert " ".join(lines[4:]) == ("Of all. " * 20).strip()
    assert breakdown_text([]) == ""


def test_json_is_json_and_keeps_fractions(made):
    rows = load_rows(made[1] / "rows.jsonl")
    found = json.loads(to_json([], breakdowns=breakdown_json(breakdowns(rows))))["breakdowns"]
    assert [table["title"] for table in found] == ["By size", "By verdict", "Metrics", "Only of some"]
    length, size, right, nodes = found[0]["lines"][0]
    assert (length, size) == (0, 1)
    assert right == {"value": 1.0, "low": pytest.approx(0.566, abs=0.001), "high": 1.0, "n": 5, "percent": True}
    assert (nodes["value"], nodes["percent"]) == (0.5, False)
    metrics = dict(found[2]["lines"])
    assert metrics["gain"]["value"] is None
    assert metrics[HOSTILE] is None
    assert not re.search("NaN|Infinity", json.dumps(found))
