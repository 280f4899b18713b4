"""``rmt read``: a document into a memory file."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rmt.cli.models import EXECUTOR_HELP, MODEL_HELP

if TYPE_CHECKING:
    import rmt.memory


def read(
    document: Annotated[
        str,
        typer.Argument(
            help="A text, PDF, JSONL or Parquet file, a folder, - for standard input, hub:NAME[:CONFIG] for "
            "a data set, installed:[NAME,NAME] for the English in installed packages."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The memory file to write.")],
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "bundled",
    memory: Annotated[Path | None, typer.Option(help="Begin with this memory: read on behind it.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a broken run stopped.")] = False,
    every: Annotated[int, typer.Option(min=1, help="Tokens between checkpoints.")] = 1_000_000,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    executor: Annotated[str, typer.Option(help=EXECUTOR_HELP)] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    progress: Annotated[bool, typer.Option(help="Show a bar on standard error.")] = True,
) -> None:
    """Read a document of any length into a memory file.

    Memory in use does not grow with the length. A checkpoint lies beside the output (FILE.partial) until the
    document is read; with --resume a broken run goes on from it, and the result is the same to the bit.

    \b
    Examples:
      rmt read war_and_peace.txt -o peace.memory
      rmt read book.pdf -o book.memory --resume
      zcat corpus.txt.gz | rmt read - -o corpus.memory
      rmt read volume2.txt --memory volume1.memory -o both.memory
    """
    from rmt.cli import models
    from rmt.data.sources import iter_text
    from rmt.errors import InputError
    from rmt.memory import Memory

    output = output.expanduser()
    refuse_long_name(output)
    if output.is_dir() or not output.parent.is_dir():
        raise InputError(f"{output}: expected a file in a folder that is there, got none; choose another output")
    iter_text(document)  # a document that is not there should not wait for a model
    reader = models.reader(model, dtype, executor)
    before = None if memory is None else Memory.load(memory)
    checkpoint = output.with_name(output.name + ".partial")
    if checkpoint.exists() and not resume:
        raise InputError(
            f"{checkpoint}: expected no earlier run, got what a broken one left; go on with --resume, or remove it"
        )
    if resume and not as_json:
        typer.echo(resumed(checkpoint))
    started = time.monotonic()
    after = reader.read(document, memory=before, checkpoint=checkpoint, checkpoint_every=every, progress=progress)
    seconds = time.monotonic() - started
    after.save(output)
    checkpoint.unlink(missing_ok=True)
    typer.echo(said(after, output, seconds, as_json))


def resumed(checkpoint: Path) -> str:
    """Where a broken run will be taken up."""
    from rmt.memory import Memory

    if not checkpoint.exists():
        return "Nothing to resume: reading from the start"
    return f"Going on at token {int(Memory.load(checkpoint).meta.extra.get('position', 0)):,}"


def refuse_long_name(output: Path) -> None:
    """Refuse a name that the system does not take, for the output or for what lies beside it while reading."""
    from rmt.errors import InputError

    try:
        os.lstat(output.with_name(f".{output.name}.partial.{os.getpid()}.tmp"))
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            got = len(output.name)
            said = f"expected a shorter name, got one of {got} characters; choose another"
            raise InputError(f"{output}: {said}") from error


def said(memory: rmt.memory.Memory, path: Path, seconds: float, as_json: bool) -> str:
    """What became of a document, in a line or as JSON."""
    meta = memory.meta
    if not as_json:
        return (
            f"{path}: {meta.tokens_read:,} tokens of {meta.source} in {memory.nbytes:,} bytes of memory "
            f"({seconds:.1f} s)"
        )
    facts: dict[str, Any] = {
        "path": str(path),
        "tokens_read": meta.tokens_read,
        "segments_read": meta.segments_read,
        "source": meta.source,
        "digest": meta.digest,
        "model": meta.model,
        "seconds": round(seconds, 3),
        "memory_bytes": memory.nbytes,
        "file_bytes": path.stat().st_size,
    }
    return json.dumps(facts)
