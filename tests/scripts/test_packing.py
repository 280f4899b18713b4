"""The benchmark of reading side by side runs, on documents whose lengths differ."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rmt.memory import Memory

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"


@pytest.fixture
def packing(bench):
    return bench("packing")


def test_lengths_and_gaps(packing):
    lengths = packing.lengths(200, 4096)
    assert len(set(lengths)) > 150
    assert min(lengths) >= packing.SHORTEST
    assert max(lengths) <= 4096
    assert 0.35 < sum(n < 512 for n in lengths) / 200 < 0.65, "half of the powers of two, half of the documents"
    ours, theirs = (
        [Memory({"tokens": torch.tensor([[[x, 4.0]]])}) for x in values] for values in ([1.0, 2.0], [1.0, 2.5])
    )
    assert packing.gap(ours, theirs) == pytest.approx(0.125)
    assert packing.gap(ours, ours) == 0


@pytest.mark.slow
def test_a_quick_run(packing, capsys):
    assert packing.main(["--quick", "--models", "llama-rmt", "--dtype", "float32", "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "5 documents" in lines[0]
    slots, ratio = lines[3].split()[:2]
    assert int(slots) == 2
    assert float(ratio) > 0
    assert packing.main(["--models", "nowhere"]) == 2
