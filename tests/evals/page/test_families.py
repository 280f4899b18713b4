"""Metrics over the size of models, of a made-up family whose every token is right with a growing probability."""

from __future__ import annotations

import json
import re

import pytest

from evals import load_rows
from evals.page import collect, page
from evals.page.collect import Run
from evals.page.families import families, metrics, parameters, sizes
from evals.page.numbers import Numbers
from evals.page.samples import Samples
from evals.rows import Row, RowLog
from evals.stats import bootstrap, wilson
from tests.evals.page.family import member
from tests.evals.page.made import run
from tests.evals.page.test_page import Parsed

SKILLS = {150_000: 0.2, 3_000_000: 0.6, 1_000_000: 0.4, 40_000_000: 0.95}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Members in no order of size, and one that says nothing of its size."""
    base = tmp_path_factory.mktemp("family")
    members = [member(base / f"m{count}", count, skill) for count, skill in SKILLS.items()]
    return [*members, member(base / "unknown", None, 0.5)]


def found(folders):
    runs = collect(folders)
    tasks = list(dict.fromkeys(row.task for one in runs for row in one.rows))
    samples = Samples(runs, tasks)
    return families(Numbers(runs, tasks, samples), samples, "size")


def row(run_, index, score, **detail):
    return Row("t", 0, "memory", index, 0, f"{run_}-{index}", "", ("a",), "a", score, "exact", detail=detail)


@pytest.mark.parametrize("stated", [None, True, 0, -5, "1M", 2.5, float("nan"), [1], 7, 8.0])
def test_reading_of_sizes_is_lenient(stated):
    runs = [Run("a", "a", (row("a", 0, 1.0),), about={"parameters": stated}), Run("b", "b", (row("b", 0, 1.0),))]
    assert sizes(runs) == ({0: int(stated)} if stated in (7, 8.0) else {})


def test_panels_are_of_metrics_by_task_and_length_small_models_first(folders):
    by_length = found(folders)["sums"]
    assert [(f.length, f.runs) for f in by_length] == [(0, (0, 2, 1, 3)), (4_096, (0, 2, 1, 3))]
    # Of the details, size and hard belong to the question, the verdict is no number, and exact is the score.
    assert [panel.title for panel in by_length[0].panels] == [
        "exact match", "edit similarity", "likelihood a token", "Brier score, lower is better",
    ]  # fmt: skip
    for family in by_length:
        for panel in family.panels:
            assert "1/n = 2%, n = 50" in panel.svg
            assert 'class="level floor"' in panel.svg
            assert panel.svg.count("<a ") == 4
            assert panel.svg.count('class="line plain"') == 1
            marks = [float(x) for x in re.findall(r'(?:cx=|class="mark [^"]+" d="M)"?([\d.]+)', panel.svg)]
            assert marks == sorted(marks)
            assert len(marks) == 4
        assert ">chance</text>" in family.panels[0].svg
        assert not any(">chance</text>" in panel.svg for panel in family.panels[1:])


def test_numbers_are_means_with_their_intervals(folders):
    rows = [r for r in load_rows(folders[3] / "rows.jsonl") if r.length == 4_096]
    score, edit, *_ = found(folders)["sums"][1].panels
    exact = score.lines[-1][1]
    right = sum(r.value for r in rows)
    assert (exact.mean, exact.n) == (right / 50, 50)
    assert (exact.low, exact.high) == wilson(int(right), 50)
    values = [r.detail["edit"] for r in rows]
    assert edit.lines[-1][1].mean == pytest.approx(sum(values) / 50)
    assert (edit.lines[-1][1].low, edit.lines[-1][1].high) == pytest.approx(bootstrap(values))
    assert [line[0] for line in edit.lines] == ["150k · m150000", "1M · m1000000", "3M · m3000000", "40M · m40000000"]


def test_metrics_left_out_and_kept():
    one = [row("a", i, i % 2, exact=0.0, far=3.0, mine=0.5, none=None, odd=i % 2 / 2, soft=0.1) for i in range(4)]
    two = [row("b", i, 1.0, exact=0.0, far=0.5, none="x", odd=i % 2 / 2, soft=0.3) for i in range(4)]
    kept = metrics({0: one, 5: two})
    assert list(kept) == ["score", "exact", "soft"]
    assert [value for _, value in kept["soft"][5]] == [0.3] * 4
    assert metrics({0: [row("a", 0, 7.0)], 1: [row("b", 0, 1.0)]}) == {}
    bare = [Row("t", 0, "memory", 0, 0, "d", "", ("a",), "a", 1.0, "exact")]
    assert list(metrics({0: bare, 1: bare})) == ["score"]


def test_metrics_that_are_no_shares_have_panels_in_their_own_units(tmp_path):
    """A Brier score is up to 2, an edit distance what it may, and nats are below 0."""
    for name, skill in (("small", 0.2), ("large", 0.6)):
        with RowLog(tmp_path / name / "rows.jsonl", name, {}) as log:
            for i in range(20):
                detail = {
                    "brier": 2 - 2 * skill + i / 100,
                    "distance": 5 - i % 2,
                    "likelihood": -3 + skill,
                    "tokens": 2,
                }
                digest = f"d{i}"
                log.append(Row("t", 0, "memory", i, 0, digest, digest, ("a",), "b", 0.0, "exact", detail=detail))
        (tmp_path / name / "run.json").write_text(json.dumps({"model": name, "parameters": int(1_000 * skill)}))
    ((family,),) = found([tmp_path / "small", tmp_path / "large"]).values()
    titles = {panel.title: panel for panel in family.panels}
    assert list(titles) == ["score", "edit distance, lower is better", "log-likelihood", "Brier score, lower is better"]
    brier, nats = titles["Brier score, lower is better"], titles["log-likelihood"]
    assert [line[1].text for line in brier.lines] == ["1.695", "0.895"]
    assert "1/n = 5%, n = 20" in brier.svg
    assert [line[1].text for line in nats.lines] == ["-2.800", "-2.400"]
    assert "p^L = 1/n, n = 20" in nats.svg
    assert nats.header == ("parameters", "nats a token")


def test_models_that_were_not_asked_alike_are_said_to_be(tmp_path):
    for name, shots in (("small", 0), ("large", 4), ("huge", 4)):
        folder = tmp_path / name
        with RowLog(folder / "rows.jsonl", name, {"tasks": {"t": {"shots": shots, "split": "test"}}}) as log:
            for i in range(4):
                log.append(Row("t", 0, "memory", i, 0, f"d{i}", f"d{i}", ("a",), "b", float(i % 2), "exact"))
        (folder / "run.json").write_text(json.dumps({"model": name, "parameters": 10 ** len(name)}))
    ((mixed,),) = found([tmp_path / name for name in ("small", "large", "huge")]).values()
    assert [panel.note for panel in mixed.panels] == ["Not asked alike: shots=4 or 0"]
    assert "Not asked alike" in page([tmp_path / "small", tmp_path / "huge"])
    ((alike,),) = found([tmp_path / name for name in ("large", "huge")]).values()
    assert [panel.note for panel in alike.panels] == [""]


def test_a_score_of_nothing_but_zeros_is_not_named_after_another_metric():
    """All wrong, and no last digit right: that makes the score not one of last digits."""
    one, two = ([row(name, i, 0.0, last=False, edit=0.0) for i in range(4)] for name in "ab")
    assert list(metrics({0: one, 1: two})) == ["score", "edit"]


def test_the_page_has_the_section_where_two_sizes_share_a_task(folders, tmp_path):
    parsed = Parsed(page(folders))
    assert "size" in parsed.ids
    assert len(set(parsed.ids)) == len(parsed.ids)
    assert {href for href in parsed.hrefs if href[1:] not in parsed.ids} == set()
    other = run(tmp_path / "other", "other", n=3)
    for few in ([folders[0]], [folders[0], folders[-1]], [folders[0], other]):
        assert 'id="size"' not in page(few)
    twins = [member(tmp_path / name, 9, 0.5, lengths=(0,)) for name in "ab"]
    assert found(twins) == {}


def test_families_get_a_line_each(tmp_path):
    made = [member(tmp_path / f"{kind}{i}", 10**i, 0.1 * i, lengths=(0,), family=kind) for kind in "xy" for i in (3, 4)]
    assert found(made)["sums"][0].panels[0].svg.count('class="line plain"') == 2


def test_sizes_are_written_as_people_say_them():
    assert [parameters(n) for n in (7, 1_500, 961_000, 2_979_100, 7_000_000_000)] == [
        "7", "1.5k", "961k", "2.98M", "7B",
    ]  # fmt: skip
