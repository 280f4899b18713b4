"""A family of models and what each answered: run folders read into members, smallest first.

Knows rows and their ``detail``; knows no model, no metric's meaning beyond its name, and no picture.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.memory_eval import MEMORY
from evals.rows import Row, load_header, load_rows


@dataclass(frozen=True)
class Member:
    """One model of a family.

    Attributes:
        name: of the model.
        parameters: how many weights it has, at least 1.
        rows: its answers, of any tasks, lengths and controls.
    """

    name: str
    parameters: int
    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        if self.parameters < 1:
            raise ValueError(f"{self.name}: expected parameters >= 1, got {self.parameters}; count the weights")


Family = Sequence[Member]


@dataclass(frozen=True)
class Metric:
    """How a number of ``Row.detail`` is read.

    Attributes:
        name: the key in ``detail``.
        label: for people, with its unit.
        rate: whether it is 0 or 1 for each answer, so that Wilson's interval is right.
        rises: whether more is better.
        continuous: whether it is a smooth function of the model's probabilities or counts single tokens, rather than
            all or nothing for a whole answer.
    """

    name: str
    label: str
    rate: bool = False
    rises: bool = True
    continuous: bool = True


# In the order of the pictures: those that call an answer right or wrong first (arXiv 2304.15004, sec. 3 and 4).
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("exact", "exact match", rate=True, continuous=False),
        Metric("grade", "multiple-choice grade", rate=True, continuous=False),
        Metric("edit", "edit similarity, 0 to 1"),
        Metric("distance", "token edit distance, tokens", rises=False),
        Metric("likelihood", "log-likelihood, nats a token"),
        Metric("per_token", "probability of a right token"),
        Metric("probability", "probability of the right answer"),
        Metric("brier", "Brier score", rises=False),
    )
}


def load_family(folders: Iterable[str | os.PathLike[str]]) -> list[Member]:
    """The members in run folders, each with ``rows.jsonl`` and a ``run.json`` that holds ``parameters``.

    Returns them with parameters rising. Two runs of one size are two members; folders of one name are told apart by
    what they lie in ("seed0/1m").

    Raises:
        ValueError: no folder, one named twice, no rows in one, no number of parameters, or a task that not all were
            asked with the same settings (shots, sizes): a curve over size would be one over settings too.
    """
    if isinstance(folders, str | os.PathLike):
        raise ValueError(f"folders: expected several run folders, got the one path {folders}; give a list")
    members, places = [], [Path(folder) for folder in folders]
    asked: dict[str, tuple[Path, Any]] = {}
    for folder, name in zip(places, _names([place.resolve() for place in places]), strict=True):
        rows = load_rows(folder / "rows.jsonl")
        tasks = load_header(folder / "rows.jsonl").get("settings", {}).get("tasks")
        for task, settings in tasks.items() if isinstance(tasks, dict) else ():
            first, known = asked.setdefault(task, (folder, settings))
            if settings != known:
                raise ValueError(
                    f"{folder}: expected {task} asked as in {first} ({known}), got {settings}; evaluate all alike"
                )
        try:
            described = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{folder}/run.json: expected a description, got {error}; run the evaluation") from None
        parameters = described.get("parameters")
        if not isinstance(parameters, int) or isinstance(parameters, bool):
            raise ValueError(
                f"{folder}/run.json: expected parameters, a whole number, got {parameters!r}; enter the count"
            )
        members.append(Member(name, parameters, tuple(rows)))
    if not members:
        raise ValueError("expected one or more run folders, got none; name those of a family")
    return sorted(members, key=lambda member: member.parameters)


def _names(folders: Sequence[Path]) -> list[str]:
    """The last parts of each path, as few as tell it from all others."""
    if twice := sorted({str(folder) for folder in folders if folders.count(folder) > 1}):
        raise ValueError(f"{twice[0]}: expected each folder once, got it twice; name it once")
    names = []
    for folder in folders:
        parts = next(
            count
            for count in range(1, len(folder.parts) + 1)
            if sum(other.parts[-count:] == folder.parts[-count:] for other in folders) == 1
        )
        names.append("/".join(folder.parts[-parts:]))
    return names


def tasks_of(family: Family) -> list[str]:
    """Tasks in the order in which they appear."""
    return list(dict.fromkeys(row.task for member in family for row in member.rows))


def lengths_of(family: Family, task: str) -> list[int]:
    """Lengths (tokens of background) at which every member that has the task at all was asked, rising."""
    each = [{row.length for row in member.rows if row.task == task} for member in family]
    held = [lengths for lengths in each if lengths]
    return sorted(set.intersection(*held)) if held else []


def answers(member: Member, task: str, length: int | None = None) -> list[Row]:
    """Rows of the score itself (no controls) of one task at one length.

    ``length``: tokens of background; None for the only one there is.

    Raises:
        ValueError: several lengths and None named.
    """
    rows = [row for row in member.rows if row.task == task and row.control == MEMORY]
    if length is None:
        found = sorted({row.length for row in rows})
        if len(found) > 1:
            raise ValueError(f"{member.name}: expected one length of {task}, got {found}; name one")
        return rows
    return [row for row in rows if row.length == length]


def value(row: Row, metric: str) -> float | None:
    """A finite number of a row's ``detail`` by name; None where there is none."""
    found = (row.detail or {}).get(metric)
    if not isinstance(found, bool | int | float) or not math.isfinite(found):
        return None
    return float(found)


def tokens_of(row: Row) -> int | None:
    """How many tokens the right answer has, at least 1; None where the row does not say.

    ``detail["tokens"]`` where there is one, else from its nats: the sum over the mean. Where that says nothing (a model
    that is certain, or a probability too small for a float) the ``size``, which counts digits or letters.
    """
    detail = row.detail or {}
    tokens, mean, total = detail.get("tokens"), value(row, "likelihood"), value(row, "probability")
    if isinstance(tokens, int) and tokens > 0:
        return tokens
    if mean and total and total < 1:
        return max(1, round(math.log(total) / mean))
    size = detail.get("size")
    return int(size) if isinstance(size, int | float) and size >= 1 else None
