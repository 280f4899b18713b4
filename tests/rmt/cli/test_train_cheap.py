"""`rmt train` with optimizers that free gradients, and over 4-bit weights: it trains, goes on after a stop, refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rmt.cli.training_checks import check
from rmt.cli.training_run import Settings, build_model
from rmt.errors import InputError
from rmt.pretrained import load_folder
from rmt.training.settings import override
from rmt.training.trainer import CURRICULUM_FILE
from tests.rmt.cli.test_train import TINY, train

ENCODER = ("optim.batch_size=2", "optim.warmup=1", "log_every=1", "curriculum.stages=2x16:p1:r0:n0.3:f1:s")


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text("\n".join(f"The {n}th evening was long, and nobody in the house spoke of it." for n in range(200)))
    return path


@pytest.mark.parametrize("name", ["lomo", "adalomo"])
def test_a_run_that_frees_gradients_goes_on_where_it_stopped(name: str, book: Path, tmp_path: Path) -> None:
    common = (*TINY, f"data.text={book}", "save_every=1", f"optim={name}", "optim.lr=1e-2", "optim.bf16=false")
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    train(*common, f"output={whole}", "optim.steps=3")
    train(*common, f"output={broken}", "optim.steps=3")
    for step in (2, 3):  # as if it had been killed behind the first step
        folder = broken / f"checkpoint-{step}"
        for file in sorted(folder.rglob("*"), reverse=True):
            file.unlink()
        if folder.is_dir():
            folder.rmdir()
    train(*common, f"output={broken}", "optim.steps=3")
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in (broken, whole))
    assert all(torch.equal(one[key], two[key]) for key in two)
    losses = json.loads((whole / "checkpoint-3" / "trainer_state.json").read_text())["log_history"]
    assert len({row["loss"] for row in losses if "loss" in row}) == 3


# A run that waits behind its third checkpoint, so that it cannot end before it is killed.
WAITING = """
import time
from rmt.cli import main
from rmt.training.trainer import KeepCurriculum

keep = KeepCurriculum.on_save

def wait(self, args, state, control, **rest):
    keep(self, args, state, control, **rest)
    time.sleep(120 if state.global_step == 3 else 0)

KeepCurriculum.on_save = wait
main()
"""


def killed_behind_its_first_checkpoint(settings: tuple[str, ...], output: Path) -> list[Path]:
    """Start a run in a process of its own and kill it; returns its checkpoints that are whole."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", WAITING, "train", *settings, f"output={output}"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        try:
            while child.poll() is None and not (output / "checkpoint-1" / CURRICULUM_FILE).is_file():
                time.sleep(0.005)
        finally:
            child.kill()
        _, said = child.communicate()
    assert child.returncode == -signal.SIGKILL, f"it had ended before the kill: {said.decode()}"
    return [file.parent for file in output.glob(f"checkpoint-*/{CURRICULUM_FILE}")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lomo", "adalomo"])
def test_a_run_that_is_killed_ends_bit_for_bit_where_it_would_have(name: str, book: Path, tmp_path: Path) -> None:
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    common = (*TINY, f"data.text={book}", "save_every=1", "save_keep=9", f"optim={name}", "optim.lr=1e-2")
    common = (*common, "optim.bf16=false", "optim.steps=6")
    there = killed_behind_its_first_checkpoint(common, broken)
    assert 0 < len(there) < 6
    assert not (broken / "model").exists()
    written = [(folder / CURRICULUM_FILE).stat().st_mtime_ns for folder in there]
    train(*common, f"output={broken}")
    # It went on, and did not begin anew.
    assert written == [(folder / CURRICULUM_FILE).stat().st_mtime_ns for folder in there]

    train(*common, f"output={whole}")
    last = "checkpoint-6"
    one, two = (load_file(folder / last / "model.safetensors") for folder in (broken, whole))
    assert {tensor.dtype for tensor in two.values()} == {torch.float32}
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in two)
    start = load_file(whole / "checkpoint-1" / "model.safetensors")
    assert any(not torch.equal(start[key], two[key]) for key in two)
    states = [torch.load(folder / last / "optimizer.pt", weights_only=True) for folder in (broken, whole)]
    assert [len(state["state"]) for state in states] == ([0, 0] if name == "lomo" else [len(two)] * 2)
    for number, moments in states[0]["state"].items():
        for key, value in moments.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(states[1]["state"][number][key]))
    models = [(folder / "model" / "model.safetensors").read_bytes() for folder in (broken, whole)]
    assert models[0] == models[1]


def test_adapters_train_over_weights_of_four_bits(book: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from efficiency.qlora import nf4_layers

    how = (*ENCODER, f"data.text={book}", "model.quantization=nf4", "lora.r=4", f"output={tmp_path / 'run'}")
    settings = override(Settings(), [*how, "optim.steps=2"])
    from transformers import AutoTokenizer

    from rmt.pretrained import of_minilm

    model = build_model(settings, of_minilm(AutoTokenizer.from_pretrained))
    assert sum(1 for _ in nf4_layers(model)) == 36  # six layers of six
    assert model.base_model.model.cell.modules_to_save.default.memory.dtype == torch.float32
    train(*how, "optim.steps=2")
    read, _ = load_folder(tmp_path / "run" / "model")
    assert not hasattr(read.config.backbone_config, "quantization_config")
    assert {type(m) for m in read.modules() if isinstance(m, torch.nn.Linear)} == {torch.nn.Linear}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["optim=adam"], "optim.name: expected one of 'adamw', 'lomo', 'adalomo'"),
        (["model.quantization=int3"], "model.quantization: expected one of '', 'nf4'"),
        (["model.quantization=nf4", "lora.r=0"], "adapters to train over frozen weights"),
        (["model.quantization=nf4", "model.kind=decoder"], "adapters to train over frozen weights"),
        (["lora.lora_dropout=1.5"], "lora.lora_dropout: expected 0 to 1"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: list[str], said: str) -> None:
    with pytest.raises(InputError) as error:
        check(override(Settings(), changes))
    assert said in str(error.value)


def test_the_name_of_a_group_is_short_for_its_name() -> None:
    assert override(Settings(), ["optim=lomo"]).optim.name == "lomo"
    assert override(Settings(), ["optim=lomo", "optim.lr=0.5"]).optim.lr == 0.5
    with pytest.raises(InputError, match="unknown"):
        override(Settings(), ["model=small"])
