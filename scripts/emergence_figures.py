"""Pictures and tables of a family of models: one set of answers under several metrics.

    python scripts/emergence_figures.py runs/family/* -o docs/results/emergence.png

RUNS are folders of a run each (``rows.jsonl``, and ``run.json`` with ``parameters``). Written are the picture; beside
it, named alike, one of exact match over the size of the target (``emergence-sizes.png``, of ``--sizes-of``) and the
tables as Markdown (``emergence.md``), which are printed too. Seconds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from evals.emergence import draw_family, draw_sizes, load_family, size_table, table
from evals.emergence.family import lengths_of, tasks_of


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS")
    parser.add_argument(
        "-o", "--out", type=Path, default=Path("emergence.png"), help="the picture (default: %(default)s)"
    )
    parser.add_argument("--tasks", nargs="+", help="which; default: all there are, six at most")
    parser.add_argument(
        "--sizes-of", metavar="TASK", help="the task drawn over size (default: the first that has sizes)"
    )
    parser.add_argument("--length", type=int, help="tokens of background (default: the least there is)")
    parser.add_argument("--title", default="The same answers under several metrics")
    args = parser.parse_args(argv)
    try:
        family = load_family(args.runs)
        tasks = args.tasks or tasks_of(family)
        lengths = {
            task: min(lengths_of(family, task), default=0) if args.length is None else args.length for task in tasks
        }
        draw_family(family, args.out, tasks=tasks, length=args.length, title=args.title)
        text = "\n".join(table(family, task, lengths[task]) for task in tasks)
        sized = {}
        for task in tasks:
            try:
                sized[task] = size_table(family, task, lengths[task])
            except ValueError:  # its rows have no sizes
                continue
        chosen = args.sizes_of or next(iter(sized), None)
        if chosen is not None:
            beside = args.out.with_name(f"{args.out.stem}-sizes.png")
            draw_sizes(family, beside, task=chosen, length=lengths.get(chosen, args.length))
            text += "".join(f"\n{made}" for made in sized.values())
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    args.out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
