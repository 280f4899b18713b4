"""Run folders become a family, a table and pictures that show the resolution floor in every panel."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from evals.emergence import Member, draw_family, draw_sizes, figures, load_family, size_table, table
from evals.rows import RowLog

MAGIC = b"\x89PNG"


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn, kept instead of written."""
    kept = []
    monkeypatch.setattr(figures, "save", lambda figure, path: kept.append(figure) or Path(path))
    return kept


def test_run_folders_are_read_smallest_first(make, write):
    family = make((0.3, 0.6, 0.9), n=10)
    found = load_family(reversed(write(family)))
    assert [(m.name, m.parameters) for m in found] == [(m.name, m.parameters) for m in family]
    assert [row.detail for row in found[2].rows] == [row.detail for row in family[2].rows]


def test_folders_of_one_name_are_members_of_their_own(make, write, tmp_path):
    folders = []
    for number, seed in enumerate(("seed0", "seed1")):
        (folder,) = write(make((0.3 + 0.6 * number,), n=10))
        folders.append(tmp_path / "apart" / seed / "m0")
        folders[-1].parent.mkdir(parents=True)
        folder.rename(folders[-1])
    found = load_family(folders)
    assert [m.name for m in found] == ["seed0/m0", "seed1/m0"]
    line = next(line for line in table(found, "arithmetic").splitlines() if "probability of a right token" in line)
    assert "0.300" in line
    assert "0.900" in line
    with pytest.raises(ValueError, match="expected each folder once"):
        load_family([folders[0], folders[0]])


def test_members_must_have_been_asked_alike(make, tmp_path):
    folders = []
    for member, shots in zip(make((0.3, 0.6, 0.9), n=4), (4, 4, 0), strict=True):
        folders.append(tmp_path / member.name)
        settings = {"tasks": {"arithmetic": {"shots": shots}, f"other{shots}": {}}}
        with RowLog(folders[-1] / "rows.jsonl", member.name, settings) as log:
            for row in member.rows:
                log.append(row)
        (folders[-1] / "run.json").write_text(json.dumps({"parameters": member.parameters}))
    assert len(load_family(folders[:2])) == 2
    with pytest.raises(ValueError, match=r"m2: expected arithmetic asked as in .*m0 .*4.*, got {'shots': 0}"):
        load_family(folders)


def test_what_is_no_run_is_refused(make, write, tmp_path):
    (folder,) = write(make((0.3,), n=2))
    for text, message in (
        ("{", "expected a description"),
        (json.dumps({"parameters": "1M"}), "got '1M'"),
        ("{}", "None"),
    ):
        (folder / "run.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            load_family([folder])
    with pytest.raises(ValueError, match="expected a file of rows"):
        load_family([tmp_path])
    with pytest.raises(ValueError, match="one or more run folders"):
        load_family([])
    with pytest.raises(ValueError, match="parameters >= 1"):
        Member("m", 0, ())


def test_the_table_has_every_model_and_metric(make):
    family = make((0.3, 0.6, 0.8, 0.95), n=100)
    text = table(family, "arithmetic")
    lines = text.splitlines()
    assert lines[0].startswith("arithmetic: n = 100 answers a model, resolution floor 1/n = 0.01;")
    assert lines[2].startswith("| metric | m0 (10k) | m1 (30k) |")
    assert len({line.count("|") for line in lines[2:]}) == 1
    names = [line.split("|")[1].strip() for line in lines[4:]]
    assert names[:2] == ["exact match", "multiple-choice grade"]
    assert names[-3:] == ["p^L", "mean of exp(nats)", "exact match - mean of exp(nats)"]
    assert not any(word in text for word in ("nan", "inf"))
    with pytest.raises(ValueError, match="task: expected answers to copying"):
        table(family, "copying")


def test_the_table_of_sizes(make):
    family = make((0.5, 0.9), n=60, tokens=(1, 2, 3))
    lines = size_table(family, "arithmetic").splitlines()
    assert [line.split("|")[1].strip() for line in lines[4:]] == ["1", "2", "3"]
    assert lines[6].rstrip(" |").endswith("72.9")
    with pytest.raises(ValueError, match="with a size"):
        size_table(family, "copying")


def floors(axes):
    """Lines across a panel in the floor's colour, by their height."""
    across = [line for line in axes.get_lines() if line.get_color() == figures.FLOOR and len(line.get_xdata())]
    return [line.get_ydata()[0] for line in across]


def test_the_floor_is_drawn_in_every_panel_and_said_in_the_legend(make, drawn):
    family = make(n=200, tasks=("arithmetic", "modular_sums"))
    draw_family(family, "a.png")
    draw_sizes(make((0.5, 0.9), n=60, tokens=(1, 2, 3)), "b.png", task="arithmetic")
    assert [len(f.axes) for f in drawn] == [6, 2]
    metrics, sizes = drawn
    for axes in metrics.axes:
        (height,) = floors(axes)
        low, high = axes.get_ylim()
        assert low <= height <= high
        if "likelihood" not in axes.get_title(loc="left"):
            assert height == 1 / 200
    assert [floors(axes) for axes in sizes.axes] == [[1 / 20], [1 / 20]]
    for figure, floor in ((metrics, "0.005"), (sizes, "0.05")):
        (held,) = figure.legends
        assert any(f"floor 1/n\n= {floor}" in text.get_text() for text in held.get_texts())


def test_points_and_bands_are_those_of_the_curves(make, drawn):
    family = make((0.3, 0.6, 0.9), n=100)
    draw_family(family, "a.png", panels=["exact"])
    (axes,) = drawn[0].axes
    measured, predicted, product = [line for line in axes.get_lines() if len(line.get_xdata()) == 3]
    exact = [sum(row.detail["exact"] for row in m.rows) / 100 for m in family]
    assert list(measured.get_ydata()) == exact
    assert list(predicted.get_ydata()) == pytest.approx([0.3**8, 0.6**8, 0.9**8])
    assert list(product.get_ydata()) == pytest.approx(list(predicted.get_ydata()))
    assert len(axes.collections) == 1
    assert axes.get_xscale() == "log"


def test_pictures_are_written(make, tmp_path):
    family = make((0.3, 0.6, 0.9), n=30, tokens=(1, 3))
    bare = [replace(m, rows=tuple(replace(r, detail={"exact": r.detail["exact"]}) for r in m.rows)) for m in family]
    for path in (
        draw_family(family, tmp_path / "new" / "a.png"),
        draw_family(bare, tmp_path / "bare.png"),
        draw_sizes(family, tmp_path / "sizes.png", task="arithmetic"),
    ):
        assert path.read_bytes().startswith(MAGIC)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bare.png", "new", "sizes.png"]
    with pytest.raises(ValueError, match="tasks: expected 1 to 6"):
        draw_family([], tmp_path / "none.png")
    with pytest.raises(ValueError, match="expected answers with one of"):
        draw_family([Member("m", 1, tuple(replace(r, detail=None) for r in family[0].rows))], tmp_path / "none.png")
    with pytest.raises(ValueError, match="with a size"):
        draw_sizes(bare, tmp_path / "none.png", task="arithmetic")


def test_importing_it_is_light():
    code = "import sys, evals.emergence; print(sorted({'matplotlib', 'torch', 'sklearn', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
