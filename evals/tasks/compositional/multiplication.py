"""Multiplication of "Faith and Fate" (arXiv 2305.18654): products of 1 to 5 digits, asked at once or step by step.

Behind no background the prompt is the paper's: its instruction, solved examples if asked for, and "What is 35 times
90?". Behind N tokens the two numbers stand in the document, and the same is asked of them. With a scratchpad the score
is still that of the final answer, and a row says what the steps of the computation graph were.

    multiplication:sizes=2x2+3x3,shots=2,scratchpad=true           in a command
    tuple(Multiplication("1-3", scratchpad=True).training(1000))   to fine-tune on; then test split="test", or "4x4"
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from evals.tasks.compositional import drawing
from evals.tasks.compositional.long_multiplication import MOST, LongMultiplication
from evals.tasks.compositional.scratchpads import Worked

INSTRUCTION = (
    "To multiply two numbers, start by multiplying the rightmost digit of the multiplicand by each digit of the "
    "multiplier, writing down the products and carrying over any remainders. Repeat this process for each digit of the "
    "multiplicand, and then add up all the partial products to obtain the final result."
)


@dataclass(frozen=True)
class Multiplication(drawing.Drawn):
    """Products of numbers of given sizes.

    Attributes:
        sizes: digits of the two numbers, as "2x2+3x3" (commas do as well), or "1-5" for all pairs of 1 to 5.
        shots: solved examples in the prompt: of the same size, of the training split, never the question nor its
            mirror image. A bare source shows none.
        scratchpad: whether to work it out in the paper's steps.
        split: "all", "train" or "test" (see ``splits``; 34*12 goes with 12*34).
        name: as in the registry.
    """

    sizes: str = "1x1+2x2+3x3+4x4+5x5"
    shots: int = 0
    scratchpad: bool = False
    split: str = "all"
    name: str = "multiplication"

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
    """The sizes that "2x2+3x1" or "1-3" names, each once. Raises ValueError on others."""
    found: list[str] = []
    for part in re.split(r"[+,]", text.replace(" ", "")):
        if each := re.fullmatch(r"([0-9])x([0-9])", part):
            chosen = [(int(each[1]), int(each[2]))]
        elif span := re.fullmatch(r"([0-9])-([0-9])", part):
            digits = range(int(span[1]), int(span[2]) + 1)
            chosen = [(x, y) for x in digits for y in digits]
        else:
            chosen = []
        if not chosen or not all(1 <= digits <= MOST for pair in chosen for digits in pair):
            raise ValueError(
                f"sizes: expected 2x2+3x3, or 1-{MOST} for all pairs, got {text!r}; 1 to {MOST} digits each"
            )
        found += [f"{x}x{y}" for x, y in chosen]
    return tuple(dict.fromkeys(found))


def _least(digits: int) -> int:
    """The smallest number; of one digit that is 1, as in the paper's data."""
    return int(10 ** (digits - 1))


def _shape(size: str) -> tuple[int, ...]:
    return tuple(9 * _least(int(digits)) for digits in size.split("x"))


def _make(size: str, values: Sequence[int]) -> LongMultiplication:
    x, y = (_least(int(digits)) + value for digits, value in zip(size.split("x"), values, strict=True))
    return LongMultiplication(x, y)


def _question(x: str, y: str, scratchpad: bool) -> str:
    return f"Question: What is {x} times {y}?\n{'Scratchpad' if scratchpad else 'Answer'}:"


def _factors(problem: Worked) -> tuple[str, str]:
    x, _, y = problem.text.partition("*")
    return x, y


def _parts(problem: Worked) -> tuple[str, ...]:
    x, y = _factors(problem)
    return (f"The first number to multiply is {x}.", f"The second number to multiply is {y}.")


KIND = drawing.Kind(
    name="multiplication",
    shape=_shape,
    make=_make,
    question=lambda problem, scratchpad: _question(*_factors(problem), scratchpad),
    parts=_parts,
    ask=lambda problem, scratchpad: _question(
        "the first number to multiply in the text above", "the second number to multiply", scratchpad
    ),
    instruction=lambda scratchpad: INSTRUCTION,
)
