"""What quantising changed: size, speed, answers or perplexity, and the memory's error from segment to segment."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from evals.tasks.memory import MemoryTasks

TASKS = ("memorize", "detect", "reasoning")
ROUNDS = 5  # in which both models read in turn, for their speed


def compare(
    before: Any,
    after: Any,
    tokenizer: Any,
    text: Any,
    part: tuple[int, int],
    *,
    n: int,
    seed: int,
    progress: bool,
    picture: Path,
) -> dict[str, Any]:
    """Figures of both models on text that calibration has not seen.

    Args:
        before, after: in floating point, and quantised; both read in the format that reading chooses by itself.
        text: tokens, of which ``part`` (from, to) is a document to read.
        n, seed: documents of the tasks, for a model that answers them.
        picture: where the memory's error is drawn.
    """
    from rmt.reader import Reader

    readers = {"before": Reader(before, tokenizer), "after": Reader(after, tokenizer)}
    ids = text[slice(*part)]
    maker = tasks(tokenizer, text, len(ids), seed)
    told = document_of(maker, readers["before"])
    found: dict[str, Any] = {"format": readers["before"].settings()["dtype"], "tokens": len(ids)}
    found |= speeds(readers, ids)
    exact = Reader(before, tokenizer, dtype="float32")
    found["memory_error"] = strayed(exact, readers, ids if told is None else told, picture)
    if before.layout == "decoder":
        found["perplexity"] = {name: perplexity(reader, ids) for name, reader in readers.items()}
    return found | ({} if told is None else {"answers": answers(readers, maker, n, seed, progress)})


def tasks(tokenizer: Any, text: Any, length: int, seed: int) -> MemoryTasks:
    """Documents of so many tokens, to ask both models of."""
    return MemoryTasks(tokenizer, text, length, TASKS, 2, seed)


def check_documents(reader: Any, text: Any, length: int, *, n: int, seed: int) -> None:
    """Refuse a length that leaves no room for what the documents of the tasks say, before anything is done.

    Args:
        reader: of the model as it was; nothing is refused where it does not answer the tasks.
        length: of each document, in tokens.
        n, seed: as of :func:`compare`.

    Raises:
        InputError: a length that is too short.
    """
    from rmt.errors import InputError

    maker = tasks(reader.tokenizer, text, length, seed)
    if not answers_tasks(reader):
        return
    try:
        for _ in maker.documents(n):
            pass
    except ValueError as error:
        raise InputError(
            f"--check: expected a length that the facts of the tasks have room in, got {length} tokens ({error}); "
            "give more, or 0 for no report"
        ) from error


def speeds(readers: dict[str, Any], ids: Any) -> dict[str, Any]:
    """Tokens a second of both, reading in turn, and the median of their ratios."""
    times: dict[str, list[float]] = {name: [] for name in readers}
    for number in range(ROUNDS + 1):
        for name in sorted(readers, reverse=bool(number % 2)):
            start = time.perf_counter()
            readers[name].read(ids, progress=False)
            if number:  # the first warms up
                times[name].append(time.perf_counter() - start)
    ratio = median(a / b for a, b in zip(times["before"], times["after"], strict=True))
    return {"tokens_per_second": {name: len(ids) / median(t) for name, t in times.items()}, "speed_ratio": ratio}


def strayed(exact: Any, readers: dict[str, Any], ids: Any, picture: Path) -> dict[str, Any]:
    """How far both models' memories are from that of the model in float32, segment by segment, and a picture of it.

    Args:
        exact: a reader in float32.
        ids: the document; all read it from the start, each with its own memory.
    """
    import torch

    from evals.plots import lines
    from rmt.drift import gaps
    from rmt.executors import writer
    from rmt.segments import split

    size, found, drawn = exact.segment_size, {}, {}
    for name, reader in readers.items():
        segments = split(torch.as_tensor(ids[:]).long()[None], None, size)
        errors = [gap.error for gap in gaps(writer(exact.model), writer(reader.model), segments, exact.initial())]
        found[name] = {"median": median(errors), "most": max(errors), "last": errors[-1], "segments": len(errors)}
        # As far apart as the axis shows them.
        kept = sorted({round(len(errors) ** (step / 99)) for step in range(100)})
        label = "8-bit" if name == "after" else reader.settings()["dtype"].removeprefix("torch.")
        drawn[label] = [(number * size, errors[number - 1]) for number in kept]
    title = "Error of the memory against float32"
    lines(drawn, picture, title=title, ylabel="relative error after a segment")
    return found | {"picture": str(picture)}


def perplexity(reader: Any, ids: Any) -> float:
    """Of a language model: exp of the mean loss of each token, given the memory of all segments before its own."""
    import torch
    from torch.nn import functional as F

    from rmt.segments import split

    model, size = reader.model, reader.segment_size
    total, count = 0.0, 0
    with torch.inference_mode():
        state = reader.initial()
        for start in range(0, len(ids) - 1, size):
            part = torch.as_tensor(ids[start : start + size]).long()[None].to(model.device)
            out = model.cell(model.core, split(part, None, size)[0], state)
            state = out.state
            logits = model.get_output_embeddings()(out.hidden)[0, :-1].float()
            total += float(F.cross_entropy(logits, part[0, 1:], reduction="sum"))
            count += part.shape[1] - 1
    return math.exp(total / count)


def document_of(maker: MemoryTasks, reader: Any) -> Any:
    """Tokens of a document with facts in it, which a memory keeps; None for a model that does not answer such tasks."""
    if not answers_tasks(reader):
        return None
    document = next(iter(maker.documents(1)))
    return document.tokens(0, document.length)


def answers_tasks(reader: Any) -> bool:
    """Whether a model answers the tasks at all: a language model, or a classifier of places."""
    from rmt.cli.adapters import ReaderModel
    from rmt.errors import InputError

    try:
        ReaderModel(reader)
    except InputError:
        return False
    return True


def answers(readers: dict[str, Any], maker: MemoryTasks, n: int, seed: int, progress: bool) -> dict[str, Any]:
    """Right answers of both models to the tasks of the memory papers, and of how many."""
    from evals import evaluate
    from evals.memory_eval import MEMORY
    from rmt.cli.adapters import ReaderModel
    from rmt.cli.common import bad_input, bar

    found: dict[str, Any] = {}
    for name, reader in readers.items():
        with bad_input(), bar(progress) as shown:
            cells = evaluate(ReaderModel(reader), maker.documents(n), settings={"seed": seed}, progress=shown)
        found[name] = {cell.task: [cell.successes, cell.n] for cell in cells if cell.control == MEMORY}
    return found


def show(found: dict[str, Any], folder: Path) -> str:
    """As lines of text."""
    rows: list[Sequence[str]] = [("", found.get("format", "before").removeprefix("torch."), "8-bit", "ratio")]
    size = f"quantised layers on disk, MB ({found['stored'].removeprefix('torch.')} before)"
    rows.append(_row(size, found["bytes_before"] / 1e6, found["bytes_after"] / 1e6, ".1f"))
    if "speed_ratio" in found:
        one, two = found["tokens_per_second"].values()
        rows.append(("tokens a second", f"{one:,.0f}", f"{two:,.0f}", f"{found['speed_ratio']:.2f}"))
    if "perplexity" in found:
        one, two = found["perplexity"].values()
        rows.append(_row("perplexity", one, two, ".2f"))
    for task in found.get("answers", {}).get("before", {}):
        scores = [found["answers"][name][task] for name in ("before", "after")]
        rows.append((f"{task}, right of {scores[0][1]}", *(str(score[0]) for score in scores), ""))
    if "memory_error" in found:
        for kind in ("median", "most", "last"):
            one, two = (found["memory_error"][name][kind] for name in ("before", "after"))
            named = f"memory's error against float32, {kind}"
            rows.append((named, f"{one:.4f}", f"{two:.4f}", f"{two / one:.1f}" if one else ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    if "memory_error" in found:
        error = found["memory_error"]
        lines.append(f"drawn, of {error['after']['segments']:,} segments: {error['picture']}")
    return "\n".join([*lines, f"{folder}: {found['layers']} layers in 8 bits, {len(found['left'])} left as they were"])


def _row(name: str, one: float, two: float, form: str) -> tuple[str, str, str, str]:
    return name, f"{one:{form}}", f"{two:{form}}", f"{two / one:.3f}"
