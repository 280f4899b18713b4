"""``rmt ask``: questions of a memory file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rmt.cli.models import MODEL_HELP


def ask(
    memory: Annotated[Path, typer.Argument(help="A memory file written by `rmt read`.")],
    questions: Annotated[list[str], typer.Argument(help="One or more questions.")],
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "bundled",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print answers and probabilities as JSON.")] = False,
) -> None:
    """Answer questions from a memory, without the document.

    The model must be the one that read it.

    \b
    Examples:
      rmt ask peace.memory "Where is Mary?"
      rmt ask peace.memory "Where is Mary?" "What is north of the garden?" --json
      rmt ask album.memory "What digit was in the red frame?" --model llava-rmt
    """
    from rmt.cli import models
    from rmt.memory import Memory

    Memory.load(memory)  # a file that is none should not wait for a model
    reader = models.reader(model, dtype)
    answers = reader.ask(Memory.load(memory, reader), questions)
    if as_json:
        rows = [{"question": a.question, "answer": a.text, "probabilities": a.probabilities} for a in answers]
        typer.echo(json.dumps({"memory": str(memory), "answers": rows}))
        return
    for answer in answers:
        sure = f"  ({100 * answer.probability:.0f}%)" if answer.probability is not None else ""
        typer.echo(f"{answer.question}  {answer.text}{sure}")
