"""The benchmark of training over 4-bit weights runs, and its sides compute the same."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("bitsandbytes")


def test_a_quick_run(bench, capsys):
    qlora = bench("qlora")
    assert qlora.main(["--quick", "--order", "segments", "layers", "--budget", "0.5", "1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    sides = [qlora.BASE, qlora.THEIRS, "no cache", "cache 0.5", "cache 1"]
    sides += [qlora.BASE + qlora.FUSED, "cache 0.5 fused", "cache 1 fused"]
    assert [row["side"] for row in rows] == sides * 2
    assert all(row["ratio"] == 1 for row in rows if row["side"] == qlora.BASE)
    assert all(row["made"] == 0 for row in rows if row["side"] == "cache 1")
    half = [row for row in rows if row["side"] == "cache 0.5"]
    assert all(row["made"] < 9 for row in half)
    assert all(row["kept_mb"] <= 2 * 4 * 64 * 64 / 2e6 for row in half)


def test_sides_agree(bench, capsys):
    qlora = bench("qlora")
    assert max(qlora.agreement(64).values()) < 1e-2
    assert qlora.main(["--quick"]) == 0
    out = capsys.readouterr().out
    assert "bits a weight of 64 x 64" in out
    assert "cache 1" in out
