"""The benchmark runs, its figures follow from one another, and its measure of memory measures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "scripts" / "bench"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCH / "reading.py"), *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_quick_run_with_8_bit_layers(tmp_path):
    done = run(
        "--quick", "--only", "speed", "--int8", "--model", "fresh", "--max-length", "1000", "--out", str(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "reading.json").read_text(encoding="utf-8"))
    assert results["settings"]["int8"] is True
    assert all(ratio > 0 for row in results["speed"]["rows"] for ratio in row["ratios"])


@pytest.mark.slow
def test_a_quick_run_writes_what_it_measured(tmp_path):
    done = run("--quick", "--max-length", "1000", "--segment-size", "64", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "reading.json").read_text())
    assert results["settings"]["segment_size"] == 64
    assert results["settings"]["quick"] is True

    speed = results["speed"]
    assert [row["length"] for row in speed["rows"]] == [250, 1000]
    for row in speed["rows"]:
        pairs = zip(row["reader_tokens_per_s"], row["reference_tokens_per_s"], strict=True)
        assert row["ratios"] == pytest.approx([ours / theirs for ours, theirs in pairs])
        assert row["ratio"] == pytest.approx(median(row["ratios"]))
        assert len(row["ratios"]) == 2
        assert row["rows_per_segment"] >= 1
        assert row["least_cores"] > 0
        assert (row["questions"] is None) == (results["settings"]["model"] == "fresh")
    assert speed["ratio"] == min(row["ratio"] for row in speed["rows"])
    assert speed["met"] is None  # a quick run judges nothing

    memory = results["memory"]
    assert [row["length"] for row in memory["rows"]] == pytest.approx([250, 1000], abs=5)
    for row in memory["rows"]:
        assert row["process_mb"] >= row["reading_mb"] > 100  # torch alone takes more
        assert 0 < row["memory_bytes"] <= 64 * 1024
    first, last = memory["rows"]
    assert memory["reading_ratio"] == pytest.approx(last["reading_mb"] / first["reading_mb"])
    assert memory["ratio"] == max(memory["reading_ratio"], memory["process_ratio"])

    rows = {(row["recurrence"], row["segments"]): row["peak"] for row in results["activations"]["rows"]}
    assert set(rows) == {(kind, n) for kind in ("plain", "checkpointed") for n in (4, 16, 64)}
    assert rows["plain", 64] > 2 * rows["plain", 4] > 0
    assert results["activations"]["ratio"] == pytest.approx(rows["checkpointed", 64] / rows["checkpointed", 4])

    for name in ("speed", "peak_memory", "activations"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_both_sides_are_compared_where_memory_is_written(bench):
    """Gates that open: memories are not empty, agree, and answers agree; another twin does not."""
    import torch

    from evals.tasks.memory import MemoryTasks
    from rmt.reader import Reader
    from rmt.reference import as_reference

    speed, subject = bench("speed"), bench("subject")
    model, tokenizer = subject.load("fresh", 64)
    torch.nn.init.zeros_(model.cell.slot_gate.bias)
    background = np.random.default_rng(0).integers(1000, 20000, 300)
    document = MemoryTasks(tokenizer, background, 200).document(0)
    reader = Reader(model, tokenizer, dtype="float32")
    got = speed.read_both(reader, as_reference(model), document, reader_first=True)
    assert got.gap <= 1e-4 * got.size
    assert got.same == got.questions == 3
    assert 0 < got.doubt < 1e-4
    # Every segment wrote, so those read ahead of it were read in vain; one core reads none ahead.
    assert got.rows == 1 if torch.get_num_threads() == 1 else got.rows >= 1

    other = as_reference(model)
    torch.nn.init.constant_(other.cell.slot_gate.bias, 1.0)
    wrong = speed.read_both(reader, other, document, reader_first=False)
    assert wrong.gap > 1e-3 * got.size
    assert wrong.doubt > 10 * got.doubt


@pytest.mark.parametrize(
    ("part", "ratio", "met"),
    [("speed", 4.0, True), ("speed", 3.9, False), ("memory", 1.05, True), ("memory", 1.06, False)],
)
def test_speed_reaches_its_target_and_memory_stays_below(bench, part, ratio, met):
    assert bench("figures").verdict(part, ratio, quick=False)["met"] is met
    assert bench("figures").verdict(part, ratio, quick=True)["met"] is None
    if part == "speed":
        assert bench("figures").verdict(part, ratio, quick=False, segment_size=497)["met"] is True


def test_a_busy_machine_is_told(bench):
    import time

    speed = bench("speed")
    _, wall, busy = speed.timed(lambda: time.sleep(0.2))
    assert wall >= 0.2 > 2 * busy
    reading = speed.Reading(20.0, 10.0, 1.0, 0.0, 1.0, 3, 3, 0.0, cores=busy / wall)
    assert "machine was busy" in speed.show([speed.row(100, [reading], True)])
    quiet = speed.Reading(20.0, 10.0, 1.0, 0.0, 1.0, 3, 3, 0.0, cores=0.99)
    assert "machine was busy" not in speed.show([speed.row(100, [quiet], True)])


def test_a_ratio_is_that_of_the_longest_document_and_the_worse_count(bench):
    peak = bench("peak")
    rows = [
        {"length": 10, "reading_mb": 100.0, "process_mb": 200.0},
        {"length": 1000, "reading_mb": 110.0, "process_mb": 200.0},
        {"length": 100, "reading_mb": 400.0, "process_mb": 400.0},
    ]
    assert peak.ratios(rows)["ratio"] == pytest.approx(1.1)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can reset a peak")
def test_a_peak_is_seen_after_it_is_gone_and_not_inherited():
    """In a process started by one that is larger by 300 MB."""
    child = (
        "import peak; before = peak.peak_mb(); b = bytearray(b'x') * 100_000_000; del b; after = peak.peak_mb();"
        "reset = peak.reset_peak(); print(before, after, peak.peak_mb(), reset)"
    )
    parent = (
        "import subprocess, sys; held = bytearray(b'x') * 300_000_000;"
        f"print(subprocess.check_output([sys.executable, '-c', {child!r}], text=True))"
    )
    env = {**os.environ, "PYTHONPATH": str(BENCH)}
    out = subprocess.check_output([sys.executable, "-c", parent], env=env, text=True).split()
    before, after, again = map(float, out[:3])
    assert before < 150
    assert after - before > 95
    if out[3] == "True":
        assert again < before + 20


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "cuda"], "--device: expected a GPU"),
        (["--repeats", "0"], "--repeats: expected at least 1, got 0"),
        (["--quick", "--only", "speed", "--model", "none", "--max-length", "1000"], "none: expected"),
    ],
)
def test_bad_input_is_one_line(bench, tmp_path, capsys, monkeypatch, arguments, said):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert bench("reading").main([*arguments, "--out", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]


def test_text_is_cut_to_a_number_of_tokens_and_never_repeated(bench, tmp_path):
    from rmt.errors import InputError

    subject = bench("subject")
    _, tokenizer = subject.load("fresh", 64)
    source = tmp_path / "source.txt"
    source.write_text("The river bank was quiet in 1859, and nobody came. " * 50)
    path = subject.cut(str(source), tokenizer, 101, tmp_path / "cut.txt")
    assert len(tokenizer(path.read_text(), add_special_tokens=False).input_ids) == 101
    odd = tmp_path / "odd.jsonl"
    odd.write_text(json.dumps({"text": "A NUL\0 stands here. " * 50}))
    assert "\0" not in subject.cut(str(odd), tokenizer, 101, tmp_path / "odd.txt").read_text()
    with pytest.raises(InputError, match="expected at least 100,000 tokens"):
        subject.cut(str(source), tokenizer, 100_000, tmp_path / "cut.txt")


def test_parts_with_other_settings_are_not_mixed(bench, tmp_path):
    reading, path = bench("reading"), tmp_path / "reading.json"
    reading.keep(path, {"model": "a"}, "speed", {"ratio": 1})
    reading.keep(path, {"model": "a"}, "memory", {"ratio": 2})
    assert json.loads(path.read_text()) == {
        "settings": {"model": "a"},
        "speed": {"ratio": 1},
        "memory": {"ratio": 2},
    }
    reading.keep(path, {"model": "b"}, "memory", {"ratio": 3})
    assert json.loads(path.read_text()) == {"settings": {"model": "b"}, "memory": {"ratio": 3}}


@pytest.mark.parametrize(
    ("arguments", "lengths"),
    [
        ([], [4_000, 16_000, 64_000]),
        (["--max-length", "2000000"], [4_000, 16_000, 64_000, 256_000, 1_000_000, 2_000_000]),
        (["--max-length", "20000"], [4_000, 16_000, 20_000]),
        (["--quick"], [500, 2_000]),
    ],
)
def test_speed_is_measured_on_longer_texts_where_asked(bench, arguments, lengths):
    reading = bench("reading")
    args = reading.parse(arguments)
    assert reading.ladder(reading.SPEED_LENGTHS, args.max_speed_length) == lengths


def test_time_is_taken_when_the_gpu_is_done(bench, monkeypatch):
    import torch

    speed, did = bench("speed"), []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: did.append("waited"))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    speed.timed(lambda: did.append("worked"))
    assert did == ["waited", "worked", "waited"]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    speed.timed(lambda: did.append("worked"))
    assert did[3:] == ["worked"]


def test_a_model_goes_to_the_gpu_where_there_is_one(bench, monkeypatch):
    import torch

    subject = bench("subject")
    for there, auto in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert (subject.place("auto"), subject.place("cpu")) == (auto, "cpu")
    monkeypatch.setattr(subject, "place", lambda device: {"auto": "meta"}[device])
    for name in ("fresh", "minilm-rmt"):
        assert subject.load(name, 64, "auto")[0].device.type == "meta"


def test_peaks_on_the_gpu_count_too(bench):
    peak = bench("peak")
    rows = [
        {"length": n, "reading_mb": 100.0, "process_mb": 200.0, "cuda_mb": 50.0 + n, "memory_bytes": 9} for n in (1, 25)
    ]
    assert peak.ratios(rows)["ratio"] == pytest.approx(75 / 51)
    assert "peak MB on the GPU 75.0" in peak.show(rows)
    assert peak.curves(rows)["on the GPU"] == [(1, 51.0), (25, 75.0)]
    rows = [{k: v for k, v in row.items() if k != "cuda_mb"} for row in rows]
    assert "GPU" not in peak.show(rows)


def test_saved_and_peak_activations_each_have_their_ratio(bench):
    activations, figures = bench("activations"), bench("figures")
    rows = activations.table([2, 8], segment_size=16, batch_size=1, layers=1, hidden=64)
    plain, checkpointed = ([r for r in rows if r["recurrence"] == kind] for kind in ("plain", "checkpointed"))
    for first, last in (plain, checkpointed):
        assert (first["saved_ratio"], first["peak_ratio"]) == (1, 1)
        assert last["saved_ratio"] == last["saved"] / first["saved"]
        assert last["peak_ratio"] == last["peak"] / first["peak"]
        assert last["saved"] <= last["peak"]
    assert plain[1]["peak_ratio"] > 3
    assert checkpointed[1]["peak_ratio"] < 1.5 < checkpointed[1]["saved_ratio"]
    # Memories (10 tokens of 64 numbers) and ids with mask and places, nothing of the size of a hidden state a token.
    a_segment = (checkpointed[1]["saved"] - checkpointed[0]["saved"]) / 6
    assert a_segment == pytest.approx(4 * 10 * 64 + 16 * (8 + 8 + 1), rel=0.05)
    said = figures.show("activations", {"rows": rows, "ratio": 1.02, "target": 1.1, "met": True})
    assert "ratio of the peaks 1.020" in said
    assert "saved MB   / first    peak MB   / first" in said
    assert "only memories and token ids" in said
