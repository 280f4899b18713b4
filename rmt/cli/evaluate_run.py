"""What ``rmt eval run`` and the commands of single benchmarks share: a run of tasks on a model, and what is printed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from rmt.cli.common import bad_input, bar, parse_lengths, write

if TYPE_CHECKING:
    import evals.rows
    import evals.tasks.base

MODELS_HELP = (
    "minilm-rmt, llama-rmt or a folder; truncate:MODEL,size=512 reads the last tokens only, retrieval:MODEL,k=5 the "
    "chunks that fit the question; hf:FOLDER,window=sliding,size=2048 is any causal model of Hugging Face."
)


@dataclass(frozen=True)
class Request:
    """What the options of such a command say, each as ``rmt eval run --help`` explains it."""

    model: str
    lengths: str
    n: int
    text: str
    out: Path
    controls: str
    prompt: str = "auto"
    seed: int = 0
    batch_size: int = 1
    dtype: str = "auto"
    as_json: bool = False
    progress: bool = True
    lengths_option: str = "--lengths"
    segments: str = ""


def score(tasks: Sequence[str | evals.tasks.base.Task], asked: Request) -> None:
    """Run tasks, made ones or names and groups as ``rmt eval run`` takes them, write results.json, and print them.

    Raises:
        InputError: whatever of it cannot be.
    """
    import evals
    from evals.breakdowns import breakdowns
    from evals.report import breakdown_json, breakdown_text
    from evals.runner import expand
    from rmt.cli import scored
    from rmt.data import TokenFile, iter_text

    sizes = parse_lengths(asked.segments or asked.lengths, asked.lengths_option, least=0)
    with bad_input():
        chosen = expand(tasks)
        for task in chosen:
            task.settings()  # reads a benchmark's own file: a wrong one shows before a long text is read
    wanted = _controls(asked.controls)
    _check_prompt(asked.prompt)
    part, wait = share()
    subject = scored.model(asked.model, asked.dtype)
    scored.check_sight(subject, chosen, asked.model)
    if asked.segments:
        sizes = [count * _segment(subject, asked.model) for count in sizes]
    with bad_input():
        asked.out.mkdir(parents=True, exist_ok=True)
    tokens = asked.out / f"text-{part[0]}.tokens"
    rows: list[evals.rows.Row] = []
    try:
        text = iter_text(asked.text)
        with TokenFile.build(text, scored.tokenizer(subject), tokens, source=asked.text[:512]) as background:
            bare = asked.prompt == "bare" or (asked.prompt == "auto" and scored.is_ours(subject))
            source = scored.source(subject, background, asked.seed, bare)
            with bad_input(), bar(asked.progress and part[0] == 0) as report:
                cells = evals.run(
                    subject,
                    chosen,
                    source,
                    lengths=sizes,
                    n=asked.n,
                    folder=asked.out,
                    controls=wanted,
                    batch_size=asked.batch_size,
                    about={"spec": asked.model, "text": asked.text, **_size(subject)},
                    progress=report,
                    part=part,
                    wait=wait,
                    answered=rows.extend,
                )
    finally:  # a refused run leaves no copy of the text behind
        tokens.unlink(missing_ok=True)
    if part[0] == 0:
        tables = breakdowns(rows)
        named = {"model": asked.model, "text": asked.text, "seed": asked.seed, "bare": bare}
        results = evals.to_json(cells, **named, breakdowns=breakdown_json(tables))
        write(asked.out / "results.json", results)
        said = [evals.table(cells), *_beyond(subject.answers, rows)]
        if tables:
            said += ["", breakdown_text(tables)]
        typer.echo(results if asked.as_json else "\n".join([*said, "", str(asked.out / "rows.jsonl")]))


def _controls(text: str) -> list[str]:
    from evals.memory_eval import CONTROLS
    from rmt.errors import InputError

    wanted = [] if text == "none" else [name.strip() for name in text.split(",") if name.strip()]
    if unknown := sorted(set(wanted) - set(CONTROLS)):
        raise InputError(f"--controls: expected some of {', '.join(CONTROLS)}, got {', '.join(unknown)}; leave it out")
    return wanted


def _segment(subject: Any, name: str) -> int:
    from rmt.errors import InputError

    if subject.segment is None:
        raise InputError(f"--segments: expected a model that reads in segments, got {name}; use --lengths")
    return int(subject.segment)


def _check_prompt(prompt: str) -> None:
    from rmt.errors import InputError

    if prompt not in ("auto", "benchmark", "bare"):
        raise InputError(f"--prompt: expected auto, benchmark or bare, got {prompt!r}; name one of these")


def _size(subject: Any) -> dict[str, int]:
    """How many parameters the model has beside word embeddings, for curves over a family of models."""
    from rmt.cli import scored

    inside = scored.innermost(subject)
    model: Any = getattr(getattr(inside, "reader", inside), "model", None)
    return {"parameters": model.num_parameters(exclude_embeddings=True)} if hasattr(model, "num_parameters") else {}


def _beyond(answers: tuple[str, ...] | None, rows: Sequence[evals.rows.Row]) -> list[str]:
    """Tasks of which a model with a closed set of answers can give none that is right."""
    if answers is None:
        return []
    able = {answer.lower() for answer in answers}
    asked: dict[str, set[str]] = {}
    for row in rows:
        if isinstance(row.expected, tuple):
            asked.setdefault(row.task, set()).update(answer.lower() for answer in row.expected)
    never = [task for task, right in asked.items() if not right & able]
    return (
        [f"No right answer to {', '.join(never)} is among those of this model: {', '.join(answers)}."] if never else []
    )


def share() -> tuple[tuple[int, int], Callable[[], None] | None]:
    """This process and how many there are under ``accelerate launch``, and what waits for all of them."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return (0, 1), None
    from datetime import timedelta

    import torch
    from accelerate import PartialState

    # A process may be done hours before another.
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=14))
    return (state.process_index, state.num_processes), state.wait_for_everyone
