"""The program that draws a family from run folders, at toy size."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"


@pytest.fixture
def program(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    yield importlib.import_module("emergence_figures")
    sys.modules.pop("emergence_figures")


def test_it_writes_pictures_and_tables(program, make, write, tmp_path, capsys):
    runs = write(make((0.3, 0.6, 0.9), n=30, tokens=(1, 3), tasks=("arithmetic", "copying")))
    out = tmp_path / "made" / "emergence.png"
    assert program.main([*map(str, runs), "-o", str(out)]) == 0
    assert sorted(p.name for p in out.parent.iterdir()) == ["emergence-sizes.png", "emergence.md", "emergence.png"]
    text = (out.parent / "emergence.md").read_text()
    assert text.strip() == capsys.readouterr().out.strip()
    starts = [line.split(":")[0] for line in text.splitlines() if ":" in line]
    assert starts == ["arithmetic", "copying", "arithmetic", "copying"]


def test_rows_without_sizes_and_of_two_lengths(program, make, write, tmp_path, capsys):
    family = [
        replace(
            m,
            rows=tuple(
                replace(r, length=n, digest=f"{r.digest}{n}", detail={"exact": 1}) for r in m.rows for n in (0, 9)
            ),
        )
        for m in make((0.3, 0.6, 0.9), n=30)
    ]
    out = tmp_path / "emergence.png"
    assert program.main([*map(str, write(family)), "-o", str(out)]) == 0
    assert "n = 30 answers" in capsys.readouterr().out
    assert not (tmp_path / "emergence-sizes.png").exists()


def test_what_is_no_family_is_refused(program, tmp_path, capsys):
    assert program.main([str(tmp_path)]) == 2
    assert "expected a file of rows" in capsys.readouterr().err
