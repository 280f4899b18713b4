"""Folders of results into runs: whose rows they are, what is known of the model, what reading cost.

Runs of one model (the same fingerprint) are put together where they do not contradict each other, so that 64k and 1M
may lie in two folders. Knows nothing of pages.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evals.cost import Cost, cost_path, load_costs
from evals.memory_eval import CONTROLS, MEMORY
from evals.rows import Row, load_header, load_rows
from evals.tasks.memory import PLACES
from evals.tasks.memory import TASKS as LABELLED

Place = str | os.PathLike[str]
_ROWS = "rows.jsonl"
_ABOUT = ("run.json", "results.json")  # of ``evals.run``; of ``rmt eval memory``
_CELLS = {"cells", "confidence", "chance"}  # what is in the rows already, or stands elsewhere


@dataclass(frozen=True)
class Run:
    """Rows of one model, from one folder or several.

    Attributes:
        name: for people; unlike that of any other run of the page.
        fingerprint: of the weights and the way of reading.
        rows: each answer once.
        costs: of the documents read; empty where none were kept.
        segment: tokens between two updates of the memory, where known.
        chance: score of a guess by task, where known.
        settings: of each folder, as its rows state them.
        cells: the settings under which the questions of each task and length were asked.
        about: what else the folders say of the model.
    """

    name: str
    fingerprint: str
    rows: tuple[Row, ...]
    costs: tuple[Cost, ...] = ()
    segment: int | None = None
    chance: Mapping[str, float] = field(default_factory=dict)
    settings: tuple[Mapping[str, Any], ...] = ()
    cells: Mapping[tuple[str, int], Mapping[str, Any]] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)


def collect(places: Sequence[Place]) -> list[Run]:
    """Runs of folders or files of rows, in the order given; ``NAME=PATH`` gives a run a name.

    Raises:
        ValueError: no place, the same one twice, or one without rows.
    """
    if not places:
        raise ValueError("runs: expected at least one folder with rows.jsonl, got none; name one")
    runs: list[Run] = []
    seen: dict[Path, str] = {}
    for place in places:
        name, path = _named(place)
        file = path / _ROWS if path.is_dir() else path
        if (resolved := file.resolve()) in seen:
            raise ValueError(f"{path}: expected each run once, got it twice (as {seen[resolved]}); name it once")
        seen[resolved] = str(place)
        run = load(file, name)
        twin = next((i for i, other in enumerate(runs) if _belong(other, run, name)), None)
        if twin is None:
            runs.append(run)
        else:
            runs[twin] = _joined(runs[twin], run)
    return _told_apart(runs)


def load(file: Path, name: str = "") -> Run:
    """The run whose rows are in ``file``. Raises ValueError where there are none, or a line is not a row."""
    try:
        header, rows = load_header(file), load_rows(file)
    except OSError as error:
        raise ValueError(f"{file}: expected rows to read, got {error.strerror}; name another") from error
    if not rows:
        raise ValueError(f"{file}: expected rows, got a header alone; let the evaluation answer a question")
    for row in rows:
        _check(file, row)
    about = _about(file)
    segment = about.pop("segment", None)
    settings = header.get("settings", {})
    return Run(
        name=name or _short(str(about.pop("model", "") or _folder(file))),
        fingerprint=str(header.get("model", "")),
        rows=tuple(rows),
        costs=tuple(load_costs(cost_path(file))),
        segment=segment if isinstance(segment, int) and segment > 0 else None,
        chance=_chance(about.pop("chance", None), rows),
        settings=(settings,),
        cells={(row.task, row.length): settings for row in rows},
        about={key: value for key, value in about.items() if key not in _CELLS},
    )


def label(row: Row, answer: Any) -> str:
    """An expected or given answer in words: places of the memory tasks have numbers in their rows.

    Of what was measured (a dictionary) it is the text, and how likely the right answer was where that is known.
    """
    if isinstance(answer, dict):
        said = str(answer["text"]) if "text" in answer else json.dumps(answer, ensure_ascii=False, default=str)
        nats = answer.get("nats")
        known = isinstance(nats, int | float) and not isinstance(nats, bool)
        return f"{said} (right answer: {nats:.4g} nats)" if known else said
    if isinstance(answer, tuple | list):
        return " · ".join(str(part) for part in answer)
    if row.scorer == "" and row.task in LABELLED and isinstance(answer, int):
        return PLACES[answer] if 0 <= answer < len(PLACES) else "no place"
    return f"{answer:.4g}" if isinstance(answer, float) else str(answer)


def _named(place: Place) -> tuple[str, Path]:
    """A path, or NAME=PATH; a path that is there is a path."""
    text = os.fspath(place)
    name, equals, rest = text.partition("=")
    if equals and name and rest and not Path(text).exists():
        return name, Path(rest)
    return "", Path(text)


def _folder(file: Path) -> str:
    if file.name == _ROWS:
        return file.resolve().parent.name
    return file.name.removesuffix(".jsonl").removesuffix(".rows")


def _short(name: str) -> str:
    """The last part of a path, for a model named by its folder; a hub name keeps its owner."""
    return Path(name).name if name.startswith(("/", ".", "~")) and Path(name).name else name


def _about(file: Path) -> dict[str, Any]:
    """What lies beside the rows. Raises ValueError where it is not an object of JSON."""
    for name in _ABOUT if file.name == _ROWS else ():
        beside = file.with_name(name)
        if beside.is_file():
            try:
                found = json.loads(beside.read_bytes())
            except ValueError:
                found = None
            if not isinstance(found, dict):
                raise ValueError(f"{beside}: expected an object of JSON, got something else; remove it")
            return found
    return {}


def _check(file: Path, row: Row) -> None:
    if row.control not in (MEMORY, *CONTROLS):
        known = ", ".join((MEMORY, *CONTROLS))
        raise ValueError(f"{file}: expected a control out of {known}, got {row.control!r}; remove that row")
    numbers = isinstance(row.length, int) and (row.score is None or isinstance(row.score, int | float))
    if numbers and not math.isfinite(row.value):  # of a model whose logits overflow
        raise ValueError(f"{file}: expected scores that are numbers, got {row.value} for {row.key}; remove that row")
    if not numbers or row.length < 0 or any(not 0 <= start < stop <= row.length for start, stop in row.evidence):
        raise ValueError(f"{file}: expected a score and evidence inside the document, got {row}; remove that row")


def _chance(stated: Any, rows: Iterable[Row]) -> dict[str, float]:
    """By task of the rows: the papers' tasks stand in one task, and in old rows are known by their labels."""
    known = dict(stated) if isinstance(stated, dict) else {}
    paper = known.get("paper", 1 / len(PLACES))
    found = {}
    for row in rows:
        guess = known.get(row.task, paper if row.task in LABELLED and (row.scorer == "" or "paper" in known) else None)
        if isinstance(guess, int | float) and 0 < guess < 1:
            found[row.task] = float(guess)
    return found


def _belong(one: Run, other: Run, name: str) -> bool:
    """Whether two runs are one model's, and no cell would mix what was asked under different settings."""
    if one.fingerprint != other.fingerprint or (name and name != one.name):
        return False
    return all(one.cells.get(cell, settings) == settings for cell, settings in other.cells.items())


def _joined(one: Run, other: Run) -> Run:
    # Not by whose memory was swapped in: with more documents another one lends it, and a question would count twice.
    rows = {row.key[:3]: row for row in (*other.rows, *one.rows)}
    order = dict.fromkeys(row.key[:3] for row in (*one.rows, *other.rows))
    return replace(
        one,
        rows=tuple(rows[key] for key in order),
        costs=(*one.costs, *other.costs),
        segment=one.segment or other.segment,
        chance={**other.chance, **one.chance},
        settings=(*one.settings, *(s for s in other.settings if s not in one.settings)),
        cells={**other.cells, **one.cells},
        about={**other.about, **one.about},
    )


def _told_apart(runs: Sequence[Run]) -> list[Run]:
    """Runs with names that differ: by fingerprint, then by number."""
    named: list[Run] = []
    for run in runs:
        name = run.name
        if [other.name for other in runs].count(name) > 1:
            twins = [other for other in runs if other.name == name]
            name = f"{name} {run.fingerprint[:6]}" if len({t.fingerprint for t in twins}) == len(twins) else name
        taken = {other.name for other in named}
        number = 2
        base = name
        while name in taken:
            name, number = f"{base} #{number}", number + 1
        named.append(replace(run, name=name))
    return named
