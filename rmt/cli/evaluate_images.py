"""``rmt eval images``: ask a model about images that it saw long ago. Knows options, not documents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rmt.cli.evaluate_run import Request, score
from rmt.errors import InputError

PREFIX = "image_"  # of the tasks' names in the registry


def images(
    model: Annotated[str, typer.Option(help="A model that sees: llava-rmt, or a folder of one.")] = "llava-rmt",
    tasks: Annotated[
        str, typer.Option(help="Some of needle,tagged,counting,unanswerable,open; open needs --file.")
    ] = "needle,tagged,unanswerable",
    lengths: Annotated[str, typer.Option(help="Tokens of the documents: 4k is 4,000, 1M is 1,000,000.")] = "4k,64k",
    segments: Annotated[str, typer.Option(help="Instead of --lengths: segments of this model, such as 4,16.")] = "",
    n: Annotated[int, typer.Option("--n", min=1, help="Documents of each task and length.")] = 64,
    k: Annotated[str, typer.Option("--k", help="Pictures of tagged, such as 4; 2,4,8 for each of them in turn.")] = "",
    tag: Annotated[str, typer.Option(help="Of tagged: frame (must be seen), or text (in front of it).")] = "frame",
    ask: Annotated[str, typer.Option(help="What is asked of a picture: digit, color or both.")] = "both",
    depths: Annotated[int, typer.Option(min=1, help="Of needle: depths of the grid.")] = 11,
    distractors: Annotated[
        float | None, typer.Option(min=0, help="Pictures that nobody asks about, a thousand tokens; else each task's.")
    ] = None,
    sentences: Annotated[
        float | None,
        typer.Option(min=0, help="Sentences about frames, a thousand tokens; else each task's."),
    ] = None,
    kinds: Annotated[str, typer.Option(help="What distracts: some of digit,scene,photograph; else each task's.")] = "",
    file: Annotated[str, typer.Option(help="Of open: JSON lines with image, question and answers.")] = "",
    text: Annotated[
        str, typer.Option(help="Text around the images; anything `rmt read` takes. Never repeated.")
    ] = "installed:",
    out: Annotated[Path, typer.Option(help="Folder for rows, costs and results.")] = Path("out/images"),
    controls: Annotated[
        str, typer.Option(help="Some of zeroed,shuffled,swapped; none for none.")
    ] = "zeroed,shuffled,swapped",
    prompt: Annotated[
        str, typer.Option(help="benchmark: asks for one word; bare: the question alone; auto: bare for our models.")
    ] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Other documents for another seed.")] = 0,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json instead of a table.")] = False,
    progress: Annotated[bool, typer.Option(help="Show a bar on standard error.")] = True,
) -> None:
    """Ask about images in long documents: one in a haystack, several by tag, how many, and of one that never came.

    Digits that were set apart from training stand in real text, among other pictures and sentences that mislead. Every
    answer is logged at once in OUT/rows.jsonl: the same command goes on where a broken one stopped, and under
    `accelerate launch` several processes share the documents. `rmt report OUT` makes a page of it.

    \b
    Examples:
      rmt eval images --tasks needle --lengths 4k,64k,1M --n 64 --text books/
      rmt eval images --tasks tagged --k 4 --segments 16 --n 64
      rmt eval images --model runs/mine --tasks needle,counting --controls swapped
    """
    given: dict[str, Any] = {"ask": ask, "tag": tag, "depths": depths}
    optional = {"distractors": distractors, "sentences": sentences}
    given |= {name: value for name, value in optional.items() if value is not None}
    given |= {"kinds": _joined(kinds)} if kinds else {}
    given |= {"file": file} if file else {}
    chosen = [_task(name.strip(), given, k) for name in tasks.split(",") if name.strip()]
    asked = Request(
        model=model,
        lengths=lengths,
        n=n,
        text=text,
        out=out,
        controls=controls,
        prompt=prompt,
        seed=seed,
        dtype=dtype,
        as_json=as_json,
        progress=progress,
        lengths_option="--segments" if segments else "--lengths",
        segments=segments,
    )
    score(chosen, asked)


def _task(name: str, given: dict[str, Any], k: str) -> Any:
    """A task with those of the options that it has."""
    from evals.tasks.registry import TASKS, make, options_of
    from rmt.cli.common import bad_input

    whole = name if name.startswith(PREFIX) else PREFIX + name
    if whole not in TASKS:
        known = ", ".join(task.removeprefix(PREFIX) for task in TASKS if task.startswith(PREFIX))
        raise InputError(f"--tasks: expected some of {known}, got {name!r}; name one of these")
    settings = {key: value for key, value in given.items() if key in options_of(whole)}
    if k and name.endswith("tagged"):
        settings["images"] = _joined(k)
    with bad_input():
        return make(whole, **settings)


def _joined(text: str) -> str:
    """A list as the tasks write it."""
    return "+".join(part.strip() for part in text.split(","))
