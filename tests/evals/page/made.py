"""Runs made up for the tests of the page: rows of models that forget with distance, without a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evals.cost import Cost, log_cost
from evals.rows import Row, RowLog

PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
HOSTILE = '</script><script>alert("x")</script><img src=x onerror=alert(1)> & "quoted" \u202e\x00 {{ 7*7 }}'


def digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def run(
    folder: Path,
    name: str = "one",
    *,
    half_life: float = 20_000,
    tasks: Sequence[str] = ("qa1", "needle"),
    lengths: Sequence[int] = (1_000, 4_000, 16_000),
    n: int = 11,
    segment: int | None = 500,
    controls: Sequence[str] = ("zeroed", "swapped"),
    tokenizer: str = "",
    answer: str | None = None,
    costs: bool = True,
    seed: int = 0,
) -> Path:
    """A run whose chance of a right answer halves every ``half_life`` tokens of distance, down to one in six.

    Tasks named "nats" give numbers, those named "part" scores between 0 and 1. Models with the same ``tokenizer``
    read the same documents. ``answer`` is said where an answer is wrong. Where nothing is read (length 0) there is
    neither evidence nor a control.
    """
    rng = np.random.default_rng((seed, int(half_life) % 2**31))
    about = {"model": name, "fingerprint": f"{name}-0123", "segment": segment, "seed": seed,
             "chance": {task: None if task in ("nats", "part") else 1 / 6 for task in tasks}}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(about))
    settings = {"tasks": {task: {} for task in tasks}, "text": "t", "seed": seed, "bare": False}
    with RowLog(folder / "rows.jsonl", f"{name}-0123", settings) as log:
        for at, (task, length) in enumerate((task, length) for task in tasks for length in lengths):
            for index in range(n):
                for row in _rows(rng, task, length, index, at * n + index, half_life, controls, tokenizer, answer, n):
                    log.append(row)
            if costs:
                speed = 60_000 / (1 + half_life / 1e6)
                log_cost(
                    folder / "cost.jsonl", Cost(length, n, n * length / speed, 0.02 * n, n, int(7e8 + 40 * length))
                )
    return folder


def _rows(
    rng: np.random.Generator,
    task: str,
    length: int,
    index: int,
    document: int,
    half_life: float,
    controls: Sequence[str],
    tokenizer: str,
    answer: str | None,
    n: int,
) -> list[Row]:
    start = round(index % 11 / 10 * (length - 8)) if n >= 11 else round(index / max(1, n - 1) * (length - 8))
    name = digest(task, length, index, tokenizer)
    expected = PLACES[(index * 7 + len(task)) % 6]
    asked = f"Where is the key of {task} number {index}?"
    made = []
    for control in ("memory", *(controls if length else ())):
        keep = 0.5 ** ((length - start) / half_life) if control == "memory" else 0.0
        floor = 0.03 if control == "swapped" else 1 / 6
        source = {"zeroed": "", "swapped": digest(name)}.get(control, name)
        common = {"asked": asked, "evidence": ((start, start + 8),) if length else ()}
        if task == "nats":
            said = round(3.2 - 0.4 * keep + 0.1 * float(rng.standard_normal()), 4)
            made.append(Row(task, length, control, document, 0, name, source, (), said, said, "value", asked))
        elif task == "part":
            said_score = float(rng.binomial(4, keep * 0.9 + 0.05)) / 4
            text = ", ".join(PLACES[: int(4 * said_score)])
            made.append(Row(task, length, control, document, 0, name, source, PLACES[:4], text, said_score,
                            "ruler_all", **common))  # fmt: skip
        else:
            right = bool(rng.random() < keep + (1 - keep) * floor)
            wrong = answer if answer is not None else PLACES[(index * 7 + len(task) + 1 + int(rng.integers(5))) % 6]
            made.append(Row(task, length, control, document, 0, name, source, (expected,),
                            expected if right else wrong, float(right), "exact", **common))  # fmt: skip
    return made
