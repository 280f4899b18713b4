"""The dynamic programming task of "Faith and Fate" (arXiv 2305.18654): graph, scratchpad, reading.

Of a list of integers, choose numbers no two of which are neighbours, with the highest sum (none at all makes 0). The
answer is a list of 1 (chosen) and 2 (not), of all that are best the lexicographically smallest. With dp[i] the highest
sum of what stands from i on::

    dp[N-1] = max(in[N-1], 0)    dp[N-2] = max(in[N-2], in[N-1], 0)    dp[i] = max(dp[i+1], in[i] + dp[i+2], 0)
    output[i] = 1 if may[i] and dp[i] == in[i] + dp[i+2], else 2       (no dp[i+2] for the last two)
    may[0] = True    may[i+1] = output[i] is 2                         ("can_use_next_item")

and the list of all output[i] as the last node. With N numbers the graph has 4N + 1 nodes (N + 1 of them sources) and
depth 3N - 1. Wording: github.com/nouhadziri/faith-and-fate.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from itertools import pairwise
from typing import Any

from evals.tasks.compositional.graph import Graph, Node
from evals.tasks.compositional.scratchpads import whole

CHOSEN, LEFT = 1, 2
_BETWEEN = (
    "Finally, we reconstruct the lexicographically smallest subsequence that fulfills the task objective by selecting "
    'numbers as follows. We store the result on a list named "output".'
)
_DP = re.compile(r"\bdp\[([0-9]{1,4})\]\s*=(?!=)([^\n]*)")
_OUTPUT = re.compile(r"\boutput\[([0-9]{1,4})\]\s*=(?!=)\s*(-?[0-9]{1,9})\b([^\n]*)")
_MAY = re.compile(r"\bcan_use_next_item\s*=(?!=)\s*(True|False)\b")
_LIST = re.compile(r"(?<![\w\]])\[([^\[\]\n]*)\]")
_MARK = re.compile(r"\b(?:output|answer)\b", re.IGNORECASE)


@dataclass(frozen=True)
class NonAdjacent:
    """The problem of a list of two numbers or more. Raises ValueError on a shorter one."""

    given: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.given) < 2:
            raise ValueError(f"list: expected at least 2 numbers, got {len(self.given)}; the algorithm begins with two")

    @classmethod
    def parse(cls, text: str) -> NonAdjacent:
        """The problem of a canonical text such as "[3, -2, 5]". Raises ValueError on another."""
        found = integers(text[1:-1]) if text[:1] == "[" and text[-1:] == "]" else None
        if found is None:
            raise ValueError(f"problem: expected a list such as [3, -2, 5], got {text!r}; write it so")
        return cls(found)

    @property
    def text(self) -> str:
        """Such as "[3, -2, 5]"."""
        return str(list(self.given))

    @property
    def key(self) -> str:
        """The list: no other problem gives its answer away."""
        return self.text

    @property
    def size(self) -> str:
        """How many numbers."""
        return str(len(self.given))

    @property
    def answer(self) -> str:
        """Such as "[1, 2, 1]"."""
        return str(list(self.graph.values["output"]))

    @cached_property
    def graph(self) -> Graph:
        """All steps; sources are the numbers and that the first of them may be used."""
        sources = [_input(i, value) for i, value in enumerate(self.given)]
        return Graph((*sources, *_steps(len(self.given))))

    def total(self, chosen: tuple[int, ...]) -> int | None:
        """The sum that a list of 1 and 2 chooses; None where it is not allowed."""
        fits = len(chosen) == len(self.given) and set(chosen) <= {CHOSEN, LEFT}
        if not fits or any(pair == (CHOSEN, CHOSEN) for pair in pairwise(chosen)):
            return None
        return sum(value for value, choice in zip(self.given, chosen, strict=True) if choice == CHOSEN)

    def scratchpad(self, values: Mapping[str, Any] | None = None) -> str:
        """The steps in the paper's words."""
        v = self.graph.values if values is None else values
        given, n = self.given, len(self.given)
        dp = [v[f"dp[{i}]"] for i in range(n)]
        a, b = n - 1, n - 2
        lines = [
            f"dp[{a}] = max(input[{a}], 0) = max({given[a]}, 0) = {dp[a]}",
            f"dp[{b}] = max(input[{b}], input[{a}], 0) = max({given[b]}, {given[a]}, 0) = {dp[b]}",
        ]
        lines += [
            f"dp[{i}] = max(dp[{i + 1}], input[{i}] + dp[{i + 2}], 0) = "
            f"max({dp[i + 1]}, {given[i]} + {dp[i + 2]}, 0) = {dp[i]}"
            for i in range(n - 3, -1, -1)
        ]
        lines += ["", _BETWEEN, "", "Let can_use_next_item = True."]
        lines += [self._choice(v, dp, i) for i in range(n)]
        return "\n".join([*lines, "", f"Reconstructing all together, output={list(v['output'])}."])

    def _choice(self, v: Mapping[str, Any], dp: list[int], i: int) -> str:
        n, choice = len(self.given), v[f"output[{i}]"]
        name, value = f"input[{i}]", f"{self.given[i]}"
        if i < n - 2:
            name, value = f"{name} + dp[{i + 2}]", f"{value} + {dp[i + 2]}"
        sign, link = (
            ("==", "and can_use_next_item == True") if choice == CHOSEN else ("!=", "or can_use_next_item == False")
        )
        after = f" We update can_use_next_item = {v[f'may[{i + 1}]']}." if i < n - 1 else ""
        return f"Since dp[{i}] {sign} {name} ({dp[i]} {sign} {value}) {link}, we store output[{i}] = {choice}.{after}"

    def read(self, text: str) -> dict[str, Any]:
        """Values of the nodes that ``text`` states; a node keeps the first value it is given.

        dp[i] is the number behind the last "=" of a line that sets it; an update of can_use_next_item belongs to the
        output of its line; the list of all is that of :func:`final_list`, read behind "Reconstructing" where that is
        said and else not at all.
        """
        known = {node.name for node in self.graph.nodes if node.parents}
        said: dict[str, Any] = {}
        for index, rest in _DP.findall(text):
            value = whole(rest.rsplit("=", 1)[-1].strip(" ."))
            if value is not None:
                said.setdefault(f"dp[{int(index)}]", value)
        for index, choice, rest in _OUTPUT.findall(text):
            said.setdefault(f"output[{int(index)}]", int(choice))
            if may := _MAY.search(rest):
                said.setdefault(f"may[{int(index) + 1}]", may[1] == "True")
        _, found, rest = text.partition("Reconstructing")
        output = final_list(rest) if found else None
        if output is not None:
            said["output"] = output
        return {name: value for name, value in said.items() if name in known}


def final_list(text: str) -> tuple[int, ...] | None:
    """The list that a text gives as its answer; None where there is none.

    It is the first list in brackets behind the last word "output" or "answer" that one follows; in a text without, the
    last list of all. Its integers stand between commas or spaces. What indexes a name (``dp[2]``) is no list.
    """
    lists = [(found.start(), numbers) for found in _LIST.finditer(text) if (numbers := integers(found[1])) is not None]
    if not lists:
        return None
    ends = [mark.end() for mark in _MARK.finditer(text)]
    last = bisect_right(ends, lists[-1][0])  # marks before the last list; one pass each, for a text may repeat itself
    return lists[bisect_left(lists, (ends[last - 1],))][1] if last else lists[-1][1]


def integers(text: str) -> tuple[int, ...] | None:
    """Whole numbers between commas or spaces, at least one; None for all else."""
    found = [whole(part) for part in re.split(r"\s*,\s*|\s+", text.strip())]
    return None if None in found else tuple(number for number in found if number is not None)


@lru_cache(maxsize=4096)  # as many numbers as there are, where they are small
def _input(i: int, value: int) -> Node:
    return Node(f"input[{i}]", lambda: value, (), "input")


@cache
def _steps(n: int) -> tuple[Node, ...]:
    """All nodes but the numbers, of a list of n."""
    last = ((f"input[{n - 1}]",), (f"input[{n - 2}]", f"input[{n - 1}]"))
    nodes = [Node("may[0]", lambda: True, (), "input")]
    nodes += [Node(f"dp[{n - 1 - back}]", lambda *given: max(*given, 0), up, "max") for back, up in enumerate(last)]
    for i in range(n - 3, -1, -1):
        up = (f"dp[{i + 1}]", f"input[{i}]", f"dp[{i + 2}]")
        nodes.append(Node(f"dp[{i}]", lambda skip, own, two: max(skip, own + two, 0), up, "max"))
    choose = lambda may, best, own, two=0: CHOSEN if may and best == own + two else LEFT  # noqa: E731
    for i in range(n):
        two = (f"dp[{i + 2}]",) if i < n - 2 else ()
        nodes.append(Node(f"output[{i}]", choose, (f"may[{i}]", f"dp[{i}]", f"input[{i}]", *two), "choose"))
        if i < n - 1:
            nodes.append(Node(f"may[{i + 1}]", lambda output: output == LEFT, (f"output[{i}]",), "may"))
    nodes.append(Node("output", lambda *outputs: outputs, tuple(f"output[{i}]" for i in range(n)), "list"))
    return tuple(nodes)
