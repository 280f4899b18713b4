"""`rmt train`: a model for the memory tasks, with a curriculum over segments."""

from __future__ import annotations

from typing import Annotated

import typer

CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"]}


def train(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings as KEY=VALUE, such as optim.lr=1e-3; --show lists them.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew instead of going on from a checkpoint.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Print every setting and its value, and stop.")] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Print what memory a step takes, by part, and stop; nothing is made.")
    ] = False,
    card: Annotated[float | None, typer.Option("--card", help="With --estimate: gigabytes of the card to fit.")] = None,
) -> None:
    """Train a model on facts hidden in text; a run that was killed goes on where it was.

    \b
    Examples:
      rmt train output=runs/minilm data.text=books/ optim.steps=2000
      rmt train output=runs/llama model.kind=decoder data.text=book.txt,installed:
      rmt train output=runs/nf4 model.quantization=nf4 lora.r=16
      rmt train output=runs/lomo model.kind=decoder optim=lomo optim.lr=1e-2
      rmt train output=runs/album model.kind=llava stage=2 optim.lr=2e-3
      rmt train output=runs/llava model.kind=llava stage=1 model.backbone=llava-7b/ data.llava=chats.json \\
          data.images=coco/
      rmt train --show
      rmt train --show model.kind=llava
      rmt train --estimate --card 24 model.kind=decoder model.backbone=llama-8b/ model.dtype=bfloat16 \\
          model.quantization=nf4 lora.r=16 curriculum.stages=4x1024:p4 optim.batch_size=1
    """
    from rmt.cli.common import bad_input
    from rmt.cli.models import quiet
    from rmt.cli.training_checks import check, check_estimate
    from rmt.cli.training_images_settings import wanted
    from rmt.cli.training_run import Settings, run
    from rmt.training.settings import keys, override

    if wanted(overrides or []):
        with_images(overrides or [], fresh, show, estimate)
        return
    settings = override(Settings(), overrides or [])
    if show:
        show_all(keys(settings))
        return
    if estimate:
        from rmt.cli.training_estimate import estimate_run, remarks, verdict

        check_estimate(settings)
        quiet()
        found = estimate_run(settings)
        for line in (found.table(), *remarks(settings, found)):
            typer.echo(line)
        typer.echo(verdict(found, card))
        return
    check(settings)
    quiet()
    with bad_input():
        typer.echo(f"The model is in {run(settings, resume=not fresh)}")


def with_images(overrides: list[str], fresh: bool, show: bool, estimate: bool) -> None:
    """The same for models that see."""
    from rmt.cli.common import bad_input
    from rmt.cli.models import quiet
    from rmt.cli.training_images import check, run
    from rmt.cli.training_images_settings import ImageSettings
    from rmt.errors import InputError
    from rmt.training.settings import keys, override

    settings = override(ImageSettings(), overrides)
    if show:
        show_all(keys(settings))
        return
    if estimate:
        raise InputError("--estimate: expected a model of text alone, got model.kind=llava; leave it out")
    check(settings)
    quiet()
    with bad_input():
        typer.echo(f"The model is in {run(settings, resume=not fresh)}")


def show_all(settings: dict[str, object]) -> None:
    """Every setting and its value, one a line."""
    for key, value in settings.items():
        typer.echo(f"{key} = {','.join(value) if isinstance(value, tuple) else value}")
