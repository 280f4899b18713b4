"""The benchmark of 8-bit forwards runs, and what it compares is what it says."""

from __future__ import annotations

import json

import torch


def test_it_runs(bench, capsys):
    int8 = bench("int8")
    int8.main(["--quick", "--json", "--sides", "int8", "int8 static"])
    rows = json.loads(capsys.readouterr().out)
    assert [(r["family"], r["tokens"], r["side"]) for r in rows[:2]] == [
        ("llama", 16, "int8"),
        ("llama", 16, "int8 static"),
    ]
    assert len(rows) == 8
    assert all(0 < r["error"] < 0.1 and r["low"] <= r["ratio"] <= r["high"] for r in rows)


def test_every_linear_layer_is_replaced(bench):
    from efficiency.int8 import Int8Linear

    int8 = bench("int8")
    model = int8.backbone("bert", 64, 96, 2)
    copy = int8.quantised(model, "int8", torch.zeros(1, 4, dtype=torch.long))
    kinds = {type(m) for m in copy.modules()}
    assert Int8Linear in kinds
    assert torch.nn.Linear not in kinds
    assert torch.nn.Linear in {type(m) for m in model.modules()}
