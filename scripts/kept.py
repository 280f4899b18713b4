"""Runs of a recipe, kept as they end, so that one that was killed goes on with those that are missing."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from typing import Any

from rmt.errors import InputError

FREE = ("out", "models", "seeds", "save", "log")  # what may differ between runs of one table


def runs(args: argparse.Namespace, train: Callable[[str, int], dict[str, Any]]) -> list[dict[str, Any]]:
    """The result of every model and seed, those of ``args.out``/recall.json taken as they are.

    Args:
        args: with ``out``, ``models`` and ``seeds``; all else, but for where to save and when to log, are settings.
        train: a model's name and a seed to its result.

    Raises:
        InputError: what is kept there was trained with other settings.
    """
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "recall.json"
    settings = {name: value for name, value in vars(args).items() if name not in FREE}
    kept = json.loads(path.read_text()) if path.is_file() else {"settings": settings, "results": []}
    if kept["settings"] != settings:
        raise InputError(f"{path}: expected results of {kept['settings']}, got {settings}; give another --out")
    results: list[dict[str, Any]] = kept["results"]
    for seed in args.seeds:
        for name in args.models:
            if any((r["model"], r["seed"]) == (name, seed) for r in results):
                continue
            results.append(train(name, seed))
            beside = path.with_suffix(".tmp")
            beside.write_text(json.dumps(kept, indent=1))
            os.replace(beside, path)
    return results
