"""The benchmark of long contexts in lm-eval runs."""

from __future__ import annotations

import json

import pytest


def test_a_quick_run(bench, capsys):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    bench("lm_eval_long").main(["--quick"])
    row = json.loads(capsys.readouterr().out)
    assert row["tokens"] == 2_000
    assert len(row["nats"]) == 3
    assert all(nats < 0 for nats in row["nats"])
