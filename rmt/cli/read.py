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

# What holds text and nothing else: not worth a look for images, which takes long to import.
TEXT_KINDS = (".txt", ".text", ".rst", ".py", ".parquet")


def read(
    document: Annotated[
        str,
        typer.Argument(
            help="A text, Markdown, PDF, JSONL or Parquet file, an image, a folder, - for standard input, "
            "hub:NAME[:CONFIG] for a data set, installed:[NAME,NAME] for the English in installed packages."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The memory file to write.")],
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "bundled",
    memory: Annotated[Path | None, typer.Option(help="Begin with this memory: read on behind it.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a broken run stopped.")] = False,
    every: Annotated[int, typer.Option(min=1, help="Tokens between checkpoints.")] = 1_000_000,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    executor: Annotated[str, typer.Option(help=EXECUTOR_HELP)] = "auto",
    skip_images: Annotated[
        bool, typer.Option("--skip-images", help="Read only the text of a document that shows images.")
    ] = False,
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
      rmt read album/ -o album.memory --model llava-rmt
    """
    from rmt.cli import models
    from rmt.data.sources import iter_text
    from rmt.errors import InputError
    from rmt.memory import Memory

    output = Path(os.path.expanduser(output))
    refuse_long_name(output)
    if output.is_dir() or not output.parent.is_dir():
        raise InputError(f"{output}: expected a file in a folder that is there, got none; choose another output")
    iter_text(document)  # a document that is not there should not wait for a model
    reader = models.reader(model, dtype, executor)
    sees = hasattr(reader, "read_tokens")
    if not sees and not skip_images:
        refuse_images(document, model)
    before = None if memory is None else Memory.load(memory)
    checkpoint = output.with_name(output.name + ".partial")
    if checkpoint.exists() and not resume:
        raise InputError(
            f"{checkpoint}: expected no earlier run, got what a broken one left; go on with --resume, or remove it"
        )
    if resume and not as_json:
        typer.echo(resumed(checkpoint))
    started, kept = time.monotonic(), checkpoint.exists()
    how: dict[str, Any] = {"checkpoint": checkpoint, "checkpoint_every": every, "progress": progress}
    try:
        if sees and skip_images:
            after = reader.read(iter_text(document), name=document, memory=before, **how)
        else:
            after = reader.read(document, memory=before, **how)
    except InputError as error:
        if kept or not checkpoint.exists():
            raise
        raise InputError(f"{error}. What was read before it is kept: go on with --resume") from error
    seconds = time.monotonic() - started
    after.save(output)
    checkpoint.unlink(missing_ok=True)
    typer.echo(said(after, output, seconds, as_json))


def refuse_images(document: str, model: str) -> None:
    """Refuse a document that shows images to a model that does not see: what it is asked of them it would make up."""
    from rmt.errors import InputError

    if document == "-" or document.startswith(("hub:", "installed:")) or Path(document).suffix.lower() in TEXT_KINDS:
        return
    from multimodal.documents import has_images

    if has_images(document):
        raise InputError(
            f"{document}: expected text for {model}, which does not see, got a document with images; read it with a "
            "model that sees (--model llava-rmt, or a folder), or only its text (--skip-images)"
        )


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
    images = int(meta.extra.get("images", 0))
    if not as_json:
        what = f"{meta.tokens_read:,} tokens of {meta.source}"
        what += f", with {images:,} image{'' if images == 1 else 's'}," if images else ""
        return f"{path}: {what} in {memory.nbytes:,} bytes of memory ({seconds:.1f} s)"
    facts: dict[str, Any] = {
        "path": str(path),
        "tokens_read": meta.tokens_read,
        "segments_read": meta.segments_read,
        "images_read": images,
        "source": meta.source,
        "digest": meta.digest,
        "model": meta.model,
        "seconds": round(seconds, 3),
        "memory_bytes": memory.nbytes,
        "file_bytes": path.stat().st_size,
    }
    return json.dumps(facts)
