"""What it takes to build the tasks' documents: seconds and memory, all tokens made, none kept.

    python scripts/bench/documents.py --tasks babilong --length 1000000
    python scripts/bench/documents.py --tasks needle ruler-offline --text book.txt.gz --tokenizer gpt2
    python scripts/bench/documents.py --quick

Tasks are named as in the registry (``evals.tasks.registry``), settings behind a colon. For each, documents of a tenth
of the length and of the full length are built and read to the end in blocks of 65,536 tokens. ``most`` is the seconds
of the slowest document, ``first`` those of the first; ``memory`` is the peak above what was resident when the document
was begun (background in memory, tokenizer loaded), and ``growth`` how much more of it the full length takes than a
tenth. The background is made-up sentences with a tokenizer of words, or the texts given. Only Linux gives the peak of
each document; elsewhere memory is 0 once a peak was reached.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import peak

from evals.model import Document
from evals.tasks.base import Source, Task
from evals.tasks.registry import create, names

BLOCK = 1 << 16  # tokens read at a time
MARGIN = 1.05  # background for each token of a document
WORDS = 20_000  # different words of the made-up text


@dataclass
class Words:
    """A token a word; new words get new ids."""

    ids: dict[str, int] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)

    def encode(self, text: str) -> np.ndarray:
        """Ids of the words."""
        found = []
        for word in text.split():
            if word not in self.ids:
                self.ids[word] = len(self.texts)
                self.texts.append(word)
            found.append(self.ids[word])
        return np.array(found, dtype=np.int64)

    def decode(self, ids: Any) -> str:
        """The words of ids."""
        return " ".join(self.texts[int(n)] for n in ids)


def made_up(length: int) -> Source:
    """Sentences of about twelve words, drawn from a few thousand."""
    words = Words()
    kinds = words.encode(" ".join(f"w{n}." if n % 12 == 0 else f"w{n}" for n in range(WORDS)))
    background = kinds[np.random.default_rng(0).integers(len(kinds), size=length)]
    return Source(words.encode, words.decode, background, digest="made up")


def given(texts: Sequence[Path], tokenizer: str) -> Source:
    """The texts one behind the other, in tokens of a Hugging Face tokenizer."""
    from transformers import AutoTokenizer

    kind = AutoTokenizer.from_pretrained(tokenizer)
    packed = [path.read_bytes() for path in texts]
    plain = [gzip.decompress(data) if path.suffix == ".gz" else data for path, data in zip(texts, packed, strict=True)]

    def encode(text: str) -> np.ndarray:
        return np.asarray(kind(text, add_special_tokens=False, verbose=False)["input_ids"], dtype=np.int64)

    return Source(
        encode, kind.decode, encode(b"\n".join(plain).decode("utf-8")), digest=" ".join(path.name for path in texts)
    )


def build(task: Task, source: Source, length: int, number: int) -> dict[str, float]:
    """Make one document and all its tokens. Returns seconds and megabytes (10^6 bytes)."""
    peak.reset_peak()
    before = peak.peak_mb()
    began = time.perf_counter()
    (document,) = task.documents(source, length, 1, number)
    tokens = read(document)
    seconds = time.perf_counter() - began
    if tokens != length:
        raise SystemExit(f"{task.name}: expected {length:,} tokens, got {tokens:,}")
    return {"seconds": seconds, "memory": max(peak.peak_mb() - before, 0.0)}


def read(document: Document) -> int:
    """All tokens, none kept."""
    starts = range(0, document.length, BLOCK)
    return sum(len(document.tokens(start, min(start + BLOCK, document.length))) for start in starts)


def measure(spec: str, source: Source, length: int, documents: int) -> dict[str, Any]:
    """One row: a task at a tenth of the length and at the full one."""
    task = create(spec)
    build(task, source, length // 10, 0)  # so that imports and caches count for neither
    short = [build(task, source, length // 10, number) for number in range(1, documents + 1)]
    full = [build(task, source, length, number) for number in range(documents)]
    memory = [max(row["memory"] for row in rows) for rows in (short, full)]
    return {
        "task": spec,
        "tokens": length,
        "first": full[0]["seconds"],
        "seconds": max(row["seconds"] for row in full),
        "memory": memory[1],
        "growth": memory[1] - memory[0],
    }


def show(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as aligned text."""
    width = max(len("task"), *(len(row["task"]) for row in rows))
    head = f"{'task':{width}}  {'tokens':>10}  {'first s':>8}  {'most s':>8}  {'memory MB':>9}  {'growth MB':>9}"
    lines = [
        f"{row['task']:{width}}  {row['tokens']:>10,}  {row['first']:>8.3f}  {row['seconds']:>8.3f}  "
        f"{row['memory']:>9.1f}  {row['growth']:>9.1f}"
        for row in rows
    ]
    return "\n".join([head, *lines])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=["babilong"], help="tasks or groups of the registry")
    parser.add_argument("--length", type=int, default=1_000_000, help="tokens of a document")
    parser.add_argument("--documents", type=int, default=5, help="documents of each length")
    parser.add_argument("--text", nargs="+", type=Path, help="background instead of made-up text, plain or .gz")
    parser.add_argument("--tokenizer", default="gpt2", help="Hugging Face name or folder, for --text")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quick", action="store_true", help="10,000 tokens, one document: for tests")
    args = parser.parse_args(arguments)
    length, documents = (10_000, 1) if args.quick else (args.length, args.documents)
    source = given(args.text, args.tokenizer) if args.text else made_up(int(length * MARGIN))
    rows = [measure(spec, source, length, documents) for group in args.tasks for spec in names(group)]
    print(json.dumps(rows) if args.json else show(rows))


if __name__ == "__main__":
    main()
