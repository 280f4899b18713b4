"""The recipes for needles at toy size: what was killed goes on, and nothing is taken for what it is not."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from evals.tasks.needles import NeedleTask
from rmt.models import RMTForCausalLM
from rmt.pretrained import of_minilm
from tests.rmt.tiny import llama_config

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def recipe(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look for theirs
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[name]
    return module


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("\n".join(f"The {n}th evening was long, and nobody in the house spoke of it." for n in range(60)))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny decoder and its tokenizer."""
    tokenizer, path = of_minilm(AutoTokenizer.from_pretrained), tmp_path_factory.mktemp("decoder")
    torch.manual_seed(0)
    inner = LlamaForCausalLM(llama_config(vocab_size=len(tokenizer)))
    fields = {"memory": "associative", "associative_key_size": 16, "segment_size": 16, "num_memory_tokens": 2}
    RMTForCausalLM.from_backbone(inner, **fields).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


class Evaluation:
    """Runs the recipe and notes what it measures; breaks off at the measurement of this number."""

    def __init__(self, monkeypatch, folder, out):
        self.script, self.folder, self.out = recipe("eval_needles"), folder, out
        self.real, self.measured, self.broken = self.script.measure, [], None
        monkeypatch.setattr(self.script, "measure", self.measure)

    def measure(self, reader, task, length, pairs, texts):
        if self.broken == len(self.measured):
            raise KeyboardInterrupt
        self.measured.append((length, pairs))
        return self.real(reader, task, length, pairs, texts)

    def __call__(self, text, *options):
        self.measured.clear()
        sizes = ["--lengths", "40", "60", "--pairs", "1", "2", "--texts", "2"]
        self.script.main(["--model", str(self.folder), "--out", str(self.out), "--text", str(text), *sizes, *options])
        return list(self.measured)


def test_an_evaluation_that_was_killed_goes_on(monkeypatch, folder, book, tmp_path, capsys):
    whole = [(40, 1), (40, 2), (60, 1), (60, 2)]
    assert Evaluation(monkeypatch, folder, tmp_path / "unbroken")(book, "--dtype", "float32") == whole
    table = capsys.readouterr().out
    assert len(table.splitlines()) == 2 + len(whole)
    run = Evaluation(monkeypatch, folder, tmp_path / "broken")
    run.broken = 2
    with pytest.raises(KeyboardInterrupt):
        run(book, "--dtype", "float32")
    run.broken = None
    assert run(book, "--dtype", "float32") == whole[2:]
    assert capsys.readouterr().out == table
    assert run(book, "--dtype", "float32") == []
    assert capsys.readouterr().out == table


def test_rows_of_another_text_number_format_or_seed_are_not_taken(monkeypatch, folder, book, tmp_path, capsys):
    run = Evaluation(monkeypatch, folder, tmp_path / "out")
    first = run(book, "--dtype", "float32")
    assert len(first) == 4
    assert run(book, "--dtype", "bfloat16") == first
    monkeypatch.setattr(run.script, "SEED", run.script.SEED + 1)
    assert run(book, "--dtype", "float32") == first
    monkeypatch.undo()
    run = Evaluation(monkeypatch, folder, tmp_path / "out")
    book.write_text(book.read_text().replace("house", "garden"))
    assert run(book, "--dtype", "float32") == first, "the same name, another text"
    assert run(book, "--dtype", "float32") == []
    capsys.readouterr()
    run(book, "--dtype", "bfloat16", "--pairs", "2")
    assert len(capsys.readouterr().out.splitlines()) == 2 + 2, "rows that were not asked for"
    (kept,) = (tmp_path / "out").glob("*.json")
    assert len(json.loads(kept.read_text())) == 4 * 4 + 2


@pytest.mark.parametrize("memory", ["associative", "tokens"])
def test_training_that_was_killed_goes_on(monkeypatch, book, tmp_path, memory):
    script, batch = recipe("train_needles"), NeedleTask.batch
    monkeypatch.setattr(script, "STAGES", (script.Stage(1, 8, 1), script.Stage(2, 16, 2)))
    drawn, broken = [], [None]

    def arguments(settings, output):
        made = real(settings, output)
        made.save_steps = 1
        return made

    def draw(self, number, *sizes):
        if number == broken[0]:
            raise KeyboardInterrupt
        drawn.append(number)
        return batch(self, number, *sizes)

    real = script.arguments
    monkeypatch.setattr(script, "arguments", arguments)
    monkeypatch.setattr(NeedleTask, "batch", draw)

    def train(output):
        options = ["--hidden", "32", "--layers", "1", "--memory-tokens", "2", "--steps", "4", "--most", "32"]
        monkeypatch.setattr(
            sys, "argv", ["x", "--text", str(book), "--output", str(output), "--memory", memory, *options]
        )
        script.main()
        return (output / "model" / "model.safetensors").read_bytes()

    unbroken = train(tmp_path / "unbroken")
    drawn.clear()
    broken[0] = 3
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "broken")
    assert not (tmp_path / "broken" / "model").exists()
    broken[0] = None
    drawn.clear()
    assert train(tmp_path / "broken") == unbroken
    assert min(drawn) > 0, "began anew"
