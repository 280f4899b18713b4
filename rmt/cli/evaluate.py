"""``rmt eval``: how much a memory holds."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from rmt.cli import evaluate_images, evaluate_problems, evaluate_tasks
from rmt.cli.common import bad_input, bar, parse_lengths, write
from rmt.cli.models import EXECUTOR_HELP, MODEL_HELP

app = typer.Typer(help="Score a model.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def group() -> None:
    """Score a model."""


@app.command()
def memory(
    lengths: Annotated[str, typer.Option(help="Tokens of the documents: 4k is 4,000, 1M is 1,000,000.")] = "4k,64k",
    n: Annotated[int, typer.Option("--n", min=1, help="Documents of each length.")] = 32,
    text: Annotated[
        str, typer.Option(help="Text to hide the facts in; anything `rmt read` takes. Never repeated.")
    ] = "installed:",
    tasks: Annotated[str, typer.Option(help="Some of memorize,detect,reasoning.")] = "memorize,detect,reasoning",
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "bundled",
    out: Annotated[Path, typer.Option(help="Folder for results.json, the plot and the log.")] = Path("out/memory"),
    distractors: Annotated[int, typer.Option(min=0, help="Facts about other people, each document.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Other documents for another seed.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Documents side by side, where the model can.")] = 1,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    executor: Annotated[str, typer.Option(help=EXECUTOR_HELP)] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json instead of a table.")] = False,
    progress: Annotated[bool, typer.Option(help="Show a bar on standard error.")] = True,
) -> None:
    """Hide facts in long text, read it, and ask for them; with controls (zeroed, shuffled, swapped memory).

    Every answer is logged at once in OUT/rows.jsonl: the same command goes on where a broken one stopped.

    \b
    Examples:
      rmt eval memory --lengths 4k,64k --n 32
      rmt eval memory --lengths 1M --n 32 --text books/ --out out/books --json
      rmt eval memory --model runs/mine --tasks detect --lengths 4k
    """
    from evals import evaluate, table, to_json
    from evals.plots import accuracy_over_length
    from evals.tasks.memory import PLACES, MemoryTasks
    from rmt.cli import models
    from rmt.cli.adapters import ReaderModel

    sizes = parse_lengths(lengths)
    chosen = [name.strip() for name in tasks.split(",") if name.strip()]
    reader = models.reader(model, dtype, executor)
    models.refuse_sight(reader, model)
    with bad_input():
        out.mkdir(parents=True, exist_ok=True)
    with reader.tokens_of(text, out / "text.tokens", progress=progress) as background:
        settings = {"text": background.digest, "tasks": chosen, "distractors": distractors, "seed": seed}
        with bad_input(), bar(progress) as report:
            makers = [MemoryTasks(reader.tokenizer, background, s, chosen, distractors, seed) for s in sizes]
            cells = evaluate(
                ReaderModel(reader),
                chain.from_iterable(maker.documents(n) for maker in makers),
                log=out / "rows.jsonl",
                settings=settings,
                batch_size=batch_size,
                progress=report,
            )
    (out / "text.tokens").unlink(missing_ok=True)
    named = {"model": model, "fingerprint": reader.fingerprint(), "source": text}
    results = to_json(cells, **named, **reader.settings(), **settings)
    write(out / "results.json", results)
    picture = accuracy_over_length(cells, out / "memory.png", chance=1 / len(PLACES))
    typer.echo(results if as_json else f"{table(cells)}\n\n{picture}")


app.command()(evaluate_tasks.run)
app.command()(evaluate_tasks.tasks)
app.command()(evaluate_tasks.rescore)
app.command()(evaluate_images.images)
app.command()(evaluate_problems.humaneval)
app.command()(evaluate_problems.corr2cause)
app.command()(evaluate_problems.multiplication)
app.command()(evaluate_problems.puzzle)
app.command()(evaluate_problems.dp)
app.command()(evaluate_problems.emergence)
