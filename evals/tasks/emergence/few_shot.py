"""From single problems to few-shot prompts: examples, a question, the right continuation and wrong ones.

A prompt is an instruction, some solved lines and the line in question::

    Add.
    12 + 34 = 46
    70 + 15 = 85
    23 + 41 =

Spread over a document, the examples and the question are its parts, and the instruction is what is asked. Knows
nothing of a certain task: one draws problems of a size, and this asks for as many different ones as are wanted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from random import Random
from typing import Any

from evals.tasks.base import Question, Source
from evals.tasks.compositional.splits import SPLITS, belongs
from evals.tasks.documents import Document
from evals.tasks.problems import Problem
from evals.tasks.problems import documents as spread

MISSES = 3000  # draws in a row that bring nothing new: by then there is no more
SLACK = 2  # tokens that an answer may go on for, so that one too long shows


@dataclass(frozen=True)
class Item:
    """A problem and its answer.

    Attributes:
        left: what stands before the answer, with its sign: "12 + 34 =".
        answer: what comes behind it and a space.
        key: its canonical text: problems with the same key are the same one (``34 + 12``), whatever the task.
        gist: what gives its answer away, where a problem with another key does (the word, of letters in another order);
            else empty.
    """

    left: str
    answer: str
    key: str
    gist: str = ""

    @property
    def sign(self) -> str:
        """What asks for the answer: an equals sign, or an arrow."""
        return self.left.split()[-1]

    @property
    def asked(self) -> str:
        """The problem without it."""
        return self.left.removesuffix(f" {self.sign}")

    @property
    def line(self) -> str:
        """The solved problem."""
        return f"{self.left} {self.answer}"


@dataclass(frozen=True, kw_only=True)
class FewShot(ABC):
    """A task of few-shot prompts: what all have; its fields are its settings.

    Attributes:
        shots: examples.
        split: "test", "train" or "all".
    """

    shots: int = 4
    split: str = "test"

    def __post_init__(self) -> None:
        if not 0 <= self.shots <= 64:
            raise ValueError(f"shots: expected 0 to 64 examples, got {self.shots}; 4 are usual")
        if self.split not in SPLITS:
            raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {self.split!r}; name one of these")
        self.check()

    @abstractmethod
    def check(self) -> None:
        """Raises ValueError on settings of its own that it does not take."""

    @property
    @abstractmethod
    def name(self) -> str:
        """As in the registry."""

    @property
    @abstractmethod
    def instruction(self) -> str:
        """What stands above the examples."""

    @property
    @abstractmethod
    def sizes(self) -> tuple[int, ...]:
        """Sizes of problems, which take turns."""

    @abstractmethod
    def draw(self, rng: Random, size: int) -> Item:
        """A problem of this size."""

    @abstractmethod
    def wrong(self, rng: Random, item: Item) -> Iterator[str]:
        """Plausible wrong answers, the most plausible first; the right one and repetitions may be among them."""

    @property
    def told(self) -> bool:
        """Whether the instruction says what to do; else only the examples do, and are evidence as the question is."""
        return True

    @property
    def chance(self) -> float | None:
        """Nothing to speak of."""
        return None

    def settings(self) -> Mapping[str, Any]:
        """The fields."""
        return {**asdict(self), "version": 1}

    def documents(self, source: Source, length: int, count: int, first: int = 0) -> Iterator[Document]:
        """``count`` documents from number ``first`` on: another problem for each, the same one at every length.

        Raises:
            ValueError: fewer problems than asked for, too few examples, or what ``evals.tasks.problems`` refuses.
        """
        wanted = first + count
        drawn = list(islice(items(self, source.seed), wanted))
        if len(drawn) < wanted:
            among = f"of sizes {', '.join(map(str, self.sizes))} (split {self.split})"
            raise ValueError(
                f"{self.name}: expected at most {len(drawn)} problems {among}, got {wanted}; ask for fewer, or greater "
                "sizes"
            )
        return spread(
            source, length, count, first, self.name, lambda index: problem(self, source, index, *drawn[index])
        )


def sizes_of(field: str, text: str, most: int) -> tuple[int, ...]:
    """Sizes of a setting such as "1+2+4". Raises ValueError for none, one twice, or one not from 1 to ``most``."""
    parts = [part.strip() for part in text.replace(",", "+").split("+")]
    sizes = tuple(int(part) for part in parts if part.isdecimal())
    if len(sizes) < len(parts) or len(set(sizes)) < len(sizes) or not all(1 <= size <= most for size in sizes):
        raise ValueError(f"{field}: expected different numbers from 1 to {most}, got {text!r}; write them as 1+2+4")
    return sizes


def items(task: FewShot, seed: int) -> Iterator[tuple[int, Item]]:
    """Different problems of the task's split with their sizes, sizes in turn; a size that has no more is left out."""
    streams = {size: _different(task, size, Random(f"{seed} {task.name} {size}")) for size in task.sizes}
    while streams:
        for size, stream in list(streams.items()):
            item = next(stream, None)
            if item is None:
                del streams[size]
            else:
                yield size, item


def _different(task: FewShot, size: int, rng: Random) -> Iterator[Item]:
    seen: set[str] = set()
    missed = 0
    while missed < MISSES:
        item = task.draw(rng, size)
        if item.key in seen or not belongs(item.key, task.split):
            missed += 1
            continue
        seen.add(item.key)
        missed = 0
        yield item


def examples(task: FewShot, rng: Random, size: int, item: Item) -> list[Item]:
    """``shots`` different problems of a size, none of the test split where ``item`` is.

    None is ``item`` itself, nor one that has its gist: a word in other letters would be told by the example.
    """
    split = "all" if task.split == "all" else "train"
    found: dict[str, Item] = {}
    for _ in range(MISSES):
        if len(found) == task.shots:
            return list(found.values())
        other = task.draw(rng, size)
        if other.key != item.key and not (item.gist and other.gist == item.gist) and belongs(other.key, split):
            found.setdefault(other.key, other)
    raise ValueError(
        f"shots: expected {task.name} to have {task.shots} examples of size {size}, got {len(found)}; ask for fewer"
    )


def prompt(instruction: str, solved: list[Item], item: Item) -> str:
    """The whole prompt; the answer follows behind a space."""
    return "\n".join([instruction, *(other.line for other in solved), item.left])


def problem(task: FewShot, source: Source, index: int, size: int, item: Item) -> Problem:
    """One problem with its examples and its question, the same for every length."""
    rng = Random(f"{source.seed} {task.name} {index}")
    solved = examples(task, rng, size, item)
    continuation = source.encode(f" {item.answer}")
    others = list(dict.fromkeys(text for text in task.wrong(rng, item) if text != item.answer))[:3]
    question = Question(
        task.name, item.left, continuation, (item.answer,), scorer="emergence", method="measure",
        choices=(item.answer, *others), continuation=continuation, max_tokens=len(continuation) + SLACK,
        about={"size": size},
    )  # fmt: skip
    parts = (*(f"Example: {other.line}." for other in solved), f"Question: {item.asked} ?")
    where = "" if source.bare else f"\nThe text above holds the question{' and examples' if solved else ''}."
    ask = f"{where}\n{task.instruction}\nAnswer of the question {item.sign}"
    aids = len(solved) if task.told else 0
    return Problem(parts, prompt(task.instruction, solved, item), ask, (question,), aids=aids)
