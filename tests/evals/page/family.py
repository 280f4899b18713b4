"""A made-up family of models of growing size: a skill that grows smoothly, and what several metrics make of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from evals.rows import Row, RowLog
from tests.evals.page.made import digest

LONG = 5  # tokens of an answer


def member(
    folder: Path, parameters: Any, skill: float, *, lengths: tuple[int, ...] = (0, 4_096), n: int = 50, **about: Any
) -> Path:
    """A model that gets each token of an answer right with probability ``skill``, less the farther it must reach."""
    rng = np.random.default_rng(int(1e6 * skill))
    folder.mkdir(parents=True, exist_ok=True)
    name = folder.name
    described = {"model": name, "parameters": parameters, "chance": {"sums": 0.05}, **about}
    (folder / "run.json").write_text(json.dumps(described))
    with RowLog(folder / "rows.jsonl", name, {"tasks": {"sums": {}}}) as log:
        for length in lengths:
            for index in range(n):
                p = skill * (0.8 if length else 1.0)
                right = rng.random(LONG) < p
                wanted = f"def solve():\n    return {index}\n" * 4
                said = "".join("x" if ok else "_" for ok in right)
                detail = {
                    "exact": float(right.all()), "edit": float(1 - right.mean()), "per_token": p,
                    "brier": float((1 - p) ** 2), "size": LONG, "hard": index % 2, "verdict": "passed",
                }  # fmt: skip
                log.append(
                    Row("sums", length, "memory", index, 0, digest(length, index), digest(length, index), (wanted,),
                        {"text": said, "nats": -LONG * float(np.log(p)), "tokens": LONG}, float(right.all()), "exact",
                        f"What is sum {index}?", ((8, 16),) if length else (), detail)
                )  # fmt: skip
    return folder
