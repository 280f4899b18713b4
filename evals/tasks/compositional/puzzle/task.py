"""The logic grid puzzle as a task: who lives where, and with what, from clues that leave one answer.

Dziri et al., "Faith and Fate" (arXiv 2305.18654), sec. 2.2 and appendix. Behind N tokens of text the clues are spread
over the text, one by one, and houses and attributes are named in the question: all of them must be remembered, and
then combined.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import count as numbers
from typing import Any

from evals.tasks.base import Question, Source
from evals.tasks.compositional.puzzle.generate import make, parse_sizes
from evals.tasks.compositional.puzzle.riddle import Riddle, Solution, grid
from evals.tasks.compositional.puzzle.steps import build, scratchpad
from evals.tasks.compositional.splits import belongs
from evals.tasks.documents import Document
from evals.tasks.problems import Problem, documents

VERSION = 1  # of generator and prompts: part of every result's key
REASON = "Let's think step by step. Please first briefly talk about your reasoning and show your final solution by "
SHOW = "Please show your final solution by "
FILL = "filling the blanks in the below table."
SPREAD = 'Its {n} clues are spread over the text above; each begins with its number, as in "Clue 1:".'
NEXT = "This is a logic puzzle"  # what a model goes on with that makes up another one
_OTHER = 7_919  # between the seed of the puzzles asked and that of the examples


@dataclass(frozen=True)
class Puzzle:
    """Logic grid puzzles of some sizes, in turn.

    Attributes:
        sizes: houses x attributes, 2 to 5 each, as "2x2,3x4" or "2x2+3x4"; documents take them in turn.
        shots: worked examples of the same size before the question, of the training split.
        scratchpad: ask for the reasoning, show it in examples, and label its nodes.
        split: "all", or "train" or "test": whether a puzzle is held out follows from its hidden grid.
    """

    sizes: str = "2x2,3x3,4x4,5x5"
    shots: int = 0
    scratchpad: bool = False
    split: str = "all"
    name: str = "puzzle"

    def __post_init__(self) -> None:
        parse_sizes(self.sizes)
        belongs("", self.split)
        if self.shots < 0:
            raise ValueError(f"shots: expected at least 0 examples, got {self.shots}; 0 asks without any")

    @property
    def chance(self) -> float:
        """Of filling the table at random, each value once: the mean of (houses!) ** -attributes over sizes."""
        sizes = parse_sizes(self.sizes)
        return sum(float(math.factorial(houses)) ** -attributes for houses, attributes in sizes) / len(sizes)

    def settings(self) -> Mapping[str, Any]:
        """All of them."""
        return {**asdict(self), "version": VERSION}

    def documents(self, source: Source, length: int, count: int, first: int = 0) -> Iterator[Document]:
        """``count`` documents from number ``first`` on, each with a puzzle; the same puzzles at every length.

        Raises ValueError where the background is shorter, or a small size has not as many puzzles.
        """
        return documents(source, length, count, first, self.name, lambda index: self.problem(source, index))

    def training(self, count: int, seed: int = 0, bare: bool = False) -> Iterator[tuple[str, str]]:
        """Pairs of prompt and answer of the training split; see :func:`training`."""
        return training(self.sizes, count, seed, self.scratchpad, bare)

    def problem(self, source: Source, index: int) -> Problem:
        """The puzzle of a document."""
        sizes = parse_sizes(self.sizes)
        size = sizes[index % len(sizes)]
        riddle, solution = make(*size, source.seed, index // len(sizes), self.split)
        clues = tuple(f"Clue {n}: {clue.text}" for n, clue in enumerate(riddle.clues, start=1))
        shown = "" if source.bare else self._examples(size, source.seed, riddle, solution)
        spread = riddle.setting + "\n" + SPREAD.format(n=len(clues))
        question = Question(
            self.name, riddle.text, source.encode(""), (riddle.table(solution),),
            scorer="puzzle:scratchpad" if self.scratchpad else "puzzle", stop=(NEXT,),
            max_tokens=_room(len(source.encode(answer(riddle, solution, self.scratchpad)))), about=about(riddle),
        )  # fmt: skip
        return Problem(
            clues,
            shown + prompt(riddle, self.scratchpad, source.bare),
            "\n\n" + shown + prompt(riddle, self.scratchpad, source.bare, spread),
            (question,),
        )

    def _examples(self, size: tuple[int, int], seed: int, riddle: Riddle, solution: Solution) -> str:
        """``shots`` puzzles with their answers, none with the grid that is asked for."""
        shown: list[str] = []
        for number in numbers():
            if len(shown) == self.shots:
                break
            example, solved = make(*size, seed + _OTHER, number, "train")
            if grid(example, solved) != grid(riddle, solution):
                shown.append(prompt(example, self.scratchpad) + answer(example, solved, self.scratchpad) + "\n\n")
        return "".join(shown)


def prompt(riddle: Riddle, reason: bool, bare: bool = False, text: str = "") -> str:
    """The paper's prompt, up to where the answer begins; ``bare`` leaves the instruction and the empty table out.

    Args:
        riddle: the puzzle.
        reason: ask for the reasoning first.
        bare: for models that were trained to answer.
        text: in place of the puzzle's text.
    """
    begin = "Reasoning:\n" if reason else "Final solution:\n"
    told = "" if bare else f"{REASON if reason else SHOW}{FILL}\n\n{riddle.blank}\n\n"
    return f"{text or riddle.text}\n\n{told}{begin}"


def answer(riddle: Riddle, solution: Solution, reason: bool) -> str:
    """What is to be said behind the prompt."""
    before = f"{scratchpad(riddle)}\nFinal solution:\n" if reason else ""
    return before + riddle.table(solution)


def about(riddle: Riddle) -> dict[str, Any]:
    """What results are broken down by: size, number of clues, and the graph's measures."""
    graph = build(riddle)
    measures = {"depth": graph.depth, "width": graph.width, "parallelism": graph.parallelism}
    return {"size": riddle.size, **measures, "nodes": len(graph.nodes), "clues": len(riddle.clues)}


def training(
    sizes: str, count: int, seed: int = 0, reason: bool = False, bare: bool = False
) -> Iterator[tuple[str, str]]:
    """Prompts and answers to fine-tune on, sizes in turn; no grid of the test split is among them.

    Raises ValueError for sizes that there are not, or where a small one has not as many puzzles.
    """
    chosen = parse_sizes(sizes)
    for index in range(count):
        riddle, solution = make(*chosen[index % len(chosen)], seed, index // len(chosen), "train")
        yield prompt(riddle, reason, bare), answer(riddle, solution, reason)


def _room(tokens: int) -> int:
    """Tokens that an answer may take: half as many again as the right one, in steps of 64 so that questions batch."""
    return -(-(tokens * 3 // 2 + 32) // 64) * 64
