"""``rmt quantize``: the folder it writes reads as any model does, and its report is of both models."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from efficiency.int8 import Int8Linear
from rmt.cli import models
from rmt.cli.app import app
from rmt.cli.quantize_report import perplexity
from rmt.reader import Reader

QUICK = ("--tokens", "600", "--check", "1000", "--n", "1", "--no-progress")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(
        " ".join(f"In the {n}th year the river rose over its banks and the town was dark." for n in range(400))
    )
    return path


def run(*args: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["quantize", *map(str, args)])
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def made(text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("made") / "int8"
    statistics = folder.parent / "statistics.safetensors"
    code, output = run("bundled", "-o", folder, "--data", text, "--statistics", statistics, *QUICK)
    assert code == 0, output
    return folder, output


def test_the_folder_is_a_model(made):
    folder, _ = made
    assert {path.name for path in folder.iterdir()} >= {"config.json", "model.safetensors", "memory_error.png"}
    assert not list(folder.glob("*.part")) + list(folder.glob("text.tokens"))
    model, tokenizer = models.load(str(folder))
    assert sum(isinstance(m, Int8Linear) for m in model.modules()) == 36
    original, _ = models.load("bundled")
    ids = torch.tensor([tokenizer("Mary went to the kitchen. " * 40, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        one, two = (m.eval()(input_ids=ids).logits for m in (original, model))
    assert (one - two).abs().max() < 0.1 * one.abs().max()
    assert not torch.equal(one, two)


def test_the_report(made):
    folder, output = made
    found = json.loads((folder / "quantize.json").read_text())
    assert found["bytes_after"] < 0.3 * found["bytes_before"]
    assert found["memory_error"]["before"]["segments"] == found["memory_error"]["after"]["segments"] == 8
    assert 0 < found["memory_error"]["before"]["most"] < found["memory_error"]["after"]["most"] < 0.5
    assert set(found["answers"]["before"]) == {"memorize", "detect", "reasoning"}
    size = re.search(r"quantised layers on disk, MB \(float32 before\) +([0-9.]+) ", output)
    assert size is not None
    model, _ = models.load("bundled")
    layers = [m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and ".layer." in name]
    assert len(layers) == 36
    floats = sum(p.numel() for layer in layers for p in layer.parameters())
    assert float(size[1]) == pytest.approx(4 * floats / 1e6, abs=0.06)
    for word in ("tokens a second", "memorize, right of 1", "memory's error against float32, last"):
        assert word in output
    assert "36 layers in 8 bits, 3 left as they were" in output


def test_statistics_are_used_again(made, text, tmp_path, monkeypatch):
    statistics = made[0].parent / "statistics.safetensors"
    monkeypatch.setattr("rmt.cli.quantize.rollout", lambda *_: pytest.fail("calibrated again"))
    given = ("--data", text, "--statistics", statistics, "--tokens", 600, "--check", 0, "--no-progress")
    code, output = run("bundled", "-o", tmp_path / "again", *given)
    assert code == 0, output
    one, two = (folder / "model.safetensors" for folder in (made[0], tmp_path / "again"))
    assert one.read_bytes() == two.read_bytes()


def test_a_decoder_has_a_perplexity(text, tmp_path):
    given = ("-o", tmp_path / "out", "--data", text, "--alpha", "0.5", "--memory", "float", "--json", *QUICK)
    code, output = run("llama-rmt", *given)
    assert code == 0, output
    found = json.loads(output[output.index("{") :])
    model, _ = models.load(str(tmp_path / "out"))
    layers = [m for m in model.modules() if isinstance(m, Int8Linear)]
    assert {id(layer.marks) for layer in layers} == {id(model.cell.teller)}
    assert model.cell.teller is not None
    assert abs(found["perplexity"]["after"] / found["perplexity"]["before"] - 1) < 0.2


def test_perplexity_is_that_of_the_model_s_own_loss(text):
    model, tokenizer = models.load("llama-rmt")
    reader = Reader(model, tokenizer, dtype="float32")
    ids = tokenizer(text.read_text()[:3000], add_special_tokens=False)["input_ids"][: reader.segment_size]
    with torch.no_grad():
        loss = model.eval()(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss
    assert perplexity(reader, ids) == pytest.approx(float(loss.exp()), rel=1e-4)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("bundled", "--alpha", "half"), "--alpha: expected a number from 0 to 1, search or none, got 'half'"),
        (("bundled", "--alpha", "1.5"), "alpha"),
        (("bundled", "--activations", "row"), "activations: expected one of token, tensor, static"),
        (("bundled", "--memory", "none"), "memory: expected one of int8, float"),
        (("bundled", "--tokens", "9M"), "--data: expected"),
        (("bundled", "--tokens", "abc"), "--tokens: expected numbers such as 4k,64k,1M, got 'abc'"),
        (("bundled", "--tokens", "600,700"), "--tokens: expected one number such as 16k, got '600,700'"),
        (("bundled", "--tokens", "0"), "--tokens: expected"),
        (("bundled", "--check", "2k,4k"), "--check: expected one number such as 16k, got '2k,4k'"),
        (("bundled", "--check", "few"), "--check: expected numbers such as 4k,64k,1M, got 'few'"),
        (("bundled", "--check", "1"), "--check: expected at least 2 tokens, got 1"),
        (("bundled", "--check", "30"), "--check: expected a length that the facts of the tasks have room in, got 30"),
        (("llama-rmt", "--check", "30"), "--check: expected a length"),
        (("bundled", "--seed", "-1"), "--seed"),
        (("no-such-model",), "no-such-model"),
    ],
)
def test_bad_input_leaves_nothing(args, said, text, tmp_path):
    folder = tmp_path / "out"
    code, output = run(
        args[0], "-o", folder, "--data", text, "--check", "100", "--no-progress", "--tokens", "600", *args[1:]
    )
    assert code == 2, output
    assert said in output
    assert not folder.exists() or not list(folder.iterdir())


def test_a_quantised_model_is_not_quantised_again(made, text, tmp_path, monkeypatch):
    monkeypatch.setattr(Reader, "tokens_of", lambda *_, **__: pytest.fail("read a text first"))
    code, output = run(made[0], "-o", tmp_path / "out", "--data", text, *QUICK)
    assert code == 2
    assert "already" in output


def test_an_output_that_is_a_file(text, tmp_path):
    (tmp_path / "out").write_text("mine")
    code, output = run("bundled", "-o", tmp_path / "out", "--data", text, *QUICK)
    assert code == 2
    assert "expected a folder" in output
    assert (tmp_path / "out").read_text() == "mine"


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("inside", ["", "model"])
def test_the_model_is_not_written_over(inside, text, tmp_path, monkeypatch):
    monkeypatch.setattr("rmt.cli.models.load", lambda *_: pytest.fail("worked before it refused"))
    folder = tmp_path / "mine"
    (folder / inside).mkdir(parents=True)
    (folder / inside / "config.json").write_text('{"quantization_config": {"quant_method": "compressed-tensors"}}')
    kept = bytes_of(folder)
    for output in (folder, folder / inside, tmp_path / "mine" / ".." / "mine"):
        code, said = run(folder, "-o", output, "--data", text, *QUICK)
        assert code == 2, said
        assert "expected a folder other than the model's" in said.replace("\n", " ")
    assert bytes_of(folder) == kept


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("config.json", "{}"),
        ("config.json", '{"quantization_config": {"quant_method": "bitsandbytes"}}'),
        ("config.json", "cut sho"),
        ("adapter_config.json", "{}"),
        ("model/config.json", "{}"),
    ],
)
def test_another_model_is_not_written_over(name, config, text, tmp_path, monkeypatch):
    monkeypatch.setattr("rmt.cli.models.load", lambda *_: pytest.fail("worked before it refused"))
    (tmp_path / "out" / name).parent.mkdir(parents=True)
    (tmp_path / "out" / name).write_text(config)
    code, said = run("bundled", "-o", tmp_path / "out", "--data", text, *QUICK)
    assert code == 2, said
    assert "choose another output" in said
    assert bytes_of(tmp_path / "out") == {name: config.encode()}


def test_an_8_bit_model_is_written_over(text, tmp_path):
    given = ("llama-rmt", "-o", tmp_path / "out", "--data", text, "--tokens", 600, "--check", 0, "--no-progress")
    for alpha in ("none", "0.5"):
        code, said = run(*given, "--alpha", alpha)
        assert code == 0, said
    assert "0.5" in (tmp_path / "out" / "smoothing.txt").read_text()


@pytest.mark.parametrize("alpha", ["none", "0.5"])
def test_statistics_serve_a_search_whatever_alpha_wrote_them(alpha, text, tmp_path):
    given = ("--data", text, "--tokens", 600, "--check", 0, "--no-progress")
    kept = ("--statistics", tmp_path / "kept")
    code, said = run("llama-rmt", "-o", tmp_path / "first", *kept, "--alpha", alpha, *given)
    assert code == 0, said
    for name, more in (("anew", ()), ("again", kept)):
        code, said = run("llama-rmt", "-o", tmp_path / name, *more, "--alpha", "search", *given)
        assert code == 0, said
    one, two = (tmp_path / name / "model.safetensors" for name in ("anew", "again"))
    assert one.read_bytes() == two.read_bytes()


def test_statistics_of_another_model_are_refused(made, text, tmp_path, monkeypatch):
    model, tokenizer = models.load("bundled")
    with torch.no_grad():
        next(m for m in model.modules() if isinstance(m, torch.nn.Linear)).weight.mul_(2)
    monkeypatch.setattr("rmt.cli.models.load", lambda *_: (model, tokenizer))
    monkeypatch.setattr("rmt.reader.Reader.tokens_of", lambda *_, **__: pytest.fail("worked before it refused"))
    statistics = made[0].parent / "statistics.safetensors"
    code, said = run("bundled", "-o", tmp_path / "out", "--data", text, "--statistics", statistics, *QUICK)
    assert code == 2, said
    assert "expected those of model" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["missing/file", ""])
def test_a_place_where_statistics_cannot_lie(name, text, tmp_path, monkeypatch):
    monkeypatch.setattr("rmt.cli.models.load", lambda *_: pytest.fail("worked before it refused"))
    code, said = run("bundled", "-o", tmp_path / "out", "--data", text, "--statistics", tmp_path / name, *QUICK)
    assert code == 2, said
    assert "--statistics: expected a file in a folder that is there" in said
