"""What the compositional tasks share: a problem that can be worked out in words, and numbers read from a model's text.

One class of each task yields the computation graph; the scratchpad is written from the values of its nodes, and what a
model writes is read back into values of the same nodes. Knows no task.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from evals.tasks.compositional.graph import Graph, label

NUMBER = r"(?<![\w.,\u2212-])-?[0-9]+(?:,[0-9]{3})*(?![\w]|[.,][0-9])"
_ANSWER = re.compile(r"\banswer\b", re.IGNORECASE)
_SENTENCE = re.compile(r"\.\s|\.$|\n|###")
_DIGITS = 30  # no task has a number as long; int() itself refuses thousands of digits


@runtime_checkable
class Worked(Protocol):
    """One problem with its algorithm."""

    @property
    def text(self) -> str:
        """The problem in its canonical form, such as "12*34"; rows keep it, and scorers make the problem of it."""

    @property
    def key(self) -> str:
        """What training and test problems are told apart by: the same for problems that give each other away."""

    @property
    def size(self) -> str:
        """Such as "3x3"."""

    @property
    def graph(self) -> Graph:
        """Every step of the algorithm; sources are what the problem gives."""

    @property
    def answer(self) -> str:
        """The right answer."""

    def scratchpad(self, values: Mapping[str, Any] | None = None) -> str:
        """The steps in words, of the right values or of others (all nodes but the sources)."""

    def read(self, text: str) -> dict[str, Any]:
        """Values of the nodes that a text states in the scratchpad's words; never a source's."""


def about(problem: Worked) -> dict[str, Any]:
    """What results are broken down by."""
    graph = problem.graph
    return {
        "size": problem.size,
        "depth": graph.depth,
        "width": graph.width,
        "parallelism": round(graph.parallelism, 4),
        "nodes": len(graph.nodes),
    }


def labelled(problem: Worked, text: str) -> dict[str, Any]:
    """Labels of the nodes that a scratchpad states, as rows keep them.

    Returns:
        ``labels``: how many nodes have each label; ``layers``: the same by layer of the graph ("1", "2", ...);
        ``unsaid``: how many nodes have none, as the text does not state them. Sources are counted nowhere.
    """
    graph = problem.graph
    labels = label(graph, problem.read(text))
    layers: dict[str, dict[str, int]] = {}
    total: dict[str, int] = {}
    for name, found in labels.items():
        layer = layers.setdefault(str(graph.layers[name]), {})
        layer[found] = layer.get(found, 0) + 1
        total[found] = total.get(found, 0) + 1
    steps = sum(bool(node.parents) for node in graph.nodes)
    return {"labels": total, "layers": layers, "unsaid": steps - len(labels)}


def whole(text: str) -> int | None:
    """The whole number that a text is, with or without commas between thousands; None for all else."""
    text = text.strip()
    if not re.fullmatch(r"-?[0-9]+|-?[0-9]{1,3}(?:,[0-9]{3})+", text) or len(text) > _DIGITS:
        return None
    return int(text.replace(",", ""))


def numbers(text: str) -> list[int]:
    """All whole numbers of a text, in order; digits of words, decimals and fractions of numbers are none."""
    found = (whole(said) for said in re.findall(NUMBER, text))
    return [number for number in found if number is not None]


def final_number(text: str) -> int | None:
    """The number that a text gives as its answer; None where there is none.

    It is the last whole number of the first sentence behind the last word "answer" that holds one ("The final answer
    is 7 x 1 + 6 x 10 = 7 + 60 = 67."); in a text without that word, or with no number behind it, the last of all. So a
    text that tries many numbers is judged by one.
    """
    marks = list(_ANSWER.finditer(text))
    if marks:
        for sentence in _SENTENCE.split(text[marks[-1].end() :]):
            if found := numbers(sentence):
                return found[-1]
    found = numbers(text)
    return found[-1] if found else None
