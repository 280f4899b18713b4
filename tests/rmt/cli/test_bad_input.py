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
    assert one_line(rmt("ask", made, " ", "--model", classifier), "words in each")
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
    assert one_line(rmt(*base, "--lengths", "100k"), "at least 100,000")
    assert one_line(rmt(*base, "--lengths", "300", "--tasks", "guess"), "guess")
    assert one_line(rmt(*base, "--lengths", "20"), "room for all facts")
    (tmp_path / "file").write_text("")
    assert one_line(rmt(*base[:-2], tmp_path / "file", "--no-progress", "--lengths", "300"), "file")


def test_debug_shows_where(rmt, document):
    result = rmt("--debug", "info", document)
    assert isinstance(result.exception, InputError)
    assert isinstance(rmt("info", document).exception, SystemExit)


def test_paths_are_users(rmt, monkeypatch, classifier, document):
    monkeypatch.setenv("HOME", str(document.parent))
    assert rmt("read", "~/document.txt", "-o", "~/x.memory", "--model", classifier, "--no-progress").exit_code == 0
    assert Path(document.parent / "x.memory").is_file()
