"""Long multiplication as "Faith and Fate" has it (arXiv 2305.18654, fig. 1 and appendix): graph, scratchpad, reading.

Every digit of y, from the right, multiplies every digit of x, from the right::

    step[j][i] = x[i] · y[j] + carry[j][i-1]      carry[j][-1] = 0
    digit[j][i] = step mod 10,  carry[j][i] = step div 10     (of the last step the digit is the step itself)
    partial[j] = digits of row j side by side     shifted[j] = partial[j] · 10^j     product = sum of shifted[j]

The graph follows from the numbers of digits alone: a carry of 0, which the scratchpad passes over in silence, is a node
as any other. (The authors' graphs leave such nodes out, so that depth and nodes change with the digits.) With n digits
of x and m of y it has 3nm + n + 2m + 1 nodes and depth 2n + 3. Wording: github.com/nouhadziri/faith-and-fate.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from evals.tasks.compositional.graph import Graph, Node
from evals.tasks.compositional.scratchpads import NUMBER, numbers, whole

MOST = 5  # digits
PLACES = ("ones", "tens", "hundreds", "thousands", "ten-thousands")
_TIMES = ("", "one", "two", "three", "four")  # places that a partial product is shifted
BEGIN = "Let's perform the multiplication step by step:"

_PLACE = r"(ten[- ]thousands|thousands|hundreds|tens|ones)"
_TURN = re.compile(
    rf"multiply\s+{NUMBER}\s+by\s+the\s+digit\s+in\s+the\s+{_PLACE}\s+place"
    rf"|partial product for this step is\s+([A-E])\s*=\s*({NUMBER})"
    r"|(final answer is)",
    re.IGNORECASE,
)
_WRITE = re.compile(rf"write\s+down\s+the\s+result\s+({NUMBER})", re.IGNORECASE)
_CARRY = re.compile(rf"carry\s+over\s+(?:the\s+)?({NUMBER})", re.IGNORECASE)
_GIVES = re.compile(r"\bgives\b(.*)", re.IGNORECASE | re.DOTALL)
_BECOMES = re.compile(rf"\b([A-E])\s*=\s*{NUMBER}\s*\([^()]*becomes\s+({NUMBER})\)", re.IGNORECASE)


@dataclass(frozen=True)
class LongMultiplication:
    """x times y, both of one to five digits. Raises ValueError on others."""

    x: int
    y: int

    def __post_init__(self) -> None:
        for name, value in (("x", self.x), ("y", self.y)):
            if not 0 <= value < 10**MOST:
                raise ValueError(f"{name}: expected a whole number of 1 to {MOST} digits, got {value}; take a smaller")

    @classmethod
    def parse(cls, text: str) -> LongMultiplication:
        """The problem of a canonical text such as "12*34". Raises ValueError on another."""
        found = re.fullmatch(r"([0-9]{1,5})\*([0-9]{1,5})", text)
        if not found:
            raise ValueError(f"problem: expected a product such as 12*34, got {text!r}; write it so")
        return cls(int(found[1]), int(found[2]))

    @property
    def text(self) -> str:
        """Such as "12*34"."""
        return f"{self.x}*{self.y}"

    @property
    def key(self) -> str:
        """The smaller number first: who has seen 34*12 has seen 12*34."""
        return "{}*{}".format(*sorted((self.x, self.y)))

    @property
    def size(self) -> str:
        """Digits of x and y, such as "2x2"."""
        return f"{len(str(self.x))}x{len(str(self.y))}"

    @property
    def answer(self) -> str:
        """The product."""
        return str(self.x * self.y)

    @cached_property
    def graph(self) -> Graph:
        """All steps; sources are the digits, from the right."""
        xs, ys = str(self.x)[::-1], str(self.y)[::-1]
        sources = [_input(f"x[{i}]", digit) for i, digit in enumerate(xs)]
        sources += [_input(f"y[{j}]", digit) for j, digit in enumerate(ys)]
        return Graph((*sources, *_steps(len(xs), len(ys))))

    def scratchpad(self, values: Mapping[str, Any] | None = None) -> str:
        """The steps in the paper's words."""
        v = self.graph.values if values is None else values
        xs, ys = _digits(self.x), _digits(self.y)
        lines, number = [BEGIN, ""], 0
        for j, dy in enumerate(ys):
            lead = "Let's" if j == 0 else "Now, let's"
            lines += [f"{lead} multiply {self.x} by the digit in the {PLACES[j]} place of {self.y}, which is {dy}.", ""]
            for i, dx in enumerate(xs):
                number += 1
                lines.append(f"{number}. {self._step(v, j, i, dx, dy)}")
            number += 1
            said = f"The partial product for this step is {_letter(j)}={v[f'partial[{j}]']}"
            lines += [f"{number}. {said} which is the concatenation of the digits we found in each step.", ""]
        return "\n".join([*lines, self._sum(v, ys)])

    def _step(self, v: Mapping[str, Any], j: int, i: int, dx: int, dy: int) -> str:
        before = v[f"carry[{j}][{i - 1}]"] if i else 0
        after = v.get(f"carry[{j}][{i}]", 0)
        add = "Add the carryover from the previous step to account for this. " if before else ""
        what = f"({dx} x {dy}) + {before}" if before else f"{dx} x {dy}"
        carry = f" and carry over the {after} to the next step" if after else ""
        return (
            f"Multiply {dy} by the digit in the {PLACES[i]} place of {self.x}, which is {dx}. {add}"
            f"This gives {what} = {v[f'step[{j}][{i}]']}. Write down the result {v[f'digit[{j}][{i}]']}{carry}."
        )

    def _sum(self, v: Mapping[str, Any], ys: list[int]) -> str:
        partial = [v[f"partial[{j}]"] for j in range(len(ys))]
        shifted = [v[f"shifted[{j}]"] for j in range(len(ys))]
        rows = [f"A={partial[0]} (from multiplication by {ys[0]})"]
        rows += [
            f"{_letter(j)}={partial[j]} (from multiplication by {ys[j]} but shifted {_TIMES[j]} "
            f"place{'s' if j > 1 else ''} to the left, so it becomes {shifted[j]})"
            for j in range(1, len(ys))
        ]
        letters = [_letter(j) for j in range(len(ys))]
        return (
            f"Now, let's sum the {len(ys)} partial product{'s' if len(ys) > 1 else ''} {_listed(letters)}, and take "
            f"into account the position of each digit: {_listed(rows)}. The final answer is "
            f"{' + '.join(f'{value} x {10**j}' for j, value in enumerate(partial))} = "
            f"{' + '.join(map(str, shifted))} = {v['product']}."
        )

    def read(self, text: str) -> dict[str, int]:
        """Values of the nodes that ``text`` states.

        Prose around the scratchpad's sentences is passed over, and so is a step for a digit there is not. A node keeps
        the first value it is given. A carry that is not mentioned where a digit is written down is 0. Shifted partial
        products are read from the sum, or else from where they are explained.
        """
        known = {node.name for node in self.graph.nodes if node.parents}
        said: dict[str, int] = {}

        def take(name: str, value: int | None) -> None:
            if name in known and value is not None:
                said.setdefault(name, value)

        turns = list(_TURN.finditer(text))
        ends = [turn.start() for turn in turns[1:]] + [len(text)]
        row = 0
        for turn, end in zip(turns, ends, strict=False):
            place, letter, partial, final = turn.groups()
            rest = text[turn.end() : end]
            if letter:
                take(f"partial[{ord(letter.upper()) - ord('A')}]", whole(partial))
            elif final:
                self._read_sum(re.split(r"\.\s|\n|###", rest)[0].rstrip(" ."), take)
            elif gives := _GIVES.search(rest):
                _read_step(gives[1], f"[{row}][{_place(place)}]", take)
            else:  # the heading of a row
                row = _place(place)
        for letter, value in _BECOMES.findall(text):
            take(f"shifted[{ord(letter.upper()) - ord('A')}]", whole(value))
        return said

    def _read_sum(self, sentence: str, take: Any) -> None:
        """``a x 1 + b x 10 = A + B = product``, or the product alone."""
        sides = sentence.split("=")
        found = numbers(sides[-1])
        if len(found) == 1:
            take("product", found[0])
        if len(sides) > 1:
            shifted = [whole(part) for part in sides[-2].split("+")]
            if len(shifted) == len(str(self.y)) and "x" not in sides[-2]:
                for j, value in enumerate(shifted):
                    take(f"shifted[{j}]", value)


def _read_step(text: str, at: str, take: Any) -> None:
    """What stands behind "This gives": ``4 x 7 = 28. Write down the result 8 and carry over the 2 ...``."""
    write = _WRITE.search(text)
    sides = (text[: write.start()] if write else re.split(r"\.\s|\n", text)[0]).split("=")
    if len(sides) > 1:
        found = numbers(sides[-1])
        take(f"step{at}", found[0] if found else None)
    if write:
        take(f"digit{at}", whole(write[1]))
        carry = _CARRY.search(text, write.end())
        take(f"carry{at}", whole(carry[1]) if carry else 0)


@cache
def _input(name: str, digit: str) -> Node:
    value = int(digit)
    return Node(name, lambda: value, (), "input")


@cache
def _steps(n: int, m: int) -> tuple[Node, ...]:
    """All nodes but the sources, of n digits times m digits."""
    nodes = []
    for j in range(m):
        for i in range(n):
            carried = (f"carry[{j}][{i - 1}]",) if i else ()
            nodes.append(
                Node(
                    f"step[{j}][{i}]", lambda x, y, carry=0: x * y + carry, (f"x[{i}]", f"y[{j}]", *carried), "multiply"
                )
            )
            if i < n - 1:
                nodes.append(Node(f"digit[{j}][{i}]", lambda step: step % 10, (f"step[{j}][{i}]",), "digit"))
                nodes.append(Node(f"carry[{j}][{i}]", lambda step: step // 10, (f"step[{j}][{i}]",), "carry"))
            else:
                nodes.append(Node(f"digit[{j}][{i}]", lambda step: step, (f"step[{j}][{i}]",), "digit"))
        # Digits from the right side by side: what was written is put down as it is, even where it has two digits.
        join = lambda *digits: int("".join(map(str, reversed(digits))))  # noqa: E731
        nodes.append(Node(f"partial[{j}]", join, tuple(f"digit[{j}][{i}]" for i in range(n)), "partial"))
        nodes.append(Node(f"shifted[{j}]", lambda part, j=j: part * 10**j, (f"partial[{j}]",), "shift"))
    nodes.append(Node("product", lambda *rows: sum(rows), tuple(f"shifted[{j}]" for j in range(m)), "sum"))
    return tuple(nodes)


def _digits(value: int) -> list[int]:
    """From the right."""
    return [int(digit) for digit in reversed(str(value))]


def _place(word: str) -> int:
    return PLACES.index(word.lower().replace(" ", "-"))


def _letter(j: int) -> str:
    return "ABCDE"[j]


def _listed(items: list[str]) -> str:
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
