"""The benchmark of LOMO runs, its measure of gradient memory measures, and the memory it reports is as stated."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from efficiency.lomo.size import counted, gradients_of

ROOT = Path(__file__).resolve().parents[2]


def test_gradient_memory_is_measured(bench):
    memory = bench("lomo").GradientMemory
    model = nn.Sequential(nn.Linear(32, 48, bias=False), nn.Linear(48, 32, bias=False))
    size = 32 * 48 * 4

    def backward(held):
        model.zero_grad()
        loss = model(torch.randn(5, 32)).sum()
        with memory(model, held) as found:
            found.counting = True
            loss.backward()
        return found.peak

    assert backward(int) == 2 * size
    assert backward(lambda: 7) == 2 * size + 7
    model[0].requires_grad_(False)
    assert backward(int) == size


def test_memory_at_four_segments(bench):
    subject = bench("lomo").Subject
    shape = {"num_hidden_layers": 6, "hidden_size": 512, "intermediate_size": 1536, "vocab_size": 1000}
    peaks = {kind: subject(kind, shape, 8).peak(4) for kind in ("plain", "hooks", "deferred", "deferred, checkpointed")}
    assert peaks["plain"] > 1.0
    assert peaks["hooks"] > 1.0  # what LOMO alone does not save
    assert peaks["deferred"] <= 0.30
    assert peaks["deferred, checkpointed"] <= 0.30
    by_layer = {kind: subject(f"{kind}, by layer", shape, 8).peak(4) for kind in ("plain", "hooks")}
    assert by_layer["plain"] > 1.0
    assert by_layer["hooks"] <= 0.40


@pytest.mark.parametrize(
    ("kind", "way", "segments"),
    [
        ("hooks", "early", 1),
        ("hooks", "early", 4),
        ("hooks, by layer", "layers", 4),
        ("deferred", "deferred", 1),
        ("deferred", "deferred", 4),
        ("deferred", "deferred", 8),
    ],
)
def test_the_estimate_of_gradients_is_their_peak(bench, kind, way, segments):
    """From 10 % under it, since that counts whatever has a parameter's shape, to 30 % above: what can come together
    need not."""
    shape = {"num_hidden_layers": 4, "hidden_size": 256, "intermediate_size": 768, "vocab_size": 500}
    subject = bench("lomo").Subject(kind, shape, 8)
    with counted(subject.model) as factors:
        subject.loss(1)
    expected = sum(size for _, size in gradients_of(subject.model, "lomo", way, factors, segments))
    assert 0.9 < expected / subject.bytes / subject.peak(segments) < 1.3


@pytest.mark.slow
def test_a_quick_run():
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "scripts/bench/lomo.py", "--quick", "--json"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    rows = {(row["kind"], row["segments"]): row for row in result["rows"]}
    assert {n for _, n in rows} == {1, 4}
    assert all(row["time"] > 0 and row["gradients"] > 0 for row in rows.values())
    assert rows["plain", 1]["time"] == rows["plain, by layer", 4]["time"] == 1
    assert rows["hooks", 1]["gradients"] < 0.3 < 1 < rows["hooks", 4]["gradients"]
    deep = {(row["kind"], row["tokens"]): row for row in result["deep"]}
    assert {n for _, n in deep} == {16, 256}
    assert all(row["seconds"] > 0 and 600 <= row["parameters"] < 610 for row in deep.values())
    assert deep["backward", 16]["over"]["backward"] == deep["backward + SGD", 256]["over"]["backward + SGD"] == 1
    assert {"hooks", "deferred"} <= {kind for kind, _ in deep}
