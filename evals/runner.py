"""Runs tasks on a model: the whole of an evaluation in one call.

    cells = run(model, ["paper", "qa1"], source, lengths=[4_000, 64_000], n=32, folder="out/qa")

Documents are made as they are read; rows, costs and a description lie in ``folder``, and the same call goes on where a
broken one stopped. Several processes share a run (``part``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from evals.answerer import Answerer
from evals.memory_eval import CONTROLS, Cell, Progress, evaluate
from evals.model import Document, MemoryModel, Model
from evals.models.truncated import Truncated
from evals.rows import Row
from evals.tasks.base import Source, Task
from evals.tasks.registry import create, names


def run(
    model: Model[Any],
    tasks: Sequence[str | Task],
    source: Source,
    *,
    lengths: Sequence[int],
    n: int,
    folder: str | os.PathLike[str],
    controls: Sequence[str] = CONTROLS,
    batch_size: int = 1,
    about: dict[str, Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
    part: tuple[int, int] = (0, 1),
    wait: Callable[[], None] | None = None,
    answered: Callable[[Sequence[Row]], object] | None = None,
) -> list[Cell]:
    """Score ``model`` on ``n`` documents of each length of each task.

    Args:
        model: what is scored.
        tasks: names or groups of the registry (settings behind a colon), or tasks.
        source: tokenizer, background and seed.
        lengths: tokens of the documents.
        n: documents of each length and task.
        folder: where ``rows.jsonl``, ``cost.jsonl`` and ``run.json`` go.
        controls: which of zeroed, shuffled and swapped to run beside the score.
        batch_size: documents of one length read together, where the model can.
        about: what else ``run.json`` should say.
        progress: called after each batch.
        part: this process, of how many.
        wait: returns when all processes have come to it, such as ``accelerate.PartialState().wait_for_everyone``.
        answered: called once, at the end, with the rows of the cells; the folder may hold more, of an earlier call.

    Returns:
        A cell for each task, length and control, of the whole run (of what this process knows, without ``wait``).

    Raises:
        ValueError: an unknown task or setting, a length or background too short, or a folder that holds a run of
            another model, other tasks or other settings.
    """
    chosen = expand(tasks)
    settings = {
        "tasks": {task.name: dict(task.settings()) for task in chosen},
        "text": source.digest,
        "seed": source.seed,
        "bare": source.bare,
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    untold = [_described(model, chosen, about)] if part[0] == 0 else []

    def note(done: Progress) -> None:
        """Describe the run when it has begun: its folder is its own by then, and a report of half a run has all."""
        if untold:
            _write(folder / "run.json", json.dumps(untold.pop(), indent=2))
        if progress is not None:
            progress(done)

    answerer: MemoryModel[Any] = Answerer(model)  # type: ignore[assignment]  # of questions that say how
    return evaluate(
        answerer,
        documents(chosen, source, lengths, n),
        log=folder / "rows.jsonl",
        settings=settings,
        controls=[control for control in controls if control in model.controls],
        batch_size=batch_size,
        progress=note,
        part=part,
        wait=wait,
        answered=answered,
    )


def _described(model: Model[Any], tasks: Sequence[Task], about: dict[str, Any] | None) -> dict[str, Any]:
    """What ``run.json`` says."""
    return {
        "model": model.name,
        "fingerprint": model.fingerprint(),
        # How often the memory was written behind a fact can be said only where all of a document is read.
        "segment": None if isinstance(model, Truncated) else model.segment,
        "chance": {task.name: task.chance for task in tasks},
        **(about or {}),
    }


def expand(tasks: Sequence[str | Task]) -> list[Task]:
    """Tasks of names, groups and tasks, each once. Raises ValueError on an unknown name or setting, or none."""
    specs = [name for task in tasks if isinstance(task, str) for name in names(task)]
    made = [create(spec) for spec in dict.fromkeys(specs)] + [task for task in tasks if not isinstance(task, str)]
    if not made:
        raise ValueError("tasks: expected at least one, got none; name one")
    twice = [task.name for task in made if [other.name for other in made].count(task.name) > 1]
    if twice:
        raise ValueError(f"tasks: expected each once, got {twice[0]} twice; run its settings apart")
    return made


def documents(tasks: Sequence[Task], source: Source, lengths: Sequence[int], n: int) -> Iterator[Document]:
    """The documents of a run: by task, then by length."""
    return (document for task in tasks for length in lengths for document in task.documents(source, length, n))


def _write(path: Path, text: str) -> None:
    """Beside, then renamed."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    beside.write_text(text + "\n", encoding="utf-8")
    os.replace(beside, path)
