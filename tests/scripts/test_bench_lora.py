"""The benchmark of LoRA runs, and its figures follow from one another."""

from __future__ import annotations

import json

import pytest


def test_a_quick_run(bench, capsys):
    lora = bench("lora")
    lora.main(["--quick", "--json", "--dropout", "0.05"])
    rows = {row["side"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == ["frozen", *lora.SIDES]
    for row in rows.values():
        assert row["seconds"] > 0
        assert row["saved_ratio"] == pytest.approx(row["saved"] / rows["frozen"]["saved"])
        assert (row["with_copies_ratio"] > row["saved_ratio"]) == row["side"].startswith("ours")
    # What is saved does not depend on the machine: masked inputs in float32, in bfloat16, and none.
    assert rows["PEFT"]["saved"] > rows["PEFT bf16"]["saved"] > rows["ours"]["saved"] > rows["frozen"]["saved"]
    assert rows["ours"]["saved"] == rows["ours shared"]["saved"]


def test_columns_line_up(bench):
    lora = bench("lora")
    row = {"side": "ours", "dropout": 0.05, "seconds": 1.0, "saved": 10**8}
    row |= {"time_ratio": 1.05, "saved_ratio": 1.28, "with_copies_ratio": 1.29, "laid_out": 2 * 10**8}
    lines = lora.show([row, row | {"side": "PEFT bf16", "dropout": 0.0}]).splitlines()
    assert len({len(line) for line in lines}) == 1
