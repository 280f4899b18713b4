"""``rmt eval run``, ``tasks`` and ``rescore``: any task of ``evals`` on any model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rmt.cli.common import bad_input
from rmt.cli.evaluate_run import MODELS_HELP, Request, score

if TYPE_CHECKING:
    import evals.rows


def run(
    tasks: Annotated[list[str], typer.Argument(help="Tasks or groups (`rmt eval tasks` lists them): paper qa1 ruler.")],
    model: Annotated[str, typer.Option(help=MODELS_HELP)] = "bundled",
    lengths: Annotated[str, typer.Option(help="Tokens of the documents: 4k is 4,000, 1M is 1,000,000.")] = "4k,64k",
    n: Annotated[int, typer.Option("--n", min=1, help="Documents of each task and length.")] = 32,
    text: Annotated[
        str, typer.Option(help="Text to hide the facts in; anything `rmt read` takes. Never repeated.")
    ] = "installed:",
    out: Annotated[Path, typer.Option(help="Folder for rows, costs and results.")] = Path("out/run"),
    controls: Annotated[
        str, typer.Option(help="Some of zeroed,shuffled,swapped, where the model has them; none for none.")
    ] = "zeroed,shuffled,swapped",
    prompt: Annotated[
        str,
        typer.Option(help="benchmark: its own words around facts and question; bare: none; auto: bare for our models."),
    ] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Other documents for another seed.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Documents side by side, where the model can.")] = 1,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json instead of a table.")] = False,
    progress: Annotated[bool, typer.Option(help="Show a bar on standard error.")] = True,
) -> None:
    """Score a model on tasks: facts to find, stories, needles, RULER, perplexity, and those with commands of their own.

    Every answer is logged at once in OUT/rows.jsonl: the same command goes on where a broken one stopped, and under
    `accelerate launch` several processes share the documents. `rmt report OUT` makes a page of it.

    \b
    Examples:
      rmt eval run paper qa1 --lengths 4k,64k --n 32 --out out/minilm
      rmt eval run paper qa1 --lengths 4k,64k --n 32 --out out/retrieval --model retrieval:minilm-rmt,k=5
      rmt eval run needle:needles=4,depths=11 --lengths 4k,16k --n 22 --out out/needle
      accelerate launch --multi_gpu --num_processes 2 -m rmt.cli eval run ruler-offline --model hf:FOLDER
    """
    asked = Request(
        model=model,
        lengths=lengths,
        n=n,
        text=text,
        out=out,
        controls=controls,
        prompt=prompt,
        seed=seed,
        batch_size=batch_size,
        dtype=dtype,
        as_json=as_json,
        progress=progress,
    )
    score(tasks, asked)


def tasks() -> None:
    """List the tasks, groups and scorers there are."""
    from evals.scorers import SCORERS
    from evals.tasks.registry import ABOUT, GROUPS, TASKS, options_of

    width = max(map(len, (*GROUPS, *TASKS)))
    typer.echo("Groups")
    for name, members in GROUPS.items():
        typer.echo(f"  {name:{width}}  {', '.join(members)}")
    typer.echo("\nTasks, and their settings (as in needle:needles=4,depths=11)")
    for name in TASKS:
        settings = ", ".join(options_of(name))
        typer.echo(f"  {name:{width}}  {ABOUT[name]}" + (f" ({settings})" if settings else ""))
    typer.echo(f"\nScorers\n  {', '.join(SCORERS)}")


def rescore(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, or its rows.")],
    scorer: Annotated[str, typer.Option(help="Another scorer; `rmt eval tasks` lists them. Else each row's own.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Score the answers of a run again, from its log alone; nothing is read and the log stays as it is.

    Labels and numbers (nats a token) are no text to score: they stay as they are. Programs need a sandbox again: that
    they ran without one before is no consent; --scorer humaneval:unsandboxed is.

    \b
    Examples:
      rmt eval rescore out/run --scorer babilong_loose
    """
    import evals
    from evals import scorers

    path = run_folder / "rows.jsonl" if run_folder.is_dir() else run_folder
    with bad_input():
        rows = evals.load_rows(path)
        again = [
            _again(row, name)
            if (name := scorers.of_task(scorer, row.task) or scorers.unconsented(row.scorer))
            and isinstance(row.expected, tuple)
            and isinstance(row.answered, str | dict)
            else row
            for row in rows
        ]
        cells = evals.tally(again)
    changed = sum(new.value != old.value for new, old in zip(again, rows, strict=True))
    if as_json:
        typer.echo(json.dumps({**json.loads(evals.to_json(cells, scorer=scorer)), "changed": changed}, indent=2))
    else:
        typer.echo(f"{evals.table(cells)}\n\n{changed} of {len(rows)} scores changed")


def _again(row: evals.rows.Row, name: str) -> evals.rows.Row:
    """A row as another scorer sees it."""
    from evals.scorers import again

    found = again(name, row.answered, row.expected, row.asked)  # type: ignore[arg-type]  # a tuple, as was looked
    detail = {**(row.detail or {}), **found.detail} or None
    return replace(row, scorer=name, score=found.score, detail=detail)
