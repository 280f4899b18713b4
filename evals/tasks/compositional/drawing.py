"""Problems of given sizes by number, each once, with their examples, prompts and training data. Knows no algorithm.

A :class:`Kind` says how a size's problems are made of small integers, and how one is put into words; from there on
multiplication and dynamic programming are the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from evals.tasks.base import Question, Source
from evals.tasks.compositional.scratchpads import Worked, about
from evals.tasks.compositional.splits import belongs
from evals.tasks.documents import Document
from evals.tasks.problems import Problem, document

_SHUFFLED = 1 << 16  # pools up to this size are shuffled, others drawn from until something new comes
_BLOCK = 256
_SLACK = 1.25  # a model may need some more words than the paper to say the same


@dataclass(frozen=True)
class Kind:
    """What a task's problems are.

    Attributes:
        name: of the task, and of its scorer; with a scratchpad its option is "scratchpad".
        shape: of a size, how many values each of the integers has that make a problem.
        make: the problem of a size and its integers, each from 0 on.
        question: a problem in a prompt, up to where the answer (or, if True, the scratchpad) begins.
        parts: what of it stands in a document.
        ask: as ``question``, where the problem stands in the document.
        instruction: what stands before examples and question.
    """

    name: str
    shape: Callable[[str], tuple[int, ...]]
    make: Callable[[str, Sequence[int]], Worked]
    question: Callable[[Worked, bool], str]
    parts: Callable[[Worked], tuple[str, ...]]
    ask: Callable[[Worked, bool], str]
    instruction: Callable[[bool], str]


@dataclass(frozen=True)
class Asked:
    """How problems are asked: the settings of a task, checked by it."""

    sizes: tuple[str, ...]
    shots: int
    scratchpad: bool
    split: str


class Drawn(ABC):
    """What tasks of such problems share; a subclass is a frozen dataclass of its settings."""

    @property
    def chance(self) -> None:
        """A product, or a list of marks, is not guessed."""
        return None

    def settings(self) -> Mapping[str, Any]:
        """The fields."""
        return asdict(self)  # type: ignore[call-overload,no-any-return]  # a subclass is a dataclass

    def documents(self, source: Source, length: int, count: int, first: int = 0) -> Iterator[Document]:
        """``count`` documents from number ``first`` on; see :func:`documents`."""
        return documents(self.kind(), self.asked(), source, length, count, first)

    def training(self, count: int, seed: int = 0, bare: bool = False) -> Iterator[tuple[str, str]]:
        """Pairs of prompt and completion of the training split; see :func:`training`."""
        return training(self.kind(), self.asked(), count, seed, bare)

    @abstractmethod
    def kind(self) -> Kind:
        """What its problems are."""

    @abstractmethod
    def asked(self) -> Asked:
        """How they are asked."""


def check(shots: int, split: str) -> None:
    """Raises ValueError on settings that no task has."""
    if shots < 0:
        raise ValueError(f"shots: expected at least 0 examples, got {shots}; 0 shows none")
    belongs("", split)


def documents(kind: Kind, asked: Asked, source: Source, length: int, count: int, first: int = 0) -> Iterator[Document]:
    """``count`` documents of exactly ``length`` tokens (0: the problem stands in the prompt) from number ``first`` on.

    Document i has a problem of size i modulo the number of sizes; no problem comes twice, and number i is the same one
    at every length.

    Raises:
        ValueError: a size with too few problems of the split, or what ``evals.tasks.problems`` refuses.
    """
    if length < 0:
        raise ValueError(f"length: expected at least 0 tokens, got {length}; 0 puts the problem into the prompt")
    streams = {size: distinct(kind, size, asked.split, source.seed) for size in asked.sizes}
    for index in range(first + count):
        size = asked.sizes[index % len(asked.sizes)]
        problem = next(streams[size], None)
        if problem is None:
            raise ValueError(
                f"{kind.name}: expected a new problem of size {size} for document {index}, got no more in split "
                f"{asked.split!r}; ask fewer documents or other sizes"
            )
        if index >= first:
            yield document(source, length, index, kind.name, _posed(kind, asked, source, index, problem))


def _posed(kind: Kind, asked: Asked, source: Source, index: int, problem: Worked) -> Problem:
    """A problem with its prompts."""
    pad = asked.scratchpad
    before = ""
    if not source.bare:
        shown = _examples(kind, asked, source.seed, index, problem)
        solved = (kind.question(each, pad) + _completion(each, pad) for each in shown)
        before = "\n\n".join((kind.instruction(pad), *solved)) + "\n\n"
    question = Question(
        kind.name,
        problem.text,
        np.zeros(0, dtype=np.int64),
        (problem.answer,),
        scorer=f"{kind.name}:scratchpad" if pad else kind.name,
        max_tokens=int(_SLACK * len(source.encode(_completion(problem, pad)))) + 32,
        stop=("###", "\nQuestion:", "\nLet's solve") if pad else ("\n",),
        about=about(problem),
    )
    prompt = before + kind.question(problem, pad)
    ask = f"\n\n{before}{kind.ask(problem, pad)}"
    return Problem(kind.parts(problem), prompt, ask, (question,))


def _completion(problem: Worked, scratchpad: bool) -> str:
    return f"\n{problem.scratchpad()}" if scratchpad else f" {problem.answer}"


def _examples(kind: Kind, asked: Asked, seed: int, index: int, problem: Worked) -> list[Worked]:
    """Solved problems of the same size that may be trained on, none of which gives the question's answer away."""
    shown: dict[str, Worked] = {}
    for other in distinct(kind, problem.size, "train", seed, f"shots {index}") if asked.shots else ():
        if other.key != problem.key:
            shown.setdefault(other.key, other)
        if len(shown) == asked.shots:
            return list(shown.values())
    if len(shown) < asked.shots:
        raise ValueError(
            f"shots: expected {asked.shots} examples of size {problem.size}, got {len(shown)} that there are; ask fewer"
        )
    return []


def distinct(kind: Kind, size: str, split: str, seed: int, purpose: str = "") -> Iterator[Worked]:
    """All problems of a size and split in an order that follows from the seed, each once."""
    rng = np.random.default_rng((seed, *f"{kind.name} {size} {purpose}".encode()))
    for values in _tuples(rng, kind.shape(size)):
        problem = kind.make(size, values)
        if belongs(problem.key, split):
            yield problem


def _tuples(rng: np.random.Generator, shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """All tuples below ``shape``, each once, in random order."""
    total = int(np.prod([float(most) for most in shape]))
    if total <= _SHUFFLED:
        for number in rng.permutation(total):
            yield tuple(int(place) for place in np.unravel_index(number, shape))
        return
    seen: set[tuple[int, ...]] = set()
    while len(seen) < total:
        for drawn in rng.integers(0, shape, size=(_BLOCK, len(shape))).tolist():
            if (values := tuple(drawn)) not in seen:
                seen.add(values)
                yield values


def training(kind: Kind, asked: Asked, count: int, seed: int = 0, bare: bool = False) -> Iterator[tuple[str, str]]:
    """``count`` pairs of prompt and completion to fine-tune on, sizes in turn, never a problem of the test split.

    A prompt is what the task asks behind no background, a completion the answer or the scratchpad that ends in it, with
    the white space before it; what ends a text (" ###" in the paper's data) is for the caller to add. Out of
    distribution is a task of greater sizes, in distribution the same sizes with ``split="test"``: no seed brings these
    in.

    Raises ValueError where there are too few problems.
    """
    asked = replace(asked, split="train")
    plain = Source(lambda text: np.zeros(len(text), dtype=np.int64), str, np.zeros(1, dtype=np.int64), "-", seed, bare)
    streams = {size: distinct(kind, size, "train", seed) for size in asked.sizes}
    for index in range(count):
        size = asked.sizes[index % len(asked.sizes)]
        for problem in islice(streams[size], 1):
            yield _posed(kind, asked, plain, index, problem).prompt, _completion(problem, asked.scratchpad)
            break
        else:
            raise ValueError(
                f"{kind.name}: expected {count} problems to train on, got no more of size {size} behind {index}; ask "
                "fewer or add sizes"
            )
