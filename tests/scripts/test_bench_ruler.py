"""The benchmark of RULER's documents runs for every task that needs no files."""

from __future__ import annotations

import json

from evals.tasks.registry import GROUPS


def test_a_small_run(bench, capsys):
    ruler = bench("ruler")
    ruler.main(["--here", "--lengths", "5000"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["task"] for row in rows] == list(GROUPS["ruler-offline"])
    assert all(row["first_cpu"] > 0 and row["length"] == 5000 for row in rows)
