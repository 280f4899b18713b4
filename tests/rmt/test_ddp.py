"""Training as Hugging Face users do it: over two processes, and with Trainer."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset
from transformers import EvalPrediction, Trainer, TrainingArguments

from rmt.models.base import RMTPreTrainedModel

from .tiny import causal, classifier, content, gradients, largest_gap, ragged

# Name of a case: the model, and the lengths of its four documents (segments of 4 tokens).
CASES: dict[str, tuple[Callable[..., RMTPreTrainedModel], dict[str, Any], list[int]]] = {
    f"{build.__name__}-{name}": (build, fields, lengths)
    for build in (classifier, causal)
    for name, fields, lengths in (
        ("long", {}, [5, 18, 18, 5]),
        ("truncated", {"bptt_depth": 2}, [17, 18, 18, 17]),  # no gradient for the memory tokens
        ("short", {"memory_update": "gated"}, [3, 4, 4, 3]),  # none for the gates
    )
}


def joined_batch(name: str) -> dict[str, Tensor]:
    """Four documents, of which each of two processes takes every second; as many labels in each share."""
    build, _, lengths = CASES[name]
    ids, mask = ragged(lengths)
    batch = {"input_ids": ids, "attention_mask": mask}
    if build is causal:
        return batch | {"labels": ids.masked_fill(mask == 0, -100)}
    if name.endswith("long"):
        asked = {"question_ids": content(8, 3).view(4, 2, 3)}
        return batch | asked | {"labels": torch.tensor([[0, 1], [2, -100], [3, -100], [4, 5]])}
    return batch | {"labels": torch.tensor([0, 2, 3, 4])}


def in_pair(folder: Path, root: Path, tries: int = 2) -> None:
    """Two processes of ddp_worker.py, through their part.

    One that fails leaves the other waiting, so both are watched. A pair that is stuck is started once more: sockets
    of some sandboxes lose a message now and then, whereas a step that waits for what never comes is stuck each time.
    """
    environment = os.environ | {"PYTHONPATH": str(root)}
    # -P: the tests' folders must not hide packages
    command = [sys.executable, "-P", str(Path(__file__).with_name("ddp_worker.py")), str(folder)]
    for number in range(1, tries + 1):
        said = [folder / f"said-{rank}.txt" for rank in range(2)]
        started = []
        for rank, path in enumerate(said):
            with path.open("w") as file:
                given = [*command, f"meet-{number}", str(rank), "2"]
                started.append(subprocess.Popen(given, env=environment, stderr=file))
        try:
            while (codes := [process.poll() for process in started]) != [0, 0] and not any(codes):
                time.sleep(0.1)
        finally:
            for process in started:
                process.kill()
                process.wait()
        if not any(codes):
            return
        texts = "\n".join(path.read_text() for path in said)
        if number < tries and "Timeout (" in texts:
            warnings.warn(f"a pair of processes was stuck and is started again:\n{texts}", stacklevel=2)
        else:
            pytest.fail(
                f"processes of ranks 0 and 1 ended with {codes} (None: stopped, as the other had failed):\n{texts}"
            )


@pytest.mark.slow
def test_gradients_of_two_processes_equal_those_of_one(tmp_path: Path, root: Path) -> None:
    made = {name: build(**fields) for name, (build, fields, _) in CASES.items()}
    for name, model in made.items():
        model.save_pretrained(tmp_path / name)
        save_file(joined_batch(name), tmp_path / f"{name}.safetensors")
    in_pair(tmp_path, root)
    for name, model in made.items():
        for mode in ("plain", "checkpointed"):
            model.config.recurrence = mode
            model.train().zero_grad()
            model(**joined_batch(name)).loss.backward()
            one = gradients(model)
            assert max(float(g.abs().max()) for g in one.values()) > 1e-2
            for rank in range(2):
                two = load_file(tmp_path / f"{name}-{mode}-{rank}.safetensors")
                assert two.keys() == one.keys()  # no parameter is left out
                assert largest_gap(two, one) <= 1e-5, (name, mode)  # float32, sums in another order


class Documents(Dataset[dict[str, Tensor]]):
    """Random documents of several segments."""

    def __init__(self, spoken: bool) -> None:
        self.ids = content(8, 11)
        self.labels = self.ids if spoken else torch.arange(8) % 6

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.ids[index], "labels": self.labels[index]}


def trainer(model: RMTPreTrainedModel, folder: Path, **fields: Any) -> tuple[Trainer, list[EvalPrediction]]:
    seen: list[EvalPrediction] = []

    def score(prediction: EvalPrediction) -> dict[str, float]:
        seen.append(prediction)
        return {"documents": float(len(prediction.predictions))}

    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=2,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=3,
        learning_rate=1e-2,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        **fields,
    )
    data = Documents(model.layout == "decoder")
    return Trainer(model=model, args=arguments, train_dataset=data, eval_dataset=data, compute_metrics=score), seen


@pytest.mark.parametrize(
    "fields",
    [{}, {"bf16": True}, {"gradient_checkpointing": True}, {"gradient_accumulation_steps": 2}],
    ids=["plain", "bf16", "checkpointed", "accumulated"],
)
def test_trainer_trains_and_evaluates_a_classifier(fields: dict[str, Any], tmp_path: Path) -> None:
    model = classifier(memory_update="gated")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    run, seen = trainer(model, tmp_path, **fields)
    run.train()
    assert run.state.global_step == 2
    assert model.config.recurrence == ("checkpointed" if fields.get("gradient_checkpointing") else "plain")
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert {"cell.memory", "cell.slot_gate.weight", "classifier.weight"} <= moved
    metrics = run.evaluate()
    assert metrics["eval_documents"] == 8
    assert np.isfinite(metrics["eval_loss"])
    assert seen[0].predictions.shape == (8, 6)  # logits alone: the memory is not gathered
    assert seen[0].label_ids.tolist() == (np.arange(8) % 6).tolist()
    # What was gathered is what the model says.
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bool(fields.get("bf16"))):
        said = model.eval()(input_ids=Documents(False).ids).logits
    assert np.allclose(seen[0].predictions, said.float().numpy(), atol=3e-2 if fields.get("bf16") else 1e-5)


def test_trainer_trains_a_language_model(tmp_path: Path) -> None:
    run, _ = trainer(causal(), tmp_path, prediction_loss_only=True)
    before = run.evaluate()["eval_loss"]
    run.train()
    assert run.evaluate()["eval_loss"] != before


def test_trainer_saves_a_model_that_loads(tmp_path: Path) -> None:
    model = classifier()
    run, _ = trainer(model, tmp_path / "run")
    run.train()
    run.save_model(str(tmp_path / "model"))
    back = type(model).from_pretrained(tmp_path / "model").eval()
    ids = content(2, 9)
    with torch.no_grad():
        assert torch.equal(back(input_ids=ids).logits, model.eval()(input_ids=ids).logits)
