"""The benchmark for a GPU, rehearsed with toys: all its parts run, in pieces, and its tables say what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"


@pytest.fixture
def gpu_reading(bench):
    return bench("gpu_reading")


def test_all_of_the_table_is_read(gpu_reading):
    models = list(dict.fromkeys(model for model, _ in gpu_reading.PUBLISHED))
    first, then = gpu_reading.cells(models)
    keys = [cell.key for cell in first + then]
    assert len(keys) == len(set(keys))
    for model, segment in gpu_reading.PUBLISHED:
        assert f"{model} 131072 {segment}" in keys
        assert f"{model} 1048576 {segment}" in keys
        (short,) = (cell for cell in first if cell.key == f"{model} 4096 {segment}")
        assert "auto" in short.names
    assert "minilm 2048000 499" in keys
    assert all(cell.model == "llama-8b" for cell in gpu_reading.cells(["llama-8b"])[0])


def test_kernels_by_what_they_are_for(gpu_reading):
    times = [
        ("nvjet_tst_128x256_64x4_1x2_h_bz_coopA_TNN", 0.3),
        ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu>", 0.1),
        ("pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits>", 0.2),
        ("fmha_cutlassF_bf16_aligned_64x128_rf_sm80", 0.05),
        ("void at::native::elementwise_kernel<at::native::direct_copy_kernel_cuda>", 0.03),
        ("void at::native::vectorized_elementwise_kernel<at::native::CUDAFunctor_add>", 0.02),
        ("void at::native::reduce_kernel<512, 1, at::native::MeanOps>", 0.01),
        ("strange", 0.04),
    ]
    found = gpu_reading.kinds(times, 1.0)
    assert found["matrix products"] == pytest.approx(0.4)
    assert found["attention"] == pytest.approx(0.25)
    assert found["moving"] == pytest.approx(0.03)
    assert found["element by element"] == pytest.approx(0.02)
    assert found["norms and sums"] == pytest.approx(0.01)
    assert found["other kernels"] == pytest.approx(0.04)
    assert sum(found.values()) == pytest.approx(1.0)
    assert found["the GPU waits"] == pytest.approx(0.25)


def test_checks_name_what_fails(gpu_reading):
    def cell(auto, peak):
        took = {"tokens": 1, "seconds": 1.0, "peak_mb": peak}
        return {"rounds": [{"sequential": took, "auto": {"tokens": 1, "seconds": auto}}], "notes": {}, "gaps": {}}

    cells = {"a 4096 512": cell(2.0, 1.0), "b 131072 512": cell(1.01, 100.0), "b 1048576 512": cell(0.5, 120.0)}
    said = gpu_reading.checks({"cells": cells})
    assert "slower than the sequence: a 4096 512: 0.50\n" in said
    assert "peak of b, 512, sequential: 120 MB at 1,048,576 tokens, 1.200 of that at 131,072" in said
    assert "nowhere" in gpu_reading.checks({"cells": {"b 131072 512": cells["b 131072 512"]}})


def test_what_cannot_be_measured_is_refused(gpu_reading, tmp_path, capsys):
    assert gpu_reading.main(["--out", str(tmp_path), "--device", "cpu"]) == 2
    assert gpu_reading.main(["--out", str(tmp_path), "--device", "cpu", "--tiny", "--models", "llama-30m"]) == 2
    assert gpu_reading.main(["--out", str(tmp_path), "--device", "cpu", "--tiny", "--repeats", "0"]) == 2
    assert "expected --tiny" in capsys.readouterr().err


@pytest.mark.slow
def test_a_rehearsal_in_two_pieces(gpu_reading, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_reading.sides.roofline, "SECONDS", 1e-4)
    monkeypatch.setattr(gpu_reading, "LONGEST", 2 * gpu_reading.LONG)
    monkeypatch.setattr(gpu_reading, "GRAPHS", gpu_reading.LONG)
    command = ["--out", str(tmp_path), "--device", "cpu", "--tiny", "--repeats", "1", "--models", "llama-160m"]
    assert gpu_reading.main([*command, "--minutes", "0"]) == 3
    assert gpu_reading.main(command) == 0
    out = capsys.readouterr().out
    assert "2.03 / 3.37 / 0.855" in out
    assert "done" in out.splitlines()
    data = json.loads((tmp_path / "gpu_reading.json").read_text())
    assert all(len(cell["rounds"]) == 1 for cell in data["cells"].values())
    assert "captured" in data["cells"]["tiny-bert 512 7"]["rounds"][0], "graphs are rehearsed by their twin"
    assert len(data["profiles"]) == 4
    assert all(sum(found["kinds"].values()) > 0.9 * found["wall"] for found in data["profiles"].values())
    assert (tmp_path / "gpu_reading.png").is_file()
