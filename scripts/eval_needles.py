"""How many needles a bundled or trained decoder holds, over length.

    python scripts/eval_needles.py --model llama-armt --out runs/needles

Reads texts of real prose (``installed:`` by default, which no bundled model saw in training) with 8, 16 or 32 needles
hidden anywhere, and asks for every one of them; the same questions of the memory of another text are the control.
Right answers with Wilson 95% intervals; chance is 1 of the words that are values (``evals/tasks/needles.py``). Needles
of one text are not independent of each other, so the intervals are a little too narrow. Time: about 3 minutes on two
CPU cores. Figure to expect: docs/results.md. A run that was killed goes on with what is not in OUT yet.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from evals.stats import Proportion
from evals.tasks.needles import NeedleTask
from rmt import Reader
from rmt.answers import continue_text
from rmt.cli import models
from rmt.data import TokenFile, iter_text
from rmt.memory import Memory

SEED = 77  # of texts that no training run draws


def right(reader: Reader, task: NeedleTask, memory: Memory, keys: np.ndarray, values: np.ndarray) -> int:
    """Needles whose value the model says first."""
    said = continue_text(reader.model, memory, list(task.question(keys)), max_new_tokens=1)
    return int((said[:, 0].cpu().numpy() == values).sum())


def measure(reader: Reader, task: NeedleTask, length: int, pairs: int, texts: int) -> dict[str, int]:
    """Right answers over texts of one length, and the control: the same questions of the next text's memory."""
    made = [task.text(number, length, pairs) for number in range(texts)]
    memories = [reader.read(text.ids, progress=False) for text in made]
    own, others = 0, 0
    for number, text in enumerate(made):
        own += right(reader, task, memories[number], text.keys, text.values)
        others += right(reader, task, memories[(number + 1) % texts], text.keys, text.values)
    return {"right": own, "swapped": others, "n": texts * pairs}


def found(rows: list[dict[str, Any]], key: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows that were measured under this key."""
    return [row for row in rows if all(row.get(name) == value for name, value in key.items())]


def show(rows: list[dict[str, Any]]) -> str:
    """A Markdown table."""
    lines = ["| tokens | needles | right | of another text | texts |", "|---|---|---|---|---|"]
    for r in rows:
        own, other = Proportion(r["right"], r["n"]), Proportion(r["swapped"], r["n"])
        low, high = own.interval
        shown = f"{100 * own.rate:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        lines.append(f"| {r['length']:,} | {r['pairs']} | {shown} | {100 * other.rate:.1f} | {r['texts']} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Measure what is not measured yet; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="llama-armt", help="a bundled model, or a folder")
    parser.add_argument("--text", default="installed:", help="prose, as `rmt read` takes it")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1_024, 4_096, 16_384, 65_536])
    parser.add_argument("--pairs", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--texts", type=int, default=8)
    parser.add_argument("--dtype", default="auto", help="the reader's")
    parser.add_argument("--out", type=Path, default=Path("runs/needles"))
    args = parser.parse_args(argv)
    model, tokenizer = models.load(args.model)
    reader = Reader(model, tokenizer, dtype=args.dtype)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{reader.fingerprint()}.json"
    rows = json.loads(path.read_text()) if path.is_file() else []
    asked = []
    with tempfile.TemporaryDirectory() as folder:
        prose = TokenFile.build(iter_text(args.text), tokenizer, Path(folder) / "prose", source=args.text)
        task = NeedleTask(tokenizer, prose, seed=SEED)
        # All that a row depends on, beside the model, whose file this is. Sources such as installed: change with time.
        made_of = {"text": args.text, "digest": prose.digest, "words": len(task.words), "seed": SEED}
        made_of["dtype"] = reader.settings()["dtype"]
        for length in args.lengths:
            for pairs in args.pairs:
                key = made_of | {"length": length, "pairs": pairs, "texts": args.texts}
                asked.append(key)
                if found(rows, key):
                    continue
                rows.append(key | measure(reader, task, length, pairs, args.texts))
                print(rows[-1], file=sys.stderr, flush=True)
                beside = path.with_suffix(".tmp")
                beside.write_text(json.dumps(rows, indent=1))
                os.replace(beside, path)
        prose.close()
    print(show([row for key in asked for row in found(rows, key)]))


if __name__ == "__main__":
    main()
