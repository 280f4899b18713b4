"""`rmt demo`: the main job on real text, start to end, with what a person would want to see of it."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rmt.cli.models import MODEL_HELP

if TYPE_CHECKING:
    import rmt.memory
    import rmt.reader

TASKS = ("memorize", "detect", "detect", "detect", "reasoning")


def demo(
    lengths: Annotated[str, typer.Option(help="Tokens of the documents.")] = "4k,64k,1M",
    documents: Annotated[
        str | None, typer.Option(help="Documents of each length, as 16,4,2.", show_default="fewer of long ones")
    ] = None,
    text: Annotated[str, typer.Option(help="Text to hide facts in; anything `rmt read` takes.")] = "installed:",
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "bundled",
    out: Annotated[Path, typer.Option(help="Folder for the memory, the table and the plot.")] = Path("out/demo"),
    seed: Annotated[int, typer.Option(help="Other facts for another seed.")] = 0,
) -> None:
    """Hide facts in real English of up to a million tokens, read it into a few kilobytes, and ask for them.

    A run that was broken goes on where it stopped.

    \b
    Examples:
      rmt demo
      rmt demo --lengths 4k,64k --documents 32,8 --text book.txt
    """
    from evals import evaluate, table, to_json
    from evals.plots import accuracy_over_length
    from evals.tasks.memory import PLACES, MemoryTasks
    from rmt.cli import models
    from rmt.cli.common import bad_input, bar, parse_lengths, write

    sizes = parse_lengths(lengths)
    counts = [usual_count(size) for size in sizes] if documents is None else parse_counts(documents, len(sizes))
    documents = ",".join(map(str, counts))
    sizes, counts = (list(part) for part in zip(*sorted(zip(sizes, counts, strict=True)), strict=True))
    with bad_input():
        out.mkdir(parents=True, exist_ok=True)
    reader = models.reader(model)
    models.refuse_sight(reader, model)
    what = "the English in installed packages" if text == "installed:" else text
    typer.echo(f"Text: {what}")
    with reader.tokens_of(text, out / "text.tokens") as background, bad_input():
        made = [
            list(MemoryTasks(reader.tokenizer, background, size, TASKS, 2, seed).documents(count))
            for size, count in zip(sizes, counts, strict=True)
        ]
        flat = [document for group in made for document in group]
        hidden = f"{len(made[-1][-1].inserts)} facts hidden in each, {len(TASKS)} questions"
        typer.echo(f"Reading {len(flat)} documents of {lengths} tokens: {hidden}")

        settings = {"text": background.digest, "seed": seed, "documents": documents, "lengths": lengths}
        # A log of its own for each text, model and set of lengths: another demo is another log, not an error.
        name = hashlib.sha256(repr((settings, reader.fingerprint(), reader.settings())).encode()).hexdigest()[:8]
        log = out / f"rows-{name}.jsonl"
        if log.exists():
            typer.echo(f"Answers of an earlier run stand in {log}; what is there is not read again")
        with bar(shown=True) as report:
            cells = evaluate(watched(reader, out), flat, log=log, settings=settings, progress=report)
    write(out / "results.json", to_json(cells, model=model, fingerprint=reader.fingerprint(), source=text, **settings))
    picture = accuracy_over_length(cells, out / "memory.png", chance=1 / len(PLACES))
    typer.echo("\n" + table(cells))
    say_answers(log, made[-1][-1], len(flat) - 1, PLACES)
    size = (out / "document.memory").stat().st_size
    typer.echo(f"\nThe memory of that document: {out}/document.memory, {size / 1000:.0f} kB. Ask it yourself:")
    typer.echo(f'  {command()} ask {out}/document.memory --model {model} "{made[-1][-1].questions[0].text}"')
    typer.echo(f"The plot: {picture}")
    (out / "text.tokens").unlink(missing_ok=True)


def usual_count(length: int) -> int:
    """How many documents of so many tokens are read where nobody says."""
    return 16 if length < 20_000 else 4 if length < 200_000 else 2


def parse_counts(text: str, lengths: int) -> list[int]:
    """Numbers of documents from ``16,4,2``, one for each length.

    Raises:
        InputError: anything else, a number below 1, or more or fewer of them.
    """
    from rmt.errors import InputError

    parts = [part.strip() for part in text.split(",")]
    if len(parts) != lengths or not all(part.isdecimal() and int(part) for part in parts):
        raise InputError(f"--documents: expected {lengths} numbers of at least 1, one a length, got {text!r}; write so")
    return [int(part) for part in parts]


def command() -> str:
    """What to type for this command: its name where that finds it, else the path that was typed."""
    program = sys.argv[0]
    found = shutil.which("rmt")
    return "rmt" if found and os.path.realpath(found) == os.path.realpath(program) else program


def watched(reader: rmt.reader.Reader, out: Path) -> Any:
    """The reader as a model to evaluate, with a bar for each long document; the last memory is kept as a file."""
    from rmt.cli.adapters import DocumentTokens, ReaderModel

    class Watched(ReaderModel):
        def read(self, documents: Sequence[Any]) -> list[rmt.memory.Memory]:
            long = documents[0].length >= 200_000
            states = [self.reader.read(DocumentTokens(d), progress=long) for d in documents]
            states[-1].save(out / "document.memory")
            return states

    return Watched(reader)


def say_answers(log: Path, document: Any, number: int, places: Sequence[str]) -> None:
    """What was asked of the last document, what was hidden, what was answered with its memory and without."""
    from evals.rows import load_rows

    said: dict[tuple[int, str], str] = {}
    for row in load_rows(log):
        if row.document == number:
            said[row.question, row.control] = places[row.answered] if row.answered >= 0 else "nothing"
    typer.echo(f"\nAsked of the last document, {document.length:,} tokens:")
    typer.echo(f"  {'question':<38}{'hidden':<10}{'answered':<10}with an empty memory")
    for n, question in enumerate(document.questions):
        answered, empty = said.get((n, "memory"), "-"), said.get((n, "zeroed"), "-")
        typer.echo(f"  {question.text:<38}{places[question.answer]:<10}{answered:<10}{empty}")
