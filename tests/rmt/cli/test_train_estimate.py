"""`rmt train --estimate`: what a run would take, of real shapes, none of it made; against a run's own model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer
from typer.testing import CliRunner

from efficiency.footprint import NF4_BITS, measure
from rmt.cli.app import app
from rmt.cli.training_estimate import CARD_KEEPS, estimate_run, one_segment, verdict
from rmt.cli.training_run import Settings, build_model
from rmt.errors import InputError
from rmt.pretrained import of_minilm
from rmt.training.settings import override

EIGHT_BILLION = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}
SMALL = ("optim.batch_size=3", "curriculum.stages=4x32:p1", "optim.bf16=false")


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(EIGHT_BILLION))
    return tmp_path


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("lora.r=0",),
        ("model.memory=associative",),
        ("model.kind=decoder", "model.hidden_size=64", "model.layers=2"),
        ("model.kind=decoder", "model.hidden_size=64", "model.layers=2", "model.memory=associative"),
    ],
)
def test_it_is_what_the_model_of_the_run_takes(changes: tuple[str, ...]) -> None:
    settings = override(Settings(), [*SMALL, *changes])
    expected = estimate_run(settings)
    model = build_model(settings, of_minilm(AutoTokenizer.from_pretrained)).train()
    inner = model.base_model.model if hasattr(model, "peft_config") else model
    trained = [p for p in model.parameters() if p.requires_grad]
    got = measure(model, torch.optim.AdamW(trained), one_segment(inner, 3, 32))
    assert expected.of("parameters") == pytest.approx(got.of("parameters"), rel=1e-3)
    # A head that classifies gets no gradient from one segment of many.
    assert expected.of("gradients") == pytest.approx(got.of("gradients"), rel=0.02)
    assert expected.of("optimizer") == pytest.approx(got.of("optimizer"), rel=0.02)
    # Attention is written out in what `rmt train` builds, and a kernel in what a card would run.
    assert 0.5 * 4 * got.of("activations") < expected.of("activations") <= 1.05 * 4 * got.of("activations")


def test_fused_adapters_keep_less() -> None:
    fused, plain = (
        estimate_run(override(Settings(), [*SMALL, f"lora.fused={on}"])).of("activations") for on in ("true", "false")
    )
    assert fused < 0.7 * plain


def test_eight_billion_parameters_on_a_card_of_24_gigabytes(llama: Path) -> None:
    common = ["model.kind=decoder", f"model.backbone={llama}", "model.dtype=bfloat16", "curriculum.stages=4x1024:p4"]
    common += ["optim.batch_size=1", "model.recurrence=checkpointed"]

    def told(*changes: str) -> str:
        result = CliRunner().invoke(app, ["train", "--estimate", "--card", "24", *common, *changes])
        assert result.exit_code == 0, result.output
        return result.stdout.splitlines()[-1]

    assert told("model.quantization=nf4", "lora.r=16").startswith("Fits a card of 24 GB")
    assert told("lora.r=0").startswith("Does not fit a card of 24 GB")
    full = estimate_run(override(Settings(), [*common, "lora.r=0"]))
    numbers = 8_030_261_248
    assert full.of("parameters") == pytest.approx(2 * numbers, rel=0.01)  # and a memory
    assert full.of("optimizer") == pytest.approx(4 * numbers, rel=0.01)

    # What LOMO keeps of gradients grows with tokens, to no more than all of them: 4 * 1024 are too many at this width.
    lomo = {
        shape: estimate_run(
            override(
                Settings(), [*common, "lora.r=0", "optim=lomo", "optim.bf16=false", f"curriculum.stages={shape}:p4"]
            )
        ).of("gradients")
        for shape in ("4x1024", "2x128", "1x32")
    }
    share = {shape: size / full.of("gradients") for shape, size in lomo.items()}
    assert 0.95 < share["4x1024"] < 1.1
    assert 0.1 < share["2x128"] < 0.2
    assert 0.02 < share["1x32"] < 0.07

    small = estimate_run(override(Settings(), [*common, "model.quantization=nf4"]))
    linear = 32 * (2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 4096 * 14_336)
    assert full.of("parameters") - small.of("parameters") > 0.98 * linear * (2 - NF4_BITS / 8) - 0.2e9


def test_what_lomo_keeps_is_told() -> None:
    shape = (
        "model.kind=decoder",
        "model.hidden_size=64",
        "model.layers=2",
        "curriculum.stages=2x16:p1",
        "optim.batch_size=1",
    )
    for name in ("lomo", "adalomo"):
        result = CliRunner().invoke(app, ["train", "--estimate", *shape, f"optim={name}"])
        assert result.exit_code == 0, result.output
        assert "or one gradient if that is less" in result.stdout.splitlines()[-2]
        assert any(line.startswith("update ") for line in result.stdout.splitlines())
    plain = CliRunner().invoke(app, ["train", "--estimate", *shape])
    assert "update" not in plain.stdout


def test_a_longer_run_keeps_more_unless_it_is_checkpointed() -> None:
    def activations(*changes: str) -> int:
        return estimate_run(override(Settings(), [*SMALL, *changes])).of("activations")

    four, eight = activations(), activations("curriculum.stages=8x32:p1")
    assert eight == 2 * four
    # Every segment of a decoder has a loss, and so has one of an encoder with a penalty on its gates.
    for kind in ("encoder", "decoder"):
        short = (f"model.kind={kind}", "model.bptt_depth=4")
        assert activations(*short, "curriculum.stages=8x32:p1") == 2 * activations(*short)
    bare = ("model.kind=encoder", "model.bptt_depth=4", "model.gate_penalty=0")
    assert activations(*bare, "curriculum.stages=8x32:p1") == activations(*bare)
    assert activations("curriculum.stages=8x32:p1", "model.recurrence=checkpointed") < 0.4 * four


def test_what_is_said_of_a_card() -> None:
    found = estimate_run(override(Settings(), list(SMALL)))
    needed = found.total / 1e9 + CARD_KEEPS
    assert verdict(found, needed + 0.01).startswith("Fits")
    assert verdict(found, needed - 0.01).startswith("Does not fit")
    assert "--card" in verdict(found, None)
    with pytest.raises(InputError, match="gigabytes above 0"):
        verdict(found, 0.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("optim=adam", "optim.name"),
        ("model.kind=both", "model.kind"),
        ("model.dtype=int8", "model.dtype"),
        ("model.backbone=/nowhere", "expected a model on the hub or in a folder"),
    ],
)
def test_bad_input_is_one_line(change: str, said: str) -> None:
    result = CliRunner().invoke(app, ["train", "--estimate", change])
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
