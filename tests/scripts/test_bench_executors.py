"""The benchmark of executors counts as torch counts, compares memories that are not zero, and goes on after a kill."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from rmt.executors import Sequential, for_reading
from rmt.segments import split

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"
FAST = ("sequential", "wavefront", "side by side", "captured", "packed", "auto", "full attention")


def subject_of(bench, name="tiny", dtype="float32", **options):
    model = bench("sizes").build(name, 256, "cpu", dtype)
    model.config.segment_size = 8
    return bench("sides").Subject(name, model, "cpu", 1e11, rehearsal=True, **options)


def counted(work):
    with FlopCounterMode(display=False) as count, sdpa_kernel(SDPBackend.MATH), torch.inference_mode():
        work()
    return count.get_total_flops()


@pytest.mark.parametrize("name", ["tiny", "tiny-bert"])
def test_operations_are_those_that_torch_counts(bench, name):
    sizes, now = bench("sizes"), subject_of(bench, name)
    config, inner = now.model.config, now.model.config.backbone_config
    full = counted(lambda: now.model.core(input_ids=now.ids(0, 20)))
    width = 8 + config.num_memory_tokens
    if name == "tiny-bert":
        assert full == sizes.full_operations(inner, 20)
        return
    # Torch counts the half of the square that a causal mask hides.
    hidden_half = 2 * inner.num_hidden_layers * inner.hidden_size
    assert full == sizes.full_operations(inner, 20) + hidden_half * 20**2
    (segment,) = split(now.ids(0, 8), None, 8)
    state = now.model.cell.initial(1)
    read = counted(lambda: Sequential().read(now.reading, [segment], state))
    assert read == sizes.operations(config) + hidden_half * width**2


def test_sizes_are_those_of_their_names(bench):
    sizes = bench("sizes")
    from transformers import LlamaConfig

    for name, least, most in (("llama-160m", 110e6, 120e6), ("llama-1b", 0.95e9, 1.0e9), ("llama-8b", 6.9e9, 7.0e9)):
        size = sizes.SIZES[name]
        config = LlamaConfig(
            hidden_size=size.hidden,
            intermediate_size=size.inner,
            num_attention_heads=size.heads,
            num_key_value_heads=size.heads_of_keys or size.heads,
        )
        assert least < size.layers * sizes.weights(config) < most, f"{name}, without embeddings"
    assert sizes.memory_tokens("llama-1b", "cuda") == 128
    assert sizes.memory_tokens("llama-30m", "cpu") == 16
    with pytest.raises(ValueError, match="expected some of tiny"):
        sizes.build("llama-9b", 0, "cpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_is_built_as_for_reading(bench, dtype):
    built = bench("sizes").build("tiny", 0, "cpu", dtype)
    twin = for_reading(built, dtype)
    ours, theirs = (
        {n: (t.dtype, t.requires_grad) for n, t in m.named_parameters()} | {n: b.dtype for n, b in m.named_buffers()}
        for m in (built, twin)
    )
    assert ours == theirs
    assert not built.training
    kinds = [m.core.config._attn_implementation for m in (built, twin)]
    assert kinds[0] == kinds[1] == ("eager" if dtype == "bfloat16" else "sdpa")


@pytest.mark.parametrize(("name", "missing"), [("tiny", {"captured"}), ("tiny-bert", {"wavefront", "side by side"})])
def test_a_round_compares_all_sides(bench, name, missing):
    sides, now = bench("sides"), subject_of(bench, name)
    # A document whose last segment is short.
    kept, cell = sides.nothing(), sides.Cell(name, 61, 8, FAST)
    for number in range(2):
        sides.one_round(now, cell, kept)
        assert set(kept["rounds"][number]) == set(FAST) - missing
    assert set(kept["notes"]) == missing
    assert set(kept["gaps"]) == set(FAST) - missing - {"sequential", "full attention"}
    assert max(kept["gaps"].values()) < 1e-5  # rounding of a batch in float32
    begins = [next(iter(here)) for here in kept["rounds"]]
    assert begins[0] == "sequential" != begins[1], "the order turns"
    assert kept["rounds"][0]["packed"]["tokens"] == 4 * 61
    assert now.model.core.config._attn_implementation == "sdpa", "what a side sets is set back"


def test_another_memory_is_seen(bench):
    sides, now = bench("sides"), subject_of(bench)
    state = sides.read(now, Sequential(), now.ids(0, 24))
    other = sides.read(now, Sequential(), now.ids(1, 24))
    assert sides.gap(state, state) == 0
    assert sides.gap(other, state) > 1e-2
    assert sides.gap({**state, "normalizers": state["normalizers"] * torch.nan}, state) == float("inf")
    with pytest.raises(ValueError, match="got zeros"):
        sides.gap(state, now.model.cell.initial(1))


def test_a_random_memory_grows_with_what_is_written_and_no_faster(bench):
    sides, now = bench("sides"), subject_of(bench)
    short, long = (sides.read(now, Sequential(), now.ids(0, n))["associations"].norm() for n in (16, 800))
    assert 2 * short < long < 50 * short


def test_full_attention_is_left_out_with_a_word(bench, monkeypatch):
    sides = bench("sides")
    assert "would take about" in sides.side(subject_of(bench, full_limit=1e-9), "full attention", 64)
    assert "no position table" in sides.side(subject_of(bench, "tiny-bert"), "full attention", 1000)
    monkeypatch.setattr(sides, "free_bytes", lambda device: 10)
    assert "are free" in sides.side(subject_of(bench), "full attention", 64)


def test_a_side_that_fails_is_left_out_and_a_wavefront_tried_again(bench, monkeypatch):
    sides, now = bench("sides"), subject_of(bench)
    now.batched, tried = "sdpa", []

    def fails(subject, one):
        tried.append(one.attention)
        raise RuntimeError("no batching rule")

    monkeypatch.setattr(sides, "timed", fails)
    kept = sides.nothing()
    for name in ("sequential", "wavefront"):
        assert sides.attempt(now, sides.Cell("tiny", 64, 8), name, kept) is None
    assert tried == ["sdpa", "sdpa", "eager"]
    assert kept["notes"] == dict.fromkeys(("sequential", "wavefront"), "RuntimeError: no batching rule")


def test_a_run_goes_on_where_it_stopped(bench, tmp_path, monkeypatch, capsys):
    executors, sides = bench("executors"), bench("sides")
    monkeypatch.setattr(sides.roofline, "SECONDS", 1e-4)
    command = ["--quick", "--models", "tiny", "--parts", "speed", "--dtype", "float32", "--out", str(tmp_path)]
    command += ["--executors", "sequential", "side by side", "captured"]
    assert executors.main([*command, "--minutes", "0"]) == 0
    assert "not finished" in capsys.readouterr().out
    path = tmp_path / "executors.json"
    first = json.loads(path.read_text())["cells"]["tiny 64 8"]["rounds"]
    assert len(first) == 1
    assert executors.main(command) == 0
    cells = json.loads(path.read_text())["cells"]
    assert cells["tiny 64 8"]["rounds"][0] == first[0]
    assert [len(cell["rounds"]) for cell in cells.values()] == [2, 2]
    out = capsys.readouterr().out
    assert "not finished" not in out
    assert "| tiny | 128 | 8 | side by side |" in out
    assert "asks for a CUDA device" in out
    assert (tmp_path / "executors-tiny-8.png").is_file()
    assert executors.main([*command, "--documents", "3"]) == 2
    assert executors.main(["--executors", "fast"]) == 2
    assert executors.main(["--lengths", "0"]) == 2
    assert "give another folder" in capsys.readouterr().err


def test_ratios_are_those_within_a_round(bench):
    executors = bench("executors")
    kept = {
        "rounds": [
            {"sequential": {"tokens": 10, "seconds": 2.0}, "packed": {"tokens": 20, "seconds": 2.0}},
            {"sequential": {"tokens": 10, "seconds": 8.0}, "packed": {"tokens": 20, "seconds": 4.0}},
            {"sequential": {"tokens": 10, "seconds": 1.0}},
        ]
    }
    assert executors.ratios(kept, "packed") == [2.0, 4.0]
    assert executors.speed_of(kept, "sequential") == 5.0
    assert executors.speed_of(kept, "captured") is None


def test_the_peak_is_that_of_the_side(bench, capsys):
    executors = bench("executors")
    assert executors.main(["--peak", "tiny", "64", "8", "side by side"]) == 0
    assert json.loads(capsys.readouterr().out)["reading_mb"] > 50
    assert executors.main(["--peak", "tiny", "64", "8", "captured"]) == 2
    growth = executors.peaks_table({"tiny 8 side by side": {"64": 100.0, "128": 110.0}})
    assert "| tiny | 8 | side by side | 64: 100, 128: 110 | 1.100 |" in growth


def test_peaks_are_of_a_model_whose_positions_hold_a_segment(bench, capsys):
    """Also where it fills what a table of positions usually has."""
    bench("executors").print_peak("tiny-bert", 1024, 512, "sequential", "float32")
    assert json.loads(capsys.readouterr().out)["reading_mb"] > 0
