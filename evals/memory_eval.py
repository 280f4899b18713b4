"""Scores what a memory holds: read a document once, ask all its questions, and the same with controls.

A question is asked of four memories. "memory" is that of its own document: the score. "zeroed" is the
memory before reading: what the question alone gives away. "shuffled" is the right memory with its channels
in another, fixed order: whether any memory of that size would do. "swapped" is the memory of another
document of the same length whose question has another answer: if the answer follows the memory, it is wrong
here, but where that document happens to say the same of what is asked (of a yes or no often, of a place
seldom). Knows nothing of how a model reads; see ``evals.model``.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evals.cells import CONTROLS, MEMORY, NATS, RATE, Cell, paired, tally
from evals.cost import Cost, cost_path, log_cost, peak_bytes
from evals.model import Document, MemoryModel, Question, State
from evals.rows import Row, RowLog
from evals.scorers import assess

__all__ = [
    "CONTROLS",
    "MEMORY",
    "NATS",
    "RATE",
    "Cell",
    "Progress",
    "document_digest",
    "evaluate",
    "paired",
    "tally",
]

_DIGEST_BLOCK = 1 << 16  # tokens hashed at a time, so that a long document is never held whole


@dataclass(frozen=True)
class Progress:
    """How far an evaluation is: documents and tokens done, of how many, and the length being read now."""

    documents: int
    documents_total: int
    tokens: int
    tokens_total: int
    length: int


@dataclass(frozen=True)
class _Ask:
    """One question to answer: whose question, which control, whose memory (None: the initial one)."""

    document: int
    question: int
    control: str
    source: int | None


def evaluate(
    model: MemoryModel[State],
    documents: Iterable[Document],
    *,
    log: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    controls: Sequence[str] = CONTROLS,
    batch_size: int = 1,
    shuffle_seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
    part: tuple[int, int] = (0, 1),
    wait: Callable[[], None] | None = None,
    answered: Callable[[Sequence[Row]], object] | None = None,
) -> list[Cell]:
    """Score ``model`` on ``documents``: each is read once, and every question of it asked with each control.

    ``log`` keeps a row per answer (see ``evals.rows``); a later call with the same file, model and
    ``settings`` goes on where the former stopped and returns what an unbroken run returns. Documents of
    equal length are read ``batch_size`` at a time; batches are the same whether or not a run was broken.
    A swapped memory comes from the nearest document in the list that has the task and in which no question
    of it has this answer (failing that, in which the question in the same place has another); a question
    for which there is none gets no swapped row, so n of that cell is smaller. A document with a method
    ``gives_away(other)`` lends nothing to another of which that is true: it holds what answers its question. No memory
    is kept longer than its batch.

    ``part`` (this process, of how many) shares the batches out among processes: each logs to a file of its own beside
    ``log`` and reads those of all, so what another has done is counted in ``progress`` and never done twice. ``wait``
    is called when this process is done and returns when all are; the cells are then those of the whole run. What
    reading cost is logged beside the rows (see ``evals.cost``). ``answered`` is called once, at the end, with the rows
    that the cells are made of: the log may hold more, of an earlier call.

    Raises ValueError on an unknown control, no documents, the same document twice, a document that
    returns a wrong number of tokens, or a log of another model or other settings.
    """
    items = list(documents)
    _check_request(items, controls, batch_size, part)
    plan = _plan(items, controls)
    digests = _Digests(items)
    batches = _batches(items, batch_size)
    with RowLog(log, model.fingerprint(), {**(settings or {}), "shuffle_seed": shuffle_seed}, part[0]) as rows:

        def done(batch: Sequence[int]) -> bool:
            return all(rows.get(_key(ask, digests)) is not None for index in batch for ask in plan[index])

        going = list(range(len(batches)))  # that are not known to be done, whichever process does them
        for number, batch in list(enumerate(batches))[part[0] :: part[1]]:
            if not done(batch):
                cost = _answer_batch(model, items, batch, plan, digests, rows, shuffle_seed)
                if log is not None:
                    log_cost(cost_path(log), cost, part[0])
            if progress is not None:
                rows.refresh()
                going = [other for other in going if (other > number if part[1] == 1 else not done(batches[other]))]
                progress(_progress(items, [batches[other] for other in going], items[batch[0]].length))
        if wait is not None:
            wait()
            rows.refresh()
        found = [row for asks in plan for ask in asks if (row := rows.get(_key(ask, digests))) is not None]
    if answered is not None:
        answered(found)
    return tally(found)


def _progress(documents: Sequence[Document], going: Sequence[Sequence[int]], length: int) -> Progress:
    left = [index for batch in going for index in batch]
    tokens = sum(document.length for document in documents)
    missing = sum(documents[index].length for index in left)
    return Progress(len(documents) - len(left), len(documents), tokens - missing, tokens, length)


def document_digest(document: Document) -> str:
    """SHA-256 of a document's tokens and questions (first 16 hex digits), read in blocks.

    A document with an attribute ``recipe`` (text from which all its tokens follow) is named by that instead.

    Raises ValueError if the document gives another number of tokens than it was asked for.
    """
    digest = hashlib.sha256(f"{document.length}\n".encode())
    recipe = getattr(document, "recipe", None)
    if recipe is not None:  # all its tokens follow from this, and making them takes time
        digest.update(f"{recipe}\n".encode())
    for start in range(0, document.length if recipe is None else 0, _DIGEST_BLOCK):
        stop = min(start + _DIGEST_BLOCK, document.length)
        ids = np.ascontiguousarray(document.tokens(start, stop), dtype="<i8")
        if ids.shape != (stop - start,):
            raise ValueError(
                f"expected {stop - start} tokens from {start} to {stop}, got shape {ids.shape}; "
                "a document of stated length must have all of it"
            )
        digest.update(ids.data)
    for question in document.questions:
        digest.update(f"\n{question.task}\n{question.answer}\n".encode())
        digest.update(np.ascontiguousarray(question.ids, dtype="<i8").data)
    return digest.hexdigest()[:16]


class _Digests:
    """Digests of the documents, each computed when first needed; refuses the same document twice."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self._documents = documents
        self._known: dict[int, str] = {}
        self._places: dict[str, int] = {}

    def __getitem__(self, index: int) -> str:
        if index not in self._known:
            digest = document_digest(self._documents[index])
            twin = self._places.setdefault(digest, index)
            if twin != index:
                raise ValueError(f"expected different documents, got the same as {twin} and {index}; give each a seed")
            self._known[index] = digest
        return self._known[index]


def _check_request(
    documents: Sequence[Document], controls: Sequence[str], batch_size: int, part: tuple[int, int]
) -> None:
    unknown = [control for control in controls if control not in CONTROLS]
    if unknown:
        raise ValueError(f"expected controls out of {', '.join(CONTROLS)}, got {', '.join(unknown)}; leave it out")
    if not any(document.questions for document in documents):
        raise ValueError(f"expected documents with questions, got {len(documents)} without; give at least one")
    if batch_size < 1:
        raise ValueError(f"expected a batch size of at least 1, got {batch_size}; 1 reads one document at a time")
    if not 0 <= part[0] < part[1]:
        raise ValueError(f"part: expected this process, from 0, and how many there are, got {part}; (0, 1) is alone")


def _plan(documents: Sequence[Document], controls: Sequence[str]) -> list[list[_Ask]]:
    """For each document, what is asked once it has been read: all that needs its memory, and its zeroed ones.

    A swapped question stands with the document that lends its memory, so that no memory outlives its batch.
    """
    plan: list[list[_Ask]] = [[] for _ in documents]
    lengths: dict[int, list[int]] = {}
    for index, document in enumerate(documents):
        lengths.setdefault(_filed(document), []).append(index)
    for control in (MEMORY, *(name for name in CONTROLS if name in controls)):
        for index, document in enumerate(documents):
            for number in range(len(document.questions)):
                if control != MEMORY and not document.length:
                    continue  # nothing was read, so there is no memory to take away
                if control == "zeroed":
                    plan[index].append(_Ask(index, number, control, None))
                elif control == "swapped":
                    lender = _lender(documents, lengths[_filed(document)], index, number)
                    if lender is not None:
                        plan[lender].append(_Ask(index, number, control, lender))
                else:
                    plan[index].append(_Ask(index, number, control, index))
    return plan


def _filed(document: Document) -> int:
    """The length a document's answers are filed under: its own, or the one a benchmark names it by (``nominal``)."""
    return int(getattr(document, "nominal", document.length))


def _lender(documents: Sequence[Document], same_length: Sequence[int], index: int, number: int) -> int | None:
    """The nearest other document whose memory must lead to another answer, or None."""
    question = documents[index].questions[number]
    place = [q.task for q in documents[index].questions[:number]].count(question.task)
    second_best = None
    for other in _outwards(same_length, same_length.index(index)):
        gives_away = getattr(documents[other], "gives_away", None)
        if gives_away is not None and gives_away(documents[index]):
            continue
        answers = [q.answer for q in documents[other].questions if q.task == question.task]
        if answers and question.answer not in answers:
            return other
        if second_best is None and place < len(answers) and answers[place] != question.answer:
            second_best = other
    return second_best


def _outwards(places: Sequence[int], centre: int) -> Iterator[int]:
    """All places but that at ``centre``, the nearest first."""
    for step in range(1, len(places)):
        if step <= centre:
            yield places[centre - step]
        if centre + step < len(places):
            yield places[centre + step]


def _batches(documents: Sequence[Document], batch_size: int) -> list[list[int]]:
    """Documents of equal length together, short lengths first, so that first results come soon."""
    batches = []
    for length in sorted({document.length for document in documents}):
        same = [index for index, document in enumerate(documents) if document.length == length]
        batches += [same[start : start + batch_size] for start in range(0, len(same), batch_size)]
    return batches


def _key(ask: _Ask, digests: _Digests) -> tuple[str, int, str, str]:
    source = "" if ask.source is None else digests[ask.source]
    return (digests[ask.document], ask.question, ask.control, source)


def _answer_batch(
    model: MemoryModel[State],
    documents: Sequence[Document],
    batch: Sequence[int],
    plan: Sequence[Sequence[_Ask]],
    digests: _Digests,
    rows: RowLog,
    shuffle_seed: int,
) -> Cost:
    """Read a batch and log what is missing. A broken group is asked whole, so that no rounding differs."""
    began = time.perf_counter()
    states = model.read([documents[index] for index in batch])
    read = time.perf_counter()
    asked = 0
    if len(states) != len(batch):
        raise ValueError(f"expected {len(batch)} memories, got {len(states)}; read returns one for each document")
    for index, state in zip(batch, states, strict=True):
        for control in dict.fromkeys(ask.control for ask in plan[index]):
            asks = [ask for ask in plan[index] if ask.control == control]
            missing = [rows.get(_key(ask, digests)) is None for ask in asks]
            if not any(missing):
                continue
            used = state
            if control == "zeroed":
                used = model.initial()
            elif control == "shuffled":
                used = model.shuffled(state, shuffle_seed)
            asked += len(asks)
            questions = [documents[ask.document].questions[ask.question] for ask in asks]
            answers = _answers(model, used, questions)
            for ask, question, answer, new in zip(asks, questions, answers, missing, strict=True):
                if new:
                    rows.append(_row(ask, question, answer, _filed(documents[ask.document]), digests))
    return Cost(
        documents[batch[0]].length,
        len(batch),
        read - began,
        time.perf_counter() - read,
        asked,
        peak_bytes(),
    )


def _answers(model: MemoryModel[State], state: State, questions: Sequence[Question]) -> list[Any]:
    answers = [
        answer
        if isinstance(answer, str | float | dict)
        else float(answer)
        if isinstance(answer, np.floating)
        else int(answer)
        for answer in model.answer(state, questions)
    ]
    if len(answers) != len(questions):
        raise ValueError(f"expected {len(questions)} answers, got {len(answers)}; answer returns one for each question")
    return answers


def _row(ask: _Ask, question: Any, answer: Any, length: int, digests: _Digests) -> Row:
    digest, number, control, source = _key(ask, digests)
    row = Row(question.task, length, control, ask.document, number, digest, source, question.answer, answer)
    scorer = getattr(question, "scorer", "")
    if not scorer:  # a label, right or wrong
        return row
    scored = assess(scorer, answer, question.answer if isinstance(question.answer, tuple) else (), question.text)
    detail = {**getattr(question, "about", {}), **scored.detail} or None
    evidence = tuple(question.evidence)
    return replace(row, score=scored.score, scorer=scorer, asked=question.text, evidence=evidence, detail=detail)
