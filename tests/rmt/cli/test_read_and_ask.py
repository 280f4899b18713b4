"""``rmt read``, ``rmt ask`` and ``rmt info`` from end to end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import torch

from rmt.memory import Memory


def tensors(path):
    return Memory.load(path).tensors["tokens"]


def test_read_then_ask(rmt, classifier, document, tmp_path):
    out = tmp_path / "a.memory"
    read = rmt("read", document, "-o", out, "--model", classifier, "--json", "--no-progress")
    assert read.exit_code == 0, read.output
    facts = json.loads(read.stdout)
    memory = Memory.load(out)
    assert facts["tokens_read"] == memory.meta.tokens_read > 500
    assert facts["file_bytes"] == out.stat().st_size < 64 * 1024
    assert {p.name for p in tmp_path.iterdir()} == {"a.memory", "document.txt"}, "nothing else stays behind"

    asked = rmt("ask", out, "Where is Mary?", "Where is John?", "--model", classifier, "--json")
    assert asked.exit_code == 0, asked.output
    answers = json.loads(asked.stdout)["answers"]
    assert [a["question"] for a in answers] == ["Where is Mary?", "Where is John?"]
    assert sum(answers[0]["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert answers[0]["answer"] == max(answers[0]["probabilities"], key=answers[0]["probabilities"].get)
    plain = rmt("ask", out, "Where is Mary?", "--model", classifier)
    assert plain.stdout.startswith(f"Where is Mary?  {answers[0]['answer']}  (")


def test_language_model(rmt, language_model, document, tmp_path):
    out = tmp_path / "a.memory"
    assert rmt("read", document, "-o", out, "--model", language_model, "--no-progress").exit_code == 0
    asked = rmt("ask", out, "Where is Mary?", "--model", language_model, "--json")
    assert asked.exit_code == 0, asked.output
    assert json.loads(asked.stdout)["answers"][0]["answer"]


def test_standard_input_and_reading_on(rmt, classifier, document, tmp_path):
    text, out = document.read_text(), [tmp_path / name for name in ("file", "pipe", "on")]
    common = ("--model", classifier, "--no-progress")
    assert rmt("read", document, "-o", out[0], *common).exit_code == 0
    assert rmt("read", "-", "-o", out[1], *common, input=text).exit_code == 0
    assert torch.equal(tensors(out[0]), tensors(out[1]))
    assert Memory.load(out[1]).meta.source == "standard input"
    assert rmt("read", document, "--memory", out[0], "-o", out[2], *common).exit_code == 0
    assert Memory.load(out[2]).meta.tokens_read == 2 * Memory.load(out[0]).meta.tokens_read


def test_info(rmt, classifier, document, tmp_path):
    out = tmp_path / "a.memory"
    rmt("read", document, "-o", out, "--model", classifier, "--no-progress")
    memory, model = (json.loads(rmt("info", what, "--json").stdout) for what in (out, classifier))
    assert memory["model"] == model["fingerprint"]
    assert memory["memory_bytes"] == model["memory_bytes"] == 3 * 32 * 4
    assert model["executor"] == "speculative"
    assert "gates" in model["why"]
    machine = rmt("info")
    assert machine.exit_code == 0
    assert torch.__version__ in machine.stdout


def test_a_model_of_few_words_says_which_and_which_question_has_none(rmt, classifier, tmp_path):
    facts = json.loads(rmt("info", "llama-armt", "--json").stdout)
    words = facts["words"].split()
    assert len(words) == 128
    assert {"otter", "rome"} < set(words)
    assert "words" not in json.loads(rmt("info", classifier, "--json").stdout)
    text, memory = tmp_path / "text.txt", tmp_path / "a.memory"
    text.write_text("The otter lives in Rome.")
    rmt("read", text, "-o", memory, "--model", "llama-armt", "--no-progress")
    asked = rmt("ask", memory, "Where is the otter?", "And the unicorn?", "--model", "llama-armt")
    assert asked.exit_code == 2
    assert "expected words that this model knows" in asked.stderr
    assert "'And the unicorn?'" in asked.stderr


def spawn(*arguments, threads=1):
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-c", "from rmt.cli import main; main()", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_reader_of_standard_input_can_be_interrupted(classifier, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from rmt.cli import main; main()", "read", "-", "-o", str(tmp_path / "a.memory")]
    child = subprocess.Popen(
        [*command, "--model", str(classifier)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell's background jobs ignore it, and so would this.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    child.stdin.write(b"some words of it " * 3000)
    child.stdin.flush()
    bar = b""
    while b"reading" not in bar:  # the pipe stays open: the text has not ended
        piece = child.stderr.read1()
        assert piece
        bar += piece
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130, err


@pytest.mark.slow
@pytest.mark.parametrize("how", [(), ("--dtype", "float32", "--executor", "sequential")], ids=["as it comes", "plain"])
def test_goes_on_after_kill(rmt, classifier, document, tmp_path, how):
    """To the bit; killed on two threads and resumed on one, which must not matter to an executor that reads ahead."""
    long, out, whole = tmp_path / "long.txt", tmp_path / "a.memory", tmp_path / "whole.memory"
    long.write_text(document.read_text() * 30)
    common = ("--model", classifier, "--no-progress", *how)
    process = spawn("read", long, "-o", out, *common, "--every", 512, threads=1 if how else 2)
    partial = tmp_path / "a.memory.partial"
    while not partial.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it had finished before the kill"
    assert not out.exists()
    position = int(Memory.load(partial).meta.extra["position"])

    resumed = rmt("read", long, "-o", out, *common, "--resume", "--json")
    assert resumed.exit_code == 0, resumed.output
    assert rmt("read", long, "-o", whole, *common).exit_code == 0
    assert 0 < position < Memory.load(whole).meta.tokens_read
    assert torch.equal(tensors(out), tensors(whole))
    assert Memory.load(out).meta == Memory.load(whole).meta
    assert {p.name for p in tmp_path.iterdir()} == {"document.txt", "long.txt", "a.memory", "whole.memory"}


def test_resume_of_another_document(rmt, classifier, document, tmp_path):
    out, partial = tmp_path / "a.memory", tmp_path / "a.memory.partial"
    common = ("--model", classifier, "--no-progress")
    rmt("read", document, "-o", out, *common)
    from rmt.cli.models import reader

    reader(classifier).read(document, checkpoint=partial, progress=False)
    document.write_text(document.read_text() + "More.")
    refused = rmt("read", document, "-o", out, *common, "--resume")
    assert refused.exit_code == 2
    assert "this document" in refused.stderr
    kept = partial.read_bytes()
    refused = rmt("read", document, "-o", out, *common)
    assert refused.exit_code == 2
    assert "--resume" in refused.stderr
    assert partial.read_bytes() == kept, "hours of reading are not thrown away unasked"
    partial.unlink()
    assert rmt("read", document, "-o", out, *common).exit_code == 0
