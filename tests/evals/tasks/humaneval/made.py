"""Problems of our own in the benchmark's format, a box that trusts, and a model that knows the solutions."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evals.tasks.base import Source
from evals.tasks.humaneval.files import Item, read
from evals.tasks.humaneval.specification import notes, without

DOUBLE = Item(
    "Made/0",
    'from typing import List\n\n\ndef doubled(values: List[int]) -> List[int]:\n    """ Return twice each value. '
    "Keep their\n    order.\n    >>> doubled([1, 2])\n    [2, 4]\n    >>> doubled([])\n    []\n" + '    """\n',
    "    return [2 * value for value in values]\n",
    "\n\ndef check(candidate):\n    assert candidate([1, 2]) == [2, 4]\n    assert candidate([]) == []\n",
    "doubled",
)
DECODE = Item(
    "Made/1",
    "def encode(text: str):\n    '''\n    Shifts each letter by one.\n    '''\n    return ''.join(chr(ord(c) + 1) for "
    "c in text)\n\n\ndef decode(text: str):\n    '''\n    Undoes what encode does.\n    '''\n",
    "    return ''.join(chr(ord(c) - 1) for c in text)\n",
    "def check(candidate):\n    assert candidate(encode('abc')) == 'abc'\n    assert decode(encode('x')) == 'x'\n",
    "decode",
)
ROOT = Item(
    "Made/2",
    'def root(n):\n    import math\n    """\n    The whole root of n, e.g. 3 of 10.\n\n    Example:\n'
    "\n    root(16) = 4\n      (so it is)\n" + '    """\n',
    "    return math.isqrt(n)\n",
    "def check(candidate):\n    assert candidate(16) == 4, 'of a square'\n    assert candidate(10) == 3\n",
    "root",
)
MADE = (DOUBLE, DECODE, ROOT)


def write(path: Path, items: Sequence[Item] = MADE) -> Path:
    text = "".join(json.dumps(asdict(item)) + "\n" for item in items)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def benchmark() -> tuple[Item, ...]:
    """The benchmark's 164, where HUMANEVAL says where they are; the test is skipped where it does not."""
    if not os.environ.get("HUMANEVAL"):
        pytest.skip("HUMANEVAL=path of HumanEval.jsonl.gz is not set")
    return read(os.environ["HUMANEVAL"])


@dataclass(frozen=True)
class Verdict:
    outcome: str
    why: str = ""
    isolation: str = "none"
    seconds: float = 0.0


@dataclass
class Trusting:
    """Runs programs of these tests where it stands, and notes what it was given."""

    seen: list[tuple[str, str, str, str]] = field(default_factory=list)

    def check(self, program: str, setup: str, test: str, entry_point: str) -> Verdict:
        self.seen.append((program, setup, test, entry_point))
        candidate: dict[str, Any] = {}
        checker: dict[str, Any] = {}
        try:
            exec(program, candidate)
            exec(setup + "\n" + test, checker)
            checker[entry_point] = candidate[entry_point]
            checker["check"](candidate[entry_point])
        except BaseException as error:
            return Verdict("failed", f"{type(error).__name__}: {error}")
        return Verdict("passed")


@pytest.fixture
def trusting(monkeypatch) -> Trusting:
    box = Trusting()
    monkeypatch.setattr("evals.tasks.humaneval.scoring.box", lambda consent: box)
    return box


def letters(text: str) -> np.ndarray:
    """A token a character, so that nothing is lost."""
    return np.array([ord(letter) for letter in text], dtype=np.int64)


def spelled(ids: Any) -> str:
    return "".join(chr(int(i)) for i in ids)


def source(length: int = 5000, seed: int = 0) -> Source:
    return Source(letters, spelled, letters("." * length), digest="dots", seed=seed)


@dataclass
class Programmer:
    """Completes with the right body, or where a sample's seed is odd with one that fails.

    Its state is the text: behind one, it knows the function by its notes, and gives up where one is missing.
    """

    items: Sequence[Item] = MADE
    fails_after: int | None = None
    asked: list[tuple[str, Any]] = field(default_factory=list)
    name: str = "programmer"
    segment: int | None = None
    answers: tuple[str, ...] | None = None
    controls: tuple[str, ...] = ("zeroed",)

    def __post_init__(self) -> None:
        whole = [(item, item.prompt, ()) for item in self.items]
        names = [(item, (item.prompt, item.entry_point)) for item in self.items]
        self._known = [*whole, *((item, "\n\n" + without(*name), notes(*name)) for item, name in names)]

    def fingerprint(self) -> str:
        return "programmer"

    def encode(self, text: str) -> np.ndarray:
        return letters(text)

    def decode(self, ids: np.ndarray) -> str:
        return spelled(ids)

    def initial(self) -> str:
        return ""

    def read(self, documents: Sequence[Any]) -> list[str]:
        return [spelled(document.tokens(0, document.length)) for document in documents]

    def score(self, state: str, prompt: np.ndarray, continuations: Sequence[np.ndarray]) -> list[Any]:
        raise NotImplementedError

    def generate(
        self, state: str, prompts: Sequence[np.ndarray], max_tokens: int, stop: Sequence[str] = (), sampling: Any = None
    ) -> list[str]:
        said = []
        for prompt, way in zip(prompts, sampling or [None] * len(prompts), strict=True):
            if self.fails_after is not None and len(self.asked) >= self.fails_after:
                raise KeyboardInterrupt
            self.asked.append((spelled(prompt), way))
            said.append(self._body(state, spelled(prompt), way))
        return said

    def _body(self, state: str, prompt: str, way: Any) -> str:
        """Of the problem with this prompt, or with this question where all its notes are in the text."""
        told = (item for item, asked, parts in self._known if prompt == asked and all(note in state for note in parts))
        item = next(told, None)
        if item is None or (way is not None and way.seed % 2):
            return "    return None\n"
        return item.canonical_solution

    def shuffled(self, state: str, seed: int) -> str:
        raise NotImplementedError
