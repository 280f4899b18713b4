"""Batches and curriculum where one process trains, and where several do."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import distributed
from transformers import TrainerControl, TrainerState, TrainingArguments

from rmt.errors import InputError
from rmt.training.curriculum import Curriculum
from rmt.training.trainer import CURRICULUM_FILE, CurriculumTrainer, KeepCurriculum, NumberedBatches

from ..tiny import causal


def numbered(start: int = 0) -> NumberedBatches:
    batches = NumberedBatches(lambda number, stage: {"number": number}, Curriculum(stages=1))
    batches.start = start
    return batches


def numbers(batches: NumberedBatches, count: int = 4) -> list[int]:
    return [batch["number"] for batch in islice(batches, count)]


def test_each_process_takes_batches_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert numbers(numbered(3)) == [3, 4, 5, 6]
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 3)
    taken = []
    for rank in range(3):
        monkeypatch.setattr(distributed, "get_rank", lambda rank=rank: rank)
        taken += numbers(numbered(2))
    assert sorted(taken) == list(range(6, 18))


def test_one_process_writes_the_curriculum(tmp_path: Path) -> None:
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[], max_steps=1)
    keep, state = KeepCurriculum(numbered()), TrainerState(global_step=2)
    file = tmp_path / "checkpoint-2" / CURRICULUM_FILE
    for first in (False, True):
        state.is_world_process_zero = first
        keep.on_save(args, state, TrainerControl())
        assert file.is_file() == first
    assert json.loads(file.read_text())["current"] == 0


def test_one_process_for_several_gpus_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[], max_steps=1)
    made = {"batches": numbered(), "accuracy": lambda batch, out: 0.0, "model": causal(), "args": args}
    CurriculumTrainer(**made)
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 2))
    with pytest.raises(InputError, match="accelerate launch"):
        CurriculumTrainer(**made)


def test_asking_for_batches_draws_no_random_numbers(tmp_path: Path) -> None:
    """Else dropout would not go on where it stood: Trainer restores its state before."""
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[], max_steps=1)
    trainer = CurriculumTrainer(batches=numbered(), accuracy=lambda batch, out: 0.0, model=causal(), args=args)
    before = torch.get_rng_state()
    next(iter(trainer.get_train_dataloader()))
    assert torch.equal(before, torch.get_rng_state())


def test_a_checkpoint_that_lacks_weights_is_not_trained_on(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = causal()
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[], max_steps=1)
    trainer = CurriculumTrainer(batches=numbered(), accuracy=lambda batch, out: 0.0, model=model, args=args)
    model.save_pretrained(tmp_path)
    trainer._load_from_checkpoint(str(tmp_path))
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    gone = weights.pop(sorted(weights)[0])
    save_file({**weights, "by_another_name": gone}, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match="expected all weights of the model, got one without 1 of them"):
        trainer._load_from_checkpoint(str(tmp_path))
