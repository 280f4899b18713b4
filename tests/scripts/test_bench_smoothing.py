"""The benchmark of smoothing runs, and says what it should of planted outliers."""

from __future__ import annotations

import json


def test_a_quick_run(bench, capsys):
    smoothing = bench("smoothing")
    assert smoothing.main(["--quick", "--activations", "token", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in rows] == ["MiniLM", "MiniLM, multiply", "random LLaMA"]
    planted = rows[-1]
    assert max(planted["by_alpha"]["0.5"], planted["searched"]) < planted["plain"] / 5
    assert smoothing.main(["--quick", "--activations", "static"]) == 0
    assert "random LLaMA        static" in capsys.readouterr().out
