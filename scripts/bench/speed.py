"""Reading speed of ``rmt.Reader`` against ``rmt.reference``, both in one process, in turn.

Documents are those of the paper's memory tasks: real text with facts hidden in it. Each is read by both sides,
one right after the other, so that whatever else the machine does falls on both; who goes first changes from one
document to the next. Both sides then answer the document's questions.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

import numpy as np
import roofline
import torch
from subject import settle
from torch import Tensor

from evals.tasks.documents import Document
from evals.tasks.memory import MemoryTasks
from rmt import reference
from rmt.answers import classify
from rmt.data.tokens import TokenFile
from rmt.reader import Reader

T = TypeVar("T")
IDLE = 0.95  # of a core, which one thread gets on a quiet machine


@dataclass(frozen=True)
class Reading:
    """One document read by both sides.

    Attributes:
        ours, theirs: tokens per second of the reader and of the reference.
        rows: segments that the reader ran, those read ahead in vain counted too, per segment of the document.
        gap, size: largest difference between the two memories, and largest absolute value of the reference's.
        same, questions: answers that are the same on both sides, out of how many.
        doubt: largest difference in the probability of an answer; a model that knows nothing gives near ties, which
            the rounding of bfloat16 can turn.
        cores: processor seconds per second, of the side that got fewer; well below 1, the machine was busy with
            other work and the document says nothing about speed.
    """

    ours: float
    theirs: float
    rows: float
    gap: float
    size: float
    same: int
    questions: int
    doubt: float
    cores: float


def timed(work: Callable[[], T]) -> tuple[T, float, float]:
    """What ``work`` gives, the seconds that it took until the GPU was done too, and the processor seconds."""
    settle()
    start, busy = time.perf_counter(), time.process_time()
    result = work()
    settle()
    return result, time.perf_counter() - start, time.process_time() - busy


def warm_up(reader: Reader, twin: Any, ids: np.ndarray) -> None:
    """Let both sides allocate what they keep."""
    reader.read(ids[: reader.block], progress=False)
    reference.read(twin, ids[: reader.segment_size].tolist())


def read_both(reader: Reader, twin: Any, document: Document, reader_first: bool) -> Reading:
    """Read a document on both sides and compare memories and answers.

    Args:
        reader: ours.
        twin: the same model as :func:`rmt.reference.as_reference` makes it.
        document: with at least one question.
        reader_first: which side goes first.
    """
    ids = document.tokens()
    listed = ids.tolist()
    rows = 0

    def count(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        nonlocal rows
        rows += len(kwargs["inputs_embeds"])

    sides: dict[bool, Callable[[], Any]] = {
        True: lambda: reader.read(ids, progress=False),
        False: lambda: reference.read(twin, listed),
    }
    hook = reader._writer.core.register_forward_pre_hook(count, with_kwargs=True)
    done = {ours: timed(sides[ours]) for ours in (reader_first, not reader_first)}
    hook.remove()
    (memory, seconds, busy), (expected, their_seconds, their_busy) = done[True], done[False]
    got: Tensor = memory.tensors["tokens"][0]
    questions = [question.ids for question in document.questions]
    ours = classify(reader.model, memory, questions)
    theirs = torch.stack([reference.classify(twin, q.tolist(), expected) for q in questions]).softmax(dim=-1)
    return Reading(
        ours=len(ids) / seconds,
        theirs=len(ids) / their_seconds,
        rows=rows / memory.meta.segments_read,
        gap=float((got - expected).abs().max()),
        size=float(expected.abs().max()),
        same=int((ours.argmax(dim=1) == theirs.argmax(dim=1)).sum()),
        questions=len(questions),
        doubt=float((ours - theirs).abs().max()),
        cores=min(busy / seconds, their_busy / their_seconds),
    )


def row(length: int, readings: Sequence[Reading], trained: bool) -> dict[str, Any]:
    """What the readings of one length come to; an untrained model's answers are left out."""
    ratios = [r.ours / r.theirs for r in readings]
    return {
        "length": length,
        "reader_tokens_per_s": [r.ours for r in readings],
        "reference_tokens_per_s": [r.theirs for r in readings],
        "ratios": ratios,
        "ratio": median(ratios),
        "rows_per_segment": float(np.mean([r.rows for r in readings])),
        "least_cores": min(r.cores for r in readings),
        "memory_difference": max(r.gap for r in readings),
        "memory_size": max(r.size for r in readings),
        "questions": sum(r.questions for r in readings) if trained else None,
        "same_answers": sum(r.same for r in readings) if trained else None,
        "probability_difference": max(r.doubt for r in readings) if trained else None,
    }


def measure(
    reader: Reader, twin: Any, background: TokenFile, lengths: Sequence[int], repeats: int, trained: bool
) -> dict[str, Any]:
    """Read ``repeats`` documents of each length on both sides; ``ratio`` is that of the length that gains least.

    Args:
        reader, twin: see :func:`read_both`.
        background: text of at least the greatest length.
        lengths: tokens of a document, rising.
        repeats: documents of each length.
        trained: whether the model was trained, so that its answers mean anything.
    """
    warm_up(reader, twin, background[: lengths[0]])
    rows = []
    for length in lengths:
        tasks, readings = MemoryTasks(reader.tokenizer, background, length), []
        for number in range(repeats):
            print(f"speed: {length:,} tokens, document {number + 1} of {repeats}", file=sys.stderr, flush=True)
            readings.append(read_both(reader, twin, tasks.document(number), reader_first=number % 2 == 0))
        rows.append(row(length, readings, trained))
    return {
        **reader.settings(),
        "device": torch.cuda.get_device_name() if reader.model.device.type == "cuda" else "cpu",
        "why": reader.why,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rows": rows,
        "roofline": roofline.roofline(reader, rows),
        "ratio": min(r["ratio"] for r in rows),
    }


def show(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as a table; tokens/s are medians."""
    lines = ["   tokens   Reader tok/s   reference tok/s   ratio (least to most)   rows/segment   same answers"]
    for r in rows:
        ours, theirs = median(r["reader_tokens_per_s"]), median(r["reference_tokens_per_s"])
        spread = f"{r['ratio']:.2f} ({min(r['ratios']):.2f} to {max(r['ratios']):.2f})"
        same = "untrained" if r["questions"] is None else f"{r['same_answers']} of {r['questions']}"
        lines.append(
            f"{r['length']:>9,}{ours:>15,.0f}{theirs:>18,.0f}{spread:>24}{r['rows_per_segment']:>15.2f}{same:>15}"
        )
    gap, size = max(r["memory_difference"] for r in rows), max(r["memory_size"] for r in rows)
    note = "" if size else " (gates shut: nothing was written)"
    lines.append(f"largest difference between the memories {gap:.2g}, largest value in them {size:.2g}{note}")
    if any(doubts := [r["probability_difference"] for r in rows if r["questions"] is not None]):
        lines.append(f"largest difference in the probability of an answer {max(doubts):.2g}")
    if (least := min(r["least_cores"] for r in rows)) < IDLE:
        lines.append(f"the machine was busy: a side got {least:.2f} of a core; measure again when it is quiet")
    return "\n".join(lines)


def curves(rows: Sequence[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """For a plot: tokens/s by length, of each side."""
    names = {"rmt.Reader": "reader_tokens_per_s", "rmt.reference": "reference_tokens_per_s"}
    return {name: [(r["length"], float(median(r[key]))) for r in rows] for name, key in names.items()}
