"""HumanEval as a task: one document a problem, a question a sample. Knows nothing of models.

At length 0 the prompt is the benchmark's own, verbatim. Behind N tokens the docstring's sentences and examples are
spread over the document, and the question holds imports, helpers and signature. The program that is checked is the
benchmark's prompt and the completion either way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from evals.model import Sampling
from evals.tasks.base import Question, Source
from evals.tasks.documents import Document
from evals.tasks.humaneval import scoring
from evals.tasks.humaneval.files import Item, digest, load, read
from evals.tasks.humaneval.specification import notes, without
from evals.tasks.problems import Problem, documents

WHERE = "https://github.com/openai/human-eval/raw/master/data/HumanEval.jsonl.gz"


@dataclass(frozen=True)
class HumanEval:
    """The benchmark (arXiv 2107.03374).

    Args:
        files: HumanEval.jsonl.gz or .jsonl, or the folder that holds it.
        hub: the dataset instead ("openai/openai_humaneval").
        samples: completions of each problem; pass@k needs k of them.
        temperature: 0 is greedy. The paper's best are 0.2 for pass@1 and 0.8 for pass@100 (sec. 3.3).
        top_p: of the nucleus that is drawn from (0.95 in sec. 3.2).
        max_tokens: of a completion.
        fences: for models that chat: code is taken out of the answer's Markdown fence, and no text ends it early.
        unsandboxed: consent to run a model's programs where nothing isolates them.
    """

    files: str = ""
    hub: str = ""
    samples: int = 1
    temperature: float = 0.0
    top_p: float = 0.95
    max_tokens: int = 512
    fences: bool = False
    unsandboxed: bool = False

    def __post_init__(self) -> None:
        if not self.files and not self.hub:
            raise ValueError(
                f"humaneval: expected the benchmark's file, got none; download {WHERE} and write "
                "humaneval:files=PATH, or humaneval:hub=openai/openai_humaneval"
            )
        if self.files and self.hub:
            raise ValueError("files and hub: expected one of them, got both; leave one out")
        for name, value in (("samples", self.samples), ("max_tokens", self.max_tokens)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        if self.temperature < 0:
            raise ValueError(f"temperature: expected at least 0, got {self.temperature}; 0 is greedy")
        if not self.temperature and self.samples > 1:
            raise ValueError(
                f"samples: expected 1 at temperature 0, where all are the same, got {self.samples}; "
                "write temperature=0.8 too"
            )
        Sampling(self.temperature or 1.0, self.top_p)  # refuses what it cannot draw from

    @property
    def name(self) -> str:
        """As in the registry."""
        return "humaneval"

    @property
    def chance(self) -> float | None:
        """No program is right by guessing."""
        return None

    @property
    def scorer(self) -> str:
        """With the settings that it must know, so that a log says them."""
        return scoring.name(self.fences, self.unsandboxed)

    def settings(self) -> Mapping[str, Any]:
        """All but the source; problems by what they say."""
        drawn = {"temperature": float(self.temperature), "top_p": float(self.top_p)} if self.temperature else {}
        asked = {"problems": digest(self.items()), "samples": self.samples, "max_tokens": self.max_tokens}
        return {**asked, **drawn, "scorer": self.scorer}

    def items(self) -> tuple[Item, ...]:
        """The problems, in the file's order. Raises ValueError where there are none to be had."""
        return read(self.files) if self.files else load(self.hub)

    def documents(self, source: Source, length: int, count: int, first: int = 0) -> Iterator[Document]:
        """``count`` documents of exactly ``length`` tokens from number ``first`` on.

        Raises ValueError where there are fewer problems, the background is shorter or the length too small for a
        specification, or nothing isolates programs and no consent was given.
        """
        items = self.items()
        if first + count > len(items):
            raise ValueError(
                f"humaneval: expected problems for {first + count:,} documents, got {len(items):,}; ask for fewer"
            )
        scoring.box(self.unsandboxed)  # refuses before anything is read
        make = partial(self._problem, source.seed, items, length > 0)
        return documents(source, length, count, first, self.name, make)

    def _problem(self, seed: int, items: tuple[Item, ...], spread: bool, index: int) -> Problem:
        item = items[index]
        questions = tuple(self._question(seed, item, number) for number in range(self.samples))
        if not spread:
            return Problem((), item.prompt, "", questions)
        parts = notes(item.prompt, item.entry_point)
        return Problem(parts, item.prompt, "\n\n" + without(item.prompt, item.entry_point), questions, joint="\n")

    def _question(self, seed: int, item: Item, number: int) -> Question:
        drawn = None
        if self.temperature:
            drawn = Sampling(self.temperature, self.top_p, sample_seed(seed, item.task_id, number))
        return Question(
            self.name,
            item.prompt,
            np.zeros(0, dtype=np.int64),  # set by the document
            (item.test, item.entry_point),
            scorer=self.scorer,
            max_tokens=self.max_tokens,
            stop=() if self.fences else scoring.STOP,
            sampling=drawn,
            about={"problem": item.task_id, "sample": number},
        )


def sample_seed(seed: int, task_id: str, number: int) -> int:
    """Of one completion, in [0, 2^63): it depends on the run's seed, the problem and the sample's number alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}\n{task_id}\n{number}".encode()).digest()[:8], "big") >> 1
