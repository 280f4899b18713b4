"""Operations are counted as torch counts them, and a profile's shares add up to the time that was measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer

from rmt import pretrained
from rmt.executors.narrow import narrow
from rmt.reader import Reader
from tests.rmt.tiny import causal, classifier, content

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"


@pytest.fixture(scope="module")
def tokenizer():
    return pretrained.of_minilm(AutoTokenizer.from_pretrained)


def test_operations_are_those_of_a_segment(bench):
    model = classifier(segment_size=9).eval()
    model.set_attn_implementation("eager")
    view = narrow(model.core, "encoder.layer", 1 + model.config.num_memory_tokens)
    inputs = torch.randn(1, bench("roofline").width_of(model.config), model.config.hidden_size)
    with FlopCounterMode(display=False) as count, sdpa_kernel(SDPBackend.MATH), torch.inference_mode():
        view(inputs_embeds=inputs)
    assert count.get_total_flops() == bench("roofline").operations(model.config)
    assert bench("roofline").operations(causal().config) is None


def test_the_width_is_that_of_a_segment(bench):
    model, widths = classifier(segment_size=9).eval(), []
    model.core.register_forward_pre_hook(
        lambda _, __, kwargs: widths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    model(input_ids=content(1, 9))
    assert widths == [bench("roofline").width_of(model.config)]


def test_a_rate_is_operations_over_the_fastest_time(bench, monkeypatch):
    roofline = bench("roofline")
    clock = iter([0.0, 0.3, 10.0, 12.0, 20.0, 20.5, 30.0, 31.0])  # two laps and more, one round each
    monkeypatch.setattr(roofline, "LAPS", 3)
    monkeypatch.setattr(roofline.time, "perf_counter", lambda: next(clock))
    assert roofline.fastest(lambda: None, 100) == 200


def test_what_was_achieved_stands_beside_both_peaks(bench, tokenizer, monkeypatch):
    roofline = bench("roofline")
    model = classifier().eval()
    reader = Reader(model, tokenizer, dtype="float32")
    monkeypatch.setattr(roofline, "SECONDS", 1e-4)
    monkeypatch.setattr(roofline, "SQUARE", 64)
    found = roofline.roofline(reader, [{"length": 100, "reader_tokens_per_s": [1.0, 3.0, 2e6]}])
    assert found["achieved"][100] == pytest.approx(3 / 4 * roofline.operations(model.config) / 1e9)
    assert found["own"] > 0 < found["square"]
    found |= {"achieved": {100: 30.0}, "own": 60.0, "square": 120.0}
    assert "100 tokens at 30 GFLOP/s, 50% of the 60 " in roofline.show(found)
    assert "25% of the 120 " in roofline.show(found)
    assert roofline.roofline(Reader(causal(), tokenizer, dtype="float32"), []) is None
    assert "not counted" in roofline.show(None)


def test_shares_add_up(bench):
    shares = bench("profile_reading").shares
    times = [("aten::mm", 0.2), ("aten::bmm", 0.1), ("mkldnn::_linear_pointwise", 0.3), ("aten::strange", 0.05)]
    found = shares(times, 1.0)
    assert found["matrix products"] == pytest.approx(0.5)
    assert found["attention"] == pytest.approx(0.1)
    assert found["other operations"] == pytest.approx(0.05)
    assert sum(found.values()) == pytest.approx(1.0)
    assert min(shares(times, 0.1).values()) == 0.0


def test_each_kind_is_seen_in_a_reading(bench, tokenizer, monkeypatch):
    profile_reading = bench("profile_reading")
    model = classifier(memory_update="gated").eval()
    reader = Reader(model, tokenizer, dtype="float32")
    ids = content(1, 40)[0].numpy()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # work of other threads the profiler does not see
    found, wall = profile_reading.measure(lambda: reader.read(ids, progress=False))
    assert all(found[kind] > 0 for kind in profile_reading.KINDS)
    assert "100.0%" not in profile_reading.show(found, wall, 10)


@pytest.mark.slow
def test_a_profile_is_printed(bench, capsys):
    assert bench("profile_reading").main(["--segments", "2", "--segment-size", "64"]) == 0
    out = capsys.readouterr().out
    assert "matrix products" in out
    assert "% of the" in out
    assert bench("profile_reading").main(["--segments", "0"]) == 2
