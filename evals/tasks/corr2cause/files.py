"""Published Corr2Cause files: CSV or JSON lines with ``input`` and ``label`` (0 or 1), from a path or from the hub.

    input: "Premise: Suppose there is a closed system of 2 variables, A and B. All … as follows: A correlates with B.
           Hypothesis: A directly causes B."
    label: 0

Further columns (``num_variables``, ``template``) follow from the words and are not read. A folder is a copy of the
hub's ``causalnlp/corr2cause``: ``test.csv``, ``perturbation_by_paraphrasing_test.csv`` and
``perturbation_by_refactorization_test.csv``. Labels are the file's, right or wrong.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from evals.tasks.corr2cause.words import Hypothesis, Premise, read_hypothesis, read_premise

HUB = "causalnlp/corr2cause"
_CONFIG = {
    "none": "default",
    "paraphrase": "perturbation_by_paraphrasing",
    "refactor": "perturbation_by_refactorization",
}


@dataclass(frozen=True)
class Asked:
    """A line of a file: what is known, what is asked, and whether it follows."""

    premise: Premise
    hypothesis: Hypothesis
    entailed: bool


def parse(lines: Iterable[Mapping[str, Any]], name: str) -> tuple[Asked, ...]:
    """Lines of a file, each once (published files repeat some).

    Raises ValueError, with the number of the line, where one is not in the format, or a text has two labels.
    """
    found: dict[str, Asked] = {}
    for number, line in enumerate(lines, start=1):
        try:
            text, label = str(line["input"]), str(line["label"]).strip()
            known, _, asked = text.partition("Hypothesis:")
            if label not in ("0", "1") or not known.startswith("Premise:"):
                raise ValueError(f"got label {label!r} and input {text[:60]!r}")
            one = Asked(*_words(known.removeprefix("Premise:").strip(), asked), label == "1")
        except KeyError as error:
            raise ValueError(f"{name}: expected columns input and label, got no {error} in line {number}") from None
        except ValueError as error:
            raise ValueError(
                f"{name}: expected 'Premise: … Hypothesis: …' and a label of 0 or 1 in line {number}: {error}; "
                "name one of the benchmark's files"
            ) from None
        if found.setdefault(text, one).entailed != one.entailed:
            raise ValueError(f"{name}: expected one label for each text, got two for that of line {number}; correct it")
    if not found:
        raise ValueError(f"{name}: expected lines with input and label, got none; name one of the benchmark's files")
    return tuple(found.values())


def _words(known: str, asked: str) -> tuple[Premise, Hypothesis]:
    names, _ = read_premise(known)
    _, _, rest = known.partition("as follows:")
    said = [f"{part.strip().removeprefix('However, ')}." for part in rest.split(".") if part.strip()]
    correlated = [part for part in said if " correlates with " in part]
    premise = Premise(names, tuple(correlated), tuple(part for part in said if part not in correlated))
    return premise, read_hypothesis(asked, names)


def load(path: str, perturb: str = "none") -> tuple[tuple[Asked, ...], str]:
    """Lines of a file (.csv, .jsonl), or of the file of a folder that ``perturb`` names, and a digest of it.

    Raises ValueError where there is none, it is malformed, or a perturbation is asked of one file, whose words are what
    they are.
    """
    place = Path(path)
    if perturb != "none" and place.is_file():
        raise ValueError(
            f"perturb: expected none with a single file, got {perturb!r} and {path}; leave it out, or name the folder "
            "that holds the file of that perturbation"
        )
    if place.is_dir():
        prefix = "" if perturb == "none" else f"{_CONFIG[perturb]}_"
        place = place / f"{prefix}test.csv"
    if not place.is_file() or place.suffix not in (".csv", ".jsonl"):
        raise ValueError(f"files: expected a .csv or .jsonl file, or a folder with test.csv, got {place}; name one")
    return _load(str(place), place.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _load(path: str, changed: int) -> tuple[tuple[Asked, ...], str]:
    raw = Path(path).read_bytes()
    try:
        text = raw.decode("utf-8-sig")
        lines: list[Any] = (
            list(csv.DictReader(io.StringIO(text, newline="")))
            if path.endswith(".csv")
            else [json.loads(line) for line in text.splitlines() if line.strip()]
        )
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: expected CSV or JSON lines, got {type(error).__name__}: {error}") from None
    if not all(isinstance(line, dict) for line in lines):
        raise ValueError(f"{path}: expected an object with input and label a line, got something else; see its format")
    return parse(lines, path), hashlib.sha256(raw).hexdigest()[:16]


@lru_cache(maxsize=2)
def load_hub(name: str, perturb: str = "none") -> tuple[tuple[Asked, ...], str]:
    """The test split from the hub, through ``datasets``, and a digest of it. Raises ValueError where it is not."""
    from datasets import load_dataset

    try:
        rows = list(load_dataset(name, _CONFIG[perturb], split="test"))
    except Exception as error:
        raise ValueError(
            f"hub: expected a dataset such as {HUB} with a test split, got {type(error).__name__}: {error}; "
            "download its files and name them by files="
        ) from None
    digest = hashlib.sha256(repr([(row.get("input"), row.get("label")) for row in rows]).encode()).hexdigest()[:16]
    return parse(rows, name), digest
