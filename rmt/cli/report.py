"""``rmt report``: runs of evaluations as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rmt.cli.common import bad_input


def report(
    runs: Annotated[
        list[str], typer.Argument(help="Folders of `rmt eval`, or files of rows; NAME=PATH names a model.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="Its title.")] = "Evaluation report",
) -> None:
    """Put runs side by side on one page: rates with intervals, paired tests, controls, depth, distance and cost.

    The page holds all it shows: each number leads to some of its answers, and nothing is asked of the network. Runs
    of one model are put together, so that lengths may lie in several folders.

    \b
    Examples:
      rmt report out/memory
      rmt report out/minilm out/llama -o report.html --title "Two models"
      rmt report ours=out/minilm truncated=out/llama-8k -o report.html
    """
    from evals.page import write
    from rmt.errors import InputError

    if out.is_dir():
        raise InputError(f"{out}: expected a file to write the page to, got a folder; name a file in it")
    with bad_input():
        typer.echo(write(runs, out, title))
