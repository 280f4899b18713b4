"""``rmt quantize``: a model with 8-bit linear layers, calibrated on documents that it reads with its own memory."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rmt.cli.models import MODEL_HELP

if TYPE_CHECKING:
    import efficiency.smoothquant
    import efficiency.smoothquant.report
    import rmt.data.tokens
    import rmt.models.base


ROWS = 64  # of each input, kept with statistics for a later search


def quantize(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write the quantised model to.")],
    data: Annotated[
        str, typer.Option(help="Text to calibrate on, and other text of it to check with; anything `rmt read` takes.")
    ] = "installed:",
    alpha: Annotated[
        str, typer.Option(help="How much of the outliers moves into weights: 0 to 1, search, or none for no smoothing.")
    ] = "search",
    activations: Annotated[
        str, typer.Option(help="Scales of inputs: token (of each row), tensor (of each input) or static.")
    ] = "token",
    memory: Annotated[str, typer.Option(help="int8, or float to keep inputs at memory tokens unrounded.")] = "int8",
    tokens: Annotated[str, typer.Option(help="Tokens to calibrate on: 16k is 16,000.")] = "16k",
    statistics: Annotated[
        Path | None, typer.Option(help="File for what calibration saw: used where it is there, else written.")
    ] = None,
    check: Annotated[
        str, typer.Option(help="Tokens of a document to compare both models on; 0 for no report.")
    ] = "16k",
    n: Annotated[int, typer.Option("--n", min=1, help="Documents of the tasks, for models that answer them.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of the documents to check with.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    progress: Annotated[bool, typer.Option(help="Show bars on standard error.")] = True,
) -> None:
    """Make a model's linear layers 8-bit (SmoothQuant, W8A8), and say what that changed.

    The output is a folder like any other model's: read, ask and eval take it. The report compares it with the model as
    it was, in the format that it reads in: size, speed, answers or perplexity, and how far the memory strays, segment
    by segment (OUTPUT/memory_error.png).

    \b
    Examples:
      rmt quantize bundled -o minilm-int8
      rmt quantize llama-rmt -o llama-int8 --alpha 0.5 --data books/
      rmt read war_and_peace.txt -o peace.memory --model minilm-int8
    """
    from rmt.cli import models
    from rmt.cli.quantize_report import check_documents, compare, show

    wanted, calibrating = parse_alpha(alpha), parse_count(tokens, "--tokens")
    checked = 0 if check.strip() == "0" else parse_count(check, "--check", least=2)
    check_output(output, model)
    check_statistics(statistics)
    before, tokenizer = models.load(model)
    models.refuse_sight(tokenizer, model)
    check_model(before, model)
    known = known_statistics(before, statistics)
    from rmt.reader import Reader

    reader = Reader(before, tokenizer)
    with (
        TemporaryDirectory(prefix="rmt-") as place,
        reader.tokens_of(data, Path(place) / "text.tokens", progress=progress) as text,
    ):
        check_text(text, data, calibrating + checked)
        if checked:
            check_documents(reader, text, checked, n=n, seed=seed)
        after, report = quantised(
            before, text[:calibrating], wanted, activations, memory, known, statistics, progress=progress
        )
        save(after, tokenizer, output, report)
        found: dict[str, Any] = {"model": model, "layers": len(report.quantised), "left": report.left}
        found["stored"] = str(before.dtype)  # what bytes_before counts; both read in `format`
        if checked:
            part, picture = (calibrating, calibrating + checked), output / "memory_error.png"
            found |= compare(before, after, tokenizer, text, part, n=n, seed=seed, progress=progress, picture=picture)
    found |= {"bytes_before": report.bytes_before, "bytes_after": report.bytes_after}
    write_beside(output / "quantize.json", json.dumps(found, indent=2))
    typer.echo(json.dumps(found, indent=2) if as_json else show(found, output))


def check_model(model: rmt.models.base.RMTPreTrainedModel, name: str) -> None:
    """Refuse a model that is quantised already, before any text is read.

    Raises:
        InputError: it is.
    """
    from rmt.errors import InputError

    if getattr(model.config, "quantization_config", None) is not None:
        raise InputError(
            f"{name}: expected a model in floating point, got one that is quantised already; give the one it was "
            "made from"
        )


def check_text(text: rmt.data.tokens.TokenFile, source: str, wanted: int) -> None:
    """Refuse text that is too short.

    Raises:
        InputError: with how many tokens there are.
    """
    from rmt.errors import InputError

    if len(text) < wanted:
        raise InputError(
            f"--data: expected {wanted:,} tokens to calibrate and check on, got {len(text):,} in {source}; give more "
            "text, or less to --tokens and --check"
        )


def check_output(folder: Path, model: str) -> None:
    """Refuse a folder whose model would be lost; an empty one, or one with an earlier 8-bit model, is fine.

    Raises:
        InputError: a file, a folder without a parent, that of ``model``, or one that holds a model in floating point.
    """
    from rmt.errors import InputError

    if folder.is_file() or not folder.absolute().parent.is_dir():
        raise InputError(f"{folder}: expected a folder whose parent is there; choose another output")
    source = Path(model).expanduser().resolve()
    if source.is_dir() and folder.resolve() in (source, source / "model"):
        raise InputError(f"{folder}: expected a folder other than the model's, got that; choose another output")
    for name in ("config.json", "adapter_config.json", "model/config.json"):
        if (folder / name).exists() and not holds_int8(folder / name):
            raise InputError(
                f"{folder}: expected an empty folder or one with an 8-bit model, got one whose {name} is of a model "
                "in floating point; choose another output"
            )


def holds_int8(config: Path) -> bool:
    """Whether a configuration is of a model that was quantised before."""
    from json import JSONDecodeError

    try:
        found = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, JSONDecodeError):
        return False
    told = found.get("quantization_config") if isinstance(found, dict) else None
    return isinstance(told, dict) and told.get("quant_method") == "compressed-tensors"


def check_statistics(path: Path | None) -> None:
    """Refuse a file that cannot be written where it is to be.

    Raises:
        InputError: a folder, or a file without one that it can lie in.
    """
    from rmt.errors import InputError

    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise InputError(f"--statistics: expected a file in a folder that is there, got {path}; choose another")


def known_statistics(
    model: rmt.models.base.RMTPreTrainedModel, path: Path | None
) -> efficiency.smoothquant.Statistics | None:
    """What an earlier calibration of this model saw; None where there was none.

    Raises:
        InputError: a file of another model, or of something else.
    """
    from efficiency.errors import InputError as Wrong
    from efficiency.smoothquant import Statistics
    from rmt.errors import InputError

    if path is None or not path.exists():
        return None
    try:
        return Statistics.load(path, model.fingerprint())
    except Wrong as error:
        raise InputError(f"--statistics: {path}: {error}, or name another file") from error


def parse_alpha(text: str) -> float | str | None:
    """A number, ``search``, or None for none.

    Raises:
        InputError: anything else.
    """
    from rmt.errors import InputError

    if text in ("search", "none"):
        return None if text == "none" else text
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"--alpha: expected a number from 0 to 1, search or none, got {text!r}") from error


def parse_count(text: str, option: str, least: int = 1) -> int:
    """One number of tokens, such as 600 or 16k.

    Raises:
        InputError: anything else, or fewer than ``least``.
    """
    from rmt.cli.common import parse_lengths
    from rmt.errors import InputError

    if "," in text:
        raise InputError(f"{option}: expected one number such as 16k, got {text!r}; give one")
    (found,) = parse_lengths(text, option)
    if found < least:
        raise InputError(f"{option}: expected at least {least} tokens, got {found}; give more")
    return found


def quantised(
    model: rmt.models.base.RMTPreTrainedModel,
    ids: Any,
    alpha: float | str | None,
    activations: str,
    memory: str,
    known: efficiency.smoothquant.Statistics | None,
    statistics: Path | None,
    *,
    progress: bool,
) -> tuple[Any, efficiency.smoothquant.report.SmoothReport]:
    """A quantised copy, and what was done.

    Args:
        ids: tokens to calibrate on, read as one document with the model's own memory.
        known: what an earlier calibration of this model saw.
        statistics: where to write what this one sees, rows for a later search with it.

    Raises:
        InputError: settings or a model that cannot be quantised so.
    """
    import copy

    from efficiency.errors import InputError as Wrong
    from efficiency.int8 import Marks
    from efficiency.smoothquant import smooth_quantize
    from rmt.cli.common import bad_input
    from rmt.errors import InputError

    after, marks = copy.deepcopy(model).eval(), Marks()
    after.on_positions(marks)
    try:
        report = smooth_quantize(
            after,
            lambda it: rollout(it, ids, progress),
            alpha=alpha,
            activations=activations,
            memory=memory,
            marks=marks,
            statistics=known,
            samples=None if statistics is None else ROWS,
            fingerprint=model.fingerprint(),
            progress=progress,
        )
        if statistics is not None and known is None and report.statistics is not None:
            with bad_input():
                report.statistics.save(statistics)
    except Wrong as error:
        raise InputError(f"quantize: {error}") from error
    if memory == "int8":
        after.on_positions(None)
    return after, report


def rollout(model: Any, ids: Any, progress: bool) -> None:
    """Read a document segment by segment, each with the memory that the one before left."""
    import torch
    from tqdm import tqdm

    from rmt.executors import Sequential
    from rmt.segments import split

    size = model.config.segment_size
    with torch.no_grad():
        state, run = model.initial_memory().tensors, Sequential()
        for start in tqdm(range(0, len(ids), size), desc="calibrating", unit="segment", disable=not progress):
            part = torch.as_tensor(ids[start : start + size]).long()[None].to(model.device)
            state = run.read(model, split(part, None, size), state)


def save(model: Any, tokenizer: Any, folder: Path, report: Any) -> None:
    """The model and its tokenizer, as ``save_pretrained`` does; and which layers were smoothed how."""
    from efficiency.int8.checkpoint import save as write
    from rmt.cli.common import bad_input

    with bad_input():
        write(model, folder)
        tokenizer.save_pretrained(folder)
        write_beside(folder / "smoothing.txt", f"{report}\n")


def write_beside(path: Path, text: str) -> None:
    """Whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)
