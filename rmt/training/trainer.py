"""Hugging Face's Trainer over numbered batches and a curriculum. Knows nothing of the task."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed
from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rmt.errors import InputError
from rmt.training.curriculum import Curriculum

CURRICULUM_FILE = "curriculum.json"
Batch = dict[str, Any]


class NumberedBatches(IterableDataset[Batch]):
    """Batches by step number and stage, so that a resumed run goes on with the batch that comes next.

    Where several processes train, each takes its own numbers, all of one step from the same stage.

    Args:
        make: (number, stage) -> arrays and plain values of one batch.
        curriculum: which stage comes when; asked as each batch is made.
    """

    def __init__(self, make: Callable[[int, int], Batch], curriculum: Curriculum) -> None:
        self.make = make
        self.curriculum = curriculum
        self.start = 0

    def __iter__(self) -> Iterator[Batch]:
        step, (rank, world) = self.start, place_among_processes()
        while True:
            stage = self.curriculum.choose(step)
            batch = self.make(step * world + rank, stage)
            yield {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in batch.items()} | {
                "stage": stage
            }
            step += 1


class CurriculumTrainer(Trainer):
    """Trainer that takes whole batches and tells the curriculum how each went.

    Args:
        batches: the training data.
        accuracy: (batch, model output) -> share of right answers.
        kwargs: of :class:`transformers.Trainer`.

    Raises:
        InputError: one process for several GPUs.
    """

    def __init__(self, *, batches: NumberedBatches, accuracy: Callable[[Batch, Any], float], **kwargs: Any) -> None:
        super().__init__(train_dataset=batches, **kwargs)
        if self.args.n_gpu > 1:
            raise InputError(
                f"training: expected one GPU a process, got {self.args.n_gpu}; start it with `accelerate launch`, "
                "or set CUDA_VISIBLE_DEVICES=0"
            )
        self.batches = batches
        self.accuracy = accuracy
        self.add_callback(KeepCurriculum(batches))

    def go_on(self, checkpoint: str | None) -> None:
        """Train to the last step, from a checkpoint where there is one.

        One that stands at the last step is loaded and that is all: ``train`` would take a step more.
        """
        state = None if checkpoint is None else Path(checkpoint) / "trainer_state.json"
        step = json.loads(state.read_text())["global_step"] if state is not None and state.is_file() else 0
        if checkpoint is not None and step >= self.args.max_steps > 0:
            warnings.warn(
                f"{checkpoint} stands at step {step} of {self.args.max_steps}: nothing is trained; ask for more steps, "
                "or name another output for another run",
                stacklevel=2,
            )
            self._load_from_checkpoint(checkpoint)
        else:
            self.train(resume_from_checkpoint=checkpoint)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Called by Trainer, which only warns where a checkpoint lacks weights, and trains on from those it has."""
        tied = getattr(self.model, "all_tied_weights_keys", None) or {}
        if lacking := sorted(set(load_result.missing_keys) - {*tied, *tied.values()}):
            raise InputError(
                f"checkpoint: expected all weights of the model, got one without {len(lacking)} of them ({lacking[0]} "
                "first); give the settings it was made with, or begin anew with --fresh"
            )
        super()._issue_warnings_after_load(load_result)

    def get_train_dataloader(self) -> DataLoader[Batch]:
        """Batches as they come, already collated.

        Numbers that PyTorch draws for workers come from elsewhere: Trainer restores its own before it asks for batches,
        and dropout must go on where it stood.
        """
        return DataLoader(self.batches, batch_size=None, generator=torch.Generator())

    def compute_loss(
        self,
        model: Any,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The model's own loss; on the way, the curriculum hears how many answers were right.

        ``lead_ids`` of a batch are read first, without gradient: what a memory must outlive.
        """
        inputs = dict(inputs)
        stage = inputs.pop("stage", None)
        lead = inputs.pop("lead_ids", None)
        if lead is not None:
            how = {name: inputs[name] for name in ("segment_size", "logits_to_keep") if name in inputs}
            with torch.no_grad():
                inputs["memory"] = self.accelerator.unwrap_model(model)(input_ids=lead, **how).memory
        out = model(**inputs)
        if stage is not None and model.training:
            mine = torch.tensor([self.accuracy(inputs, out)], device=self.accelerator.device)
            self.batches.curriculum.observe(int(stage), float(self.accelerator.gather(mine).mean()))
        return (out.loss, out) if return_outputs else out.loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """With where the curriculum stands."""
        curriculum = self.batches.curriculum
        super().log(logs | {"stage": curriculum.current, "accuracy": round(curriculum.accuracy, 4)}, *args, **kwargs)


class KeepCurriculum(TrainerCallback):
    """Saves where the curriculum stands beside each checkpoint, and goes on from there."""

    def __init__(self, batches: NumberedBatches) -> None:
        self.batches = batches

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Find the checkpoint that training resumes from, if any."""
        self.batches.start = state.global_step
        file = checkpoint_folder(args, state) / CURRICULUM_FILE
        if state.global_step and file.is_file():
            self.batches.curriculum.load_state_dict(json.loads(file.read_text()))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write beside the checkpoint that was just made."""
        if not state.is_world_process_zero:
            return
        folder = checkpoint_folder(args, state)
        folder.mkdir(parents=True, exist_ok=True)
        beside = folder / f".{CURRICULUM_FILE}.tmp"
        beside.write_text(json.dumps(self.batches.curriculum.state_dict()))
        beside.replace(folder / CURRICULUM_FILE)


def place_among_processes() -> tuple[int, int]:
    """Rank of this process, and how many there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def last_checkpoint(output: Path) -> str | None:
    """The newest checkpoint that was written to its end: the curriculum's file is the last of it.

    A run that was killed while it wrote leaves half of one behind, which is passed over.
    """
    whole = [file.parent for file in output.glob(f"checkpoint-*/{CURRICULUM_FILE}")]
    steps = {int(folder.name.rpartition("-")[2]): folder for folder in whole}
    return str(steps[max(steps)]) if steps else None


def checkpoint_folder(args: TrainingArguments, state: TrainerState) -> Path:
    """Where Trainer keeps the checkpoint of this step."""
    return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
