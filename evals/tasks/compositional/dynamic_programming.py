"""Dynamic programming of "Faith and Fate" (arXiv 2305.18654): the highest sum of numbers that are no neighbours.

Lists of 2 to 10 integers from -5 to 5, as in the paper. Behind no background the prompt is the paper's; behind N tokens
the document says one number after the other ("Number 3 of the list is -2."), and the same is asked of them.

    dp:sizes=2-5,scratchpad=true                                  in a command
    tuple(MaximumSum("2-5").training(1000))   to fine-tune on; test with split="test", or sizes="6-10"
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from evals.tasks.compositional import drawing
from evals.tasks.compositional.maximum_sum import NonAdjacent
from evals.tasks.compositional.scratchpads import Worked

LEAST, GREATEST = -5, 5
MOST = 50  # numbers; the paper has 10

# The authors' prompts, word for word.
INSTRUCTION = (
    "Given a sequence of integers, find a subsequence with the highest sum, such that no two numbers in the "
    "subsequence are adjacent in the original sequence.\n\n"
    'To indicate the selected numbers, print an array with "1" for chosen numbers and "2" for unchosen ones. For '
    "instance, [1, 2, 2, 2, 2] implies selecting only the first number. If multiple solutions exist, select the "
    "lexicographically smallest."
)
STEPS = (
    "We will solve any task instance by using dynamic programming. We define dp[i] as the maximum sum of a subsequence "
    "that does not include adjacent elements, when considering only the elements of the input from the i-th position "
    "onwards."
)


@dataclass(frozen=True)
class MaximumSum(drawing.Drawn):
    """Lists of given lengths.

    Attributes:
        sizes: how many numbers, as "2-10", or "3+5+8" (commas do as well).
        shots: solved examples in the prompt, of the same length and the training split, never the question. A bare
            source shows none.
        scratchpad: whether to work it out in the paper's steps.
        split: "all", "train" or "test" (see ``splits``).
        name: as in the registry.
    """

    sizes: str = "2-10"
    shots: int = 0
    scratchpad: bool = False
    split: str = "all"
    name: str = "dp"

    def __post_init__(self) -> None:
        sizes_of(self.sizes)
        drawing.check(self.shots, self.split)

    def kind(self) -> drawing.Kind:
        """What its problems are."""
        return KIND

    def asked(self) -> drawing.Asked:
        """How they are asked."""
        return drawing.Asked(sizes_of(self.sizes), self.shots, self.scratchpad, self.split)


def sizes_of(text: str) -> tuple[str, ...]:
    """The lengths that "2-10" or "3+5" names, each once. Raises ValueError on others."""
    found: list[int] = []
    for part in re.split(r"[+,]", text.replace(" ", "")):
        span = re.fullmatch(r"([0-9]{1,3})(?:-([0-9]{1,3}))?", part)
        chosen = range(int(span[1]), int(span[2] or span[1]) + 1) if span else range(0)
        if not chosen or not 2 <= chosen[0] <= chosen[-1] <= MOST:
            raise ValueError(f"sizes: expected lengths such as 2-10 or 3+5, got {text!r}; 2 to {MOST} numbers")
        found += chosen
    return tuple(str(size) for size in dict.fromkeys(found))


def _make(size: str, values: Sequence[int]) -> NonAdjacent:
    return NonAdjacent(tuple(LEAST + value for value in values))


def _parts(problem: Worked) -> tuple[str, ...]:
    given = NonAdjacent.parse(problem.text).given
    return tuple(f"Number {place} of the list is {value}." for place, value in enumerate(given, start=1))


def _question(given: str, scratchpad: bool) -> str:
    return f"Let's solve input = {given}." if scratchpad else f"input = {given}\noutput ="


KIND = drawing.Kind(
    name="dp",
    shape=lambda size: (GREATEST - LEAST + 1,) * int(size),
    make=_make,
    question=lambda problem, scratchpad: _question(problem.text, scratchpad),
    parts=_parts,
    ask=lambda problem, scratchpad: _question(
        f"the {problem.size} numbers of the list in the text above, in the order of their numbers", scratchpad
    ),
    instruction=lambda scratchpad: f"{INSTRUCTION}\n\n{STEPS}" if scratchpad else INSTRUCTION,
)
