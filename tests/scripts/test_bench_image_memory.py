"""The benchmark of reading with images runs, and its figures follow from what it measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "bench" / "image_memory.py"), *map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_small_run_writes_what_it_measured(tmp_path):
    done = run("--small", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "image_memory.json").read_text())
    rows = result["rows"]
    assert [row["length"] for row in rows] == [500, 2000]
    assert rows[1]["images"] > rows[0]["images"] >= 1
    assert all(row["executor"] == "speculative" and row["reading_mb"] > 100 for row in rows)
    assert result["ratio"] == pytest.approx(rows[1]["reading_mb"] / rows[0]["reading_mb"])
    assert f"{rows[1]['reading_mb']:,.1f}" in done.stdout


def test_a_text_that_is_too_short_is_bad_input(tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("a short text")
    done = run("--small", "--text", short, "--out", tmp_path)
    assert done.returncode == 2
    assert "expected 2,000 tokens" in done.stderr
