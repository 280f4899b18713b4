"""The benchmark of 8-bit reading on a GPU, rehearsed with toys: its sides do the same work, in pieces."""

from __future__ import annotations

import json

import pytest
import torch


@pytest.fixture
def gpu_int8(bench):
    return bench("gpu_int8")


def results(folder):
    return json.loads((folder / "gpu_int8.json").read_text())["cells"]


def test_a_rehearsal_in_two_pieces(gpu_int8, tmp_path, capsys):
    command = ["--out", str(tmp_path), "--quick"]
    assert gpu_int8.main([*command, "--minutes", "0"]) == 3
    first = results(tmp_path)
    assert [len(cell["rounds"]) for cell in first.values()] == [1]
    assert gpu_int8.main(command) == 0
    cells = results(tmp_path)
    assert list(cells) == ["tiny | prefill", "tiny | decode"]
    assert cells["tiny | prefill"]["rounds"][0] == first["tiny | prefill"]["rounds"][0]
    for cell in cells.values():
        ours = [set(r) - {"torchao"} for r in cell["rounds"]]
        assert ours == [{"bf16", "int8", "int8 fused"}] * 2
    for r in cells["tiny | prefill"]["rounds"]:
        assert r["bf16"]["differs"] == 0
        for side in ("int8", "int8 fused"):
            assert 0 < r[side]["differs"] < 0.05, "the same work, rounded"
            assert r[side]["held"] < r["bf16"]["held"]
    printed = capsys.readouterr().out
    assert (tmp_path / "gpu_int8.md").read_text().strip() in printed
    assert "not judged in a rehearsal" in printed


def test_every_layer_of_the_blocks_is_8_bit_and_base_stays(gpu_int8):
    base = gpu_int8.sizes.build("tiny", 64, "cpu", "bfloat16")
    before = {name: p.clone() for name, p in base.named_parameters()}
    for side, layers in (("int8", 21), ("int8 fused", 12)):
        made = gpu_int8.made(side, base)
        assert sum(isinstance(m, gpu_int8.Layer) for m in made.modules()) == layers
        assert not [n for n, m in made.named_modules() if gpu_int8.in_block(n, m)]
    assert all(torch.equal(p, before[name]) for name, p in base.named_parameters())


def test_what_a_side_cannot_do_gets_a_note(gpu_int8, tmp_path, monkeypatch, capsys):
    turn = gpu_int8.Bench.turn

    def faulty(self, kind, side):
        if side == "int8":
            raise RuntimeError("CUDA out of memory")
        return turn(self, kind, side)

    monkeypatch.setattr(gpu_int8.Bench, "turn", faulty)
    assert gpu_int8.main(["--out", str(tmp_path), "--quick", "--rounds", "1"]) == 0
    cell = results(tmp_path)["tiny | prefill"]
    assert cell["notes"]["int8"] == "RuntimeError: CUDA out of memory"
    assert "int8 fused" in cell["rounds"][0]
    assert "CUDA out of memory" in capsys.readouterr().out


def test_targets_are_judged(gpu_int8):
    def side(seconds, peak):
        return {"seconds": seconds, "held": 1, "peak": peak, "differs": 0.0}

    rounds = [{"bf16": side(1.4, 100), "int8": side(1.0, 59), "int8 fused": side(1.2, 61)}]
    machine = {"device": "a GPU", "torch": "2", "products": "triton"}
    data = {"machine": machine, "cells": {"llama-8b | prefill": {"rounds": rounds, "notes": {}}}}
    lines = [line for line in gpu_int8.report(data).splitlines() if line.startswith("- ")]
    assert [line.split(": ")[-1] for line in lines] == ["met", "met", "missed", "missed"]
    assert "speed of int8 1.40, at least 1.3" in lines[0]


def test_what_cannot_be_measured_is_refused(gpu_int8, tmp_path, capsys):
    out = ["--out", str(tmp_path)]
    assert gpu_int8.main([*out, "--quick", "--rounds", "0"]) == 2
    if not torch.cuda.is_available():
        assert gpu_int8.main(out) == 2
        assert "expected a GPU" in capsys.readouterr().err
