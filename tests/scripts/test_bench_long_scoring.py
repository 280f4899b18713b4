"""The benchmark of scoring behind long documents runs, and measures what it says."""

from __future__ import annotations

import json

import numpy as np


def test_a_quick_run(bench, capsys):
    assert bench("long_scoring").main(["--quick", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["continuation"] for row in result["rows"]] == [1, 64]
    for row in result["rows"]:
        assert row["own_logits_mb"] == row["continuation"] * result["vocabulary"] * 4 / 1e6
        assert row["added_mb"] < row["all_logits_mb"]
        assert row["nats_a_token"] < 0
    # All logits are a copy in float32 at the least.
    assert result["naive_mb"] > result["naive_tokens"] * result["vocabulary"] * 4 / 1e6 * 0.9


def test_a_wrong_model_and_the_same_tokens_again(bench, capsys):
    long_scoring = bench("long_scoring")
    assert long_scoring.main(["--quick", "--model", "minilm-rmt"]) == 2
    assert "expected a language model" in capsys.readouterr().err
    made = long_scoring.Made(10_000, 5, 50)
    whole = made.tokens(0, 10_000)
    assert np.array_equal(made.tokens(4_000, 8_300), whole[4_000:8_300])
    assert (whole.min(), whole.max()) == (5, 49)


def test_a_quick_run_of_the_embedder(bench, capsys):
    assert bench("embedding").main(["--quick", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["dtype"], row["from"]) for row in rows] == [
        (dtype, source) for dtype in ("bfloat16", "float32") for source in ("ids", "text")
    ]
    assert all(row["wall"] > 0 and row["chunks"] == 16 for row in rows)
