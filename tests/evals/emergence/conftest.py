"""Families of models that do not exist: each gets a token right with a probability that is smooth in its size."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from evals import Row
from evals.emergence import Member
from evals.rows import RowLog

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000)
# exp(-(c / N)^alpha), the paper's sec. 2, from 0.14 to 0.96.
SMOOTH = tuple(math.exp(-((60_000 / size) ** 0.8)) for size in SIZES)


def answered(task: str, per_token: float, lengths: Sequence[int], seed: int, length: int = 0) -> tuple[Row, ...]:
    """Rows of a model whose every token is right with one probability, independently, drawn with ``seed``."""
    rng, rows = np.random.default_rng(seed), []
    for number, tokens in enumerate(lengths):
        right = rng.random(tokens) < per_token
        nats = math.log(per_token)
        detail = {
            "exact": float(right.all()),
            "edit": float(right.mean()),
            "distance": int((~right).sum()),
            "likelihood": nats,
            "probability": math.exp(nats * tokens),
            "per_token": per_token,
            "grade": float(rng.random() < (1 + 3 * per_token**tokens) / 4),
            "brier": (1 - per_token) ** 2,
            "size": tokens,
        }
        about = {"score": detail["exact"], "scorer": "none", "detail": detail}
        rows.append(Row(task, length, "memory", number, 0, f"{task}{length}{number}", "", ("1",), "1", **about))
    return tuple(rows)


@pytest.fixture
def make() -> Callable[..., list[Member]]:
    """A family: ``make(per_token, n=200, tokens=(8,), task="arithmetic")``, one member for each probability."""

    def family(
        per_token: Sequence[float] = SMOOTH,
        n: int = 400,
        tokens: Sequence[int] = (8,),
        tasks: Sequence[str] = ("arithmetic",),
    ) -> list[Member]:
        lengths = [tokens[number % len(tokens)] for number in range(n)]
        return [
            Member(f"m{scale}", SIZES[scale], tuple(row for t in tasks for row in answered(t, p, lengths, scale)))
            for scale, p in enumerate(per_token)
        ]

    return family


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Sequence[Member]], list[Path]]:
    """Writes members as run folders and returns these."""

    def folders(family: Sequence[Member]) -> list[Path]:
        found = []
        for member in family:
            folder = tmp_path / "family" / member.name
            with RowLog(folder / "rows.jsonl", member.name, {}) as log:
                for row in member.rows:
                    log.append(row)
            (folder / "run.json").write_text(json.dumps({"model": member.name, "parameters": member.parameters}))
            found.append(folder)
        return found

    return folders
