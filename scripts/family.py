"""Run few-shot tasks on every model of a family, and print the same answers under each metric, model by model.

    OMP_NUM_THREADS=1 python scripts/family.py --models runs/family --output runs/family-runs --n 200

Models are the folders in --models that ``scripts/train_family.py`` made (or any that ``rmt eval run --model`` takes),
from the least to the largest. Each has a run of its own in OUTPUT/<model>: rows and a description that says how many
``parameters`` beside embeddings it has. A run that was killed goes on with the same command, and what is done costs
nothing; with a greater --n it is added to. Time: one to two minutes a model on one CPU core at n = 200.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import evals
from evals.breakdowns import Estimate
from evals.rows import Row
from evals.tasks.base import Source
from evals.tasks.emergence.breakdown import METRICS, line
from rmt.cli import scored


def members(folder: Path) -> list[tuple[str, int]]:
    """Names of the models in a folder with their parameters beside embeddings, the least first.

    Raises:
        ValueError: none.
    """
    found = []
    for path in folder.iterdir():
        if (path / "config.json").is_file():
            facts = path / "training.json"
            known = json.loads(facts.read_text(encoding="utf-8")) if facts.is_file() else {}
            found.append((path.name, int(known.get("parameters") or counted(path))))
    if not found:
        raise ValueError(f"{folder}: expected folders of models, got none; train some with scripts/train_family.py")
    return sorted(found, key=lambda member: member[1])


def counted(path: Path) -> int:
    """Parameters of a model that does not say so itself, beside those of its word embeddings."""
    from rmt.cli.models import load

    model: Any = load(str(path))[0]
    return int(model.num_parameters(exclude_embeddings=True))


def run(name: str, parameters: int, args: argparse.Namespace) -> list[Row]:
    """All rows of one model."""
    spec = str(args.models / name)
    model = scored.model(spec, "float32")
    background: Any = np.zeros(0, dtype=np.int64)
    if max(args.lengths):
        from rmt.data import iter_text

        background = model.encode("".join(iter_text(args.text)))
    source = Source(model.encode, model.decode, background, seed=args.seed, bare=True)
    folder = args.output / name
    about = {"spec": name, "parameters": parameters, "family": args.models.resolve().name}
    evals.run(model, args.tasks, source, lengths=args.lengths, n=args.n, folder=folder, controls=(), about=about)
    return evals.load_rows(folder / "rows.jsonl")


def table(task: str, length: int, found: Sequence[tuple[str, int, Sequence[Row]]]) -> str:
    """Markdown: a line a model and size, a column a metric, with intervals.

    Args:
        task, length: which rows.
        found: name, parameters and rows of each model.
    """
    heads = ["model", "parameters", "size", "n", *(head for head, _ in METRICS.values())]
    lines = [f"{task}, {length:,} tokens of background", "", " | ".join(heads), " | ".join("---" for _ in heads)]
    for name, parameters, rows in found:
        own = [row for row in rows if row.task == task and row.length == length and row.detail]
        sizes = sorted({row.detail["size"] for row in own if row.detail})
        for size in [*sizes, *(["all"] if len(sizes) > 1 else [])]:
            these = [row for row in own if size == "all" or (row.detail or {})["size"] == size]
            cells = [name, f"{parameters:,}", str(size), *map(said, line(these))]
            lines.append(" | ".join(cells))
    return "\n".join(lines)


def said(entry: Any) -> str:
    """A number with its interval, shares in percent."""
    if not isinstance(entry, Estimate):
        return str(entry)
    scale, form = (100, ".1f") if entry.percent else (1, ".3f")
    value = format(scale * entry.value, form)
    if entry.interval is None:
        return value
    return f"{value} [{scale * entry.interval.low:{form}}, {scale * entry.interval.high:{form}}]"


def main() -> None:
    """Run what is missing, then print a table for each task and length."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, required=True, help="folder of the family")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", nargs="+", help="names of models; all without")
    parser.add_argument("--tasks", nargs="+", default=["emergence"])
    parser.add_argument("--n", type=int, default=200, help="problems of each task and length")
    parser.add_argument("--lengths", type=int, nargs="+", default=[0], help="tokens of background")
    parser.add_argument("--text", default="installed:", help="background, where there is some")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    chosen = [member for member in members(args.models) if not args.only or member[0] in args.only]
    found = []
    for name, parameters in chosen:
        found.append((name, parameters, run(name, parameters, args)))
        print(f"{name}: {len(found[-1][2])} rows", flush=True)
    for length in args.lengths:
        for task in dict.fromkeys(row.task for *_, rows in found for row in rows):
            print(f"\n{table(task, length, found)}")


if __name__ == "__main__":
    main()
