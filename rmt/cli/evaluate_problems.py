"""``rmt eval humaneval``, ``corr2cause``, ``multiplication``, ``puzzle``, ``dp`` and ``emergence``: one benchmark each.

Each is ``rmt eval run`` of its tasks with the tasks' settings as options, and a default of no background.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from rmt.cli.evaluate_run import MODELS_HELP, Request, score
from rmt.errors import InputError

_SIZES = "1x1,2x2,3x3,4x4,5x5"
_Shots = Annotated[int, typer.Option(min=0, help="Solved problems in the prompt.")]
_Scratchpad = Annotated[bool, typer.Option(help="Ask for the steps too, and label each of them.")]
_Split = Annotated[str, typer.Option(help="all, train or test: a problem belongs to one of the last two for ever.")]


def _shared(
    model: Annotated[str, typer.Option(help=MODELS_HELP)] = "llama-rmt",
    background: Annotated[
        str, typer.Option(help="Tokens of text that the parts of a problem are spread over; 0 is the plain benchmark.")
    ] = "0",
    n: Annotated[int, typer.Option("--n", min=1, help="Problems at each length.")] = 32,
    text: Annotated[
        str, typer.Option(help="Text to spread problems over; anything `rmt read` takes. Never repeated.")
    ] = "installed:",
    out: Annotated[Path | None, typer.Option(help="Folder for rows, costs and results; else out/NAME.")] = None,
    controls: Annotated[
        str, typer.Option(help="Some of zeroed,shuffled,swapped, where something is read; none for none.")
    ] = "zeroed,shuffled,swapped",
    prompt: Annotated[
        str,
        typer.Option(
            help="benchmark: its own words around the problem; bare: none, and no solved problems but those of "
            "emergence; auto: bare for our models, unless --shots asks for some."
        ),
    ] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Other problems and places for another seed.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Documents side by side, where the model can.")] = 1,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json instead of a table.")] = False,
    progress: Annotated[bool, typer.Option(help="Show a bar on standard error.")] = True,
) -> None:
    """The options that all of them have."""


def _benchmark(tasks: Callable[..., Sequence[Any]]) -> Callable[..., None]:
    """A command of what ``tasks`` takes and the shared options; ``tasks`` says which tasks its options mean."""
    own, shared = inspect.signature(tasks, eval_str=True), inspect.signature(_shared, eval_str=True)

    @wraps(tasks)
    def command(**options: Any) -> None:
        given = {name: options.pop(name) for name in own.parameters}
        chosen = tasks(**given)
        # A bare prompt has none of the examples that were asked for; where they are the default it has them too.
        if given.get("shots") and own.parameters["shots"].default == 0:
            if options["prompt"] == "bare":
                raise InputError("--shots: expected 0 with --prompt bare, which shows none; leave one of them out")
            if options["prompt"] == "auto":
                options["prompt"] = "benchmark"
        where = options.pop("out") or Path("out") / tasks.__name__
        score(chosen, Request(lengths=options.pop("background"), lengths_option="--background", out=where, **options))

    parameters = [*own.parameters.values(), *shared.parameters.values()]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    del command.__wrapped__  # type: ignore[attr-defined]  # else that one's signature is taken
    return command


def _make(name: str, **settings: Any) -> list[Any]:
    """A task of ``evals`` with settings. Raises InputError on one that it refuses."""
    from evals.tasks.registry import make
    from rmt.cli.common import bad_input

    with bad_input():
        return [make(name, **settings)]


@_benchmark
def humaneval(
    files: Annotated[str, typer.Option(help="HumanEval.jsonl.gz, or a folder that holds it.")] = "",
    hub: Annotated[str, typer.Option(help="Or a data set of the hub: openai/openai_humaneval.")] = "",
    samples: Annotated[int, typer.Option(min=1, help="Programs of each problem; pass@k needs at least k.")] = 1,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token each time.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest tokens with this much probability.")] = 0.95,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of a program, at most.")] = 512,
    fences: Annotated[bool, typer.Option("--fences", help="Take the code out of Markdown: for chat models.")] = False,
    unsandboxed: Annotated[
        bool, typer.Option("--unsandboxed", help="Run programs even where nothing shuts them in. They may do anything.")
    ] = False,
) -> Any:
    """Programs from their descriptions, run against tests in a sandbox: pass@k (Chen et al., arXiv 2107.03374).

    With a background the description is spread over a document, and the signature is asked to be completed.

    \b
    Examples:
      rmt eval humaneval --files HumanEval.jsonl.gz --model hf:FOLDER --n 164
      rmt eval humaneval --files HumanEval.jsonl.gz --model hf:FOLDER --n 164 --samples 100 --temperature 0.8
      rmt eval humaneval --files HumanEval.jsonl.gz --model llama-rmt --n 8 --background 0,64k
    """
    return _make(
        "humaneval",
        files=files,
        hub=hub,
        samples=samples,
        temperature=temperature,
        top_p=top_p,
        max_tokens=max_tokens,
        fences=fences,
        unsandboxed=unsandboxed,
    )


@_benchmark
def corr2cause(
    variables: Annotated[str, typer.Option(help="How many variables a system has: 4, or 2-6.")] = "2-6",
    semantics: Annotated[str, typer.Option(help="correct, or released: with the errors of the published data.")] = (
        "correct"
    ),
    perturb: Annotated[str, typer.Option(help="none, paraphrase or refactor.")] = "none",
    balanced: Annotated[bool, typer.Option(help="As many entailed as not; else as they come, few entailed.")] = False,
    files: Annotated[str, typer.Option(help="The published data instead: a file or folder.")] = "",
    hub: Annotated[str, typer.Option(help="Or from the hub: causalnlp/corr2cause.")] = "",
) -> Any:
    """What causes follow from correlations: F1 of what is entailed (Jin et al., arXiv 2306.05836).

    \b
    Examples:
      rmt eval corr2cause --model hf:FOLDER --n 200 --balanced
      rmt eval corr2cause --model llama-rmt --variables 3-5 --background 0,64k
    """
    return _make(
        "corr2cause",
        variables=variables,
        semantics=semantics,
        perturb=perturb,
        balanced=balanced,
        files=files,
        hub=hub,
    )


@_benchmark
def multiplication(
    sizes: Annotated[str, typer.Option(help="Digits of both numbers: 2x2,3x3, or 1-5 for all pairs.")] = _SIZES,
    shots: _Shots = 0,
    scratchpad: _Scratchpad = False,
    split: _Split = "all",
) -> Any:
    """Long multiplication by size and depth, with its steps (Dziri et al., "Faith and Fate", arXiv 2305.18654).

    \b
    Examples:
      rmt eval multiplication --model hf:FOLDER --sizes 1-3 --n 90 --shots 4 --scratchpad
      rmt eval multiplication --model llama-rmt --background 0,64k
    """
    return _make("multiplication", sizes=sizes, shots=shots, scratchpad=scratchpad, split=split)


@_benchmark
def puzzle(
    sizes: Annotated[str, typer.Option(help="Houses x attributes: 2x2,3x3,5x5.")] = "2x2,3x3,4x4,5x5",
    shots: _Shots = 0,
    scratchpad: _Scratchpad = False,
    split: _Split = "all",
) -> Any:
    """Logic grid puzzles, each with one solution and no clue too many ("Faith and Fate", arXiv 2305.18654).

    \b
    Examples:
      rmt eval puzzle --model hf:FOLDER --sizes 2x2,3x3 --n 64 --shots 2
      rmt eval puzzle --model llama-rmt --background 0,64k
    """
    return _make("puzzle", sizes=sizes, shots=shots, scratchpad=scratchpad, split=split)


@_benchmark
def dp(
    sizes: Annotated[str, typer.Option(help="Numbers in a list: 5, or 2-10.")] = "2-10",
    shots: _Shots = 0,
    scratchpad: _Scratchpad = False,
    split: _Split = "all",
) -> Any:
    """The largest sum of numbers that do not stand side by side ("Faith and Fate", arXiv 2305.18654).

    \b
    Examples:
      rmt eval dp --model hf:FOLDER --sizes 2-5 --n 64 --shots 4
      rmt eval dp --model llama-rmt --background 0,64k
    """
    return _make("dp", sizes=sizes, shots=shots, scratchpad=scratchpad, split=split)


@_benchmark
def emergence(
    shots: _Shots = 4,
    split: _Split = "test",
) -> Any:
    """Few-shot tasks under several metrics at once: sharp under one, smooth under another (arXiv 2304.15004).

    `rmt report` of runs of models of one family draws each metric over their size.

    \b
    Examples:
      rmt eval emergence --model hf:FOLDER --n 200
      rmt eval emergence --model llama-rmt --background 0,64k
    """
    from evals.tasks.registry import GROUPS

    return [task for name in GROUPS["emergence"] for task in _make(name, shots=shots, split=split)]
