"""Computation graphs of "Faith and Fate" (Dziri et al., arXiv 2305.18654, sec. 2): measures, and labels of errors.

A node is a value that an algorithm makes of the values of earlier nodes. A model's scratchpad gives values to the same
nodes; what each of them is, right or one of three kinds of wrong, follows from the graph (sec. 3.2.3). Knows no task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

CORRECT, LOCAL, PROPAGATION, RESTORATION = "correct", "local", "propagation", "restoration"
LABELS = (CORRECT, LOCAL, PROPAGATION, RESTORATION)


@dataclass(frozen=True)
class Node:
    """One step.

    Attributes:
        name: of the node, once in a graph.
        compute: its value from those of its parents, in their order; of a source, from nothing. Raises where a parent's
            value (a model may say anything) is none to compute with.
        parents: names of earlier nodes.
        kind: what operation it is, for tables ("multiply 1-digit", "carry").
    """

    name: str
    compute: Callable[..., Any]
    parents: tuple[str, ...] = ()
    kind: str = ""


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which each stands behind its parents."""

    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        known: set[str] = set()
        for node in self.nodes:
            if node.name in known or not set(node.parents) <= known:
                raise ValueError(f"graph: expected {node.name!r} once, behind its parents {node.parents}; order nodes")
            known.add(node.name)

    @cached_property
    def values(self) -> dict[str, Any]:
        """The right value of each node."""
        values: dict[str, Any] = {}
        for node in self.nodes:
            values[node.name] = node.compute(*(values[parent] for parent in node.parents))
        return values

    @cached_property
    def layers(self) -> dict[str, int]:
        """Of each node the length of the longest path that leads to it from a source; a source has 0."""
        layers: dict[str, int] = {}
        for node in self.nodes:
            layers[node.name] = max((layers[parent] + 1 for parent in node.parents), default=0)
        return layers

    @property
    def depth(self) -> int:
        """The largest layer: steps that must follow one another (reasoning depth)."""
        return max(self.layers.values(), default=0)

    @cached_property
    def distances(self) -> dict[str, int]:
        """Of each node the length of the shortest path that leads to it from a source; a source has 0."""
        distances: dict[str, int] = {}
        for node in self.nodes:
            distances[node.name] = min((distances[parent] + 1 for parent in node.parents), default=0)
        return distances

    @property
    def width(self) -> int:
        """Nodes at the most common distance from the sources (reasoning width, sec. 2.2): values to be held at once.

        The paper takes the mode of the distances; what it is after is how many nodes are there, which is given here.
        """
        return max(Counter(self.distances.values()).values(), default=0)

    @property
    def parallelism(self) -> float:
        """Nodes a layer: |V| / depth (average parallelism, sec. 2.2); 0 for a graph without an edge."""
        return len(self.nodes) / self.depth if self.depth else 0.0


def label(graph: Graph, said: Mapping[str, Any], given: bool = True) -> dict[str, str]:
    """What each node that a scratchpad gives a value is (sec. 3.2.3), in the graph's order.

    A node's value is right where it is the graph's; its computation is right where its value is what ``compute`` makes
    of the values *said* of its parents. Then

    - correct: value and computation are right, of the node and of all its ancestors;
    - local: all parents have the right value, and the computation is wrong;
    - propagation: the computation is right, and some parent has a wrong value (or is not correct);
    - restoration: the value is right, the computation is wrong.

    Three cases the paper leaves open. Where value, computation and a parent's value are all wrong, the step itself is
    wrong: local. Where the computation is right and the parents have right values that were not come by rightly, the
    fault is theirs: propagation. Where a parent is not said, the step cannot be followed, so its computation counts as
    wrong: local or restoration.

    The authors' code calls every right value below an error restored, even one that was rightly computed of wrong
    parents (0 times anything); the paper's text, and this function, call that propagation.

    Sources are given by the problem: one that is not said counts as right and gets no label, one that is said wrongly
    is a local error. Other nodes that are not said get no label. Where sources are first steps that must be worked out
    like all others (cells of a puzzle, from clues alone), ``given`` is False, and what rests on one that is not said
    cannot be followed either.
    """
    known = {node.name: graph.values[node.name] for node in graph.nodes if given and not node.parents} | dict(said)
    labels: dict[str, str] = {}
    for node in graph.nodes:
        if node.name not in said:
            continue
        right = bool(said[node.name] == graph.values[node.name])
        labels[node.name] = _label(node, right, _follows(node, known), labels)
    return labels


def _follows(node: Node, known: Mapping[str, Any]) -> bool:
    """Whether a node's value is what its computation makes of what was said."""
    if any(parent not in known for parent in node.parents):
        return False
    try:
        return bool(node.compute(*(known[parent] for parent in node.parents)) == known[node.name])
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return False


def _label(node: Node, right: bool, follows: bool, labels: Mapping[str, str]) -> str:
    if follows:
        # A parent without a label is a source that was not said: without it the step could not be followed.
        return CORRECT if right and all(labels.get(up, CORRECT) == CORRECT for up in node.parents) else PROPAGATION
    return RESTORATION if right and node.parents else LOCAL


def shares(labels: Sequence[Mapping[str, str]]) -> dict[str, float]:
    """Share of each label among all labelled nodes; empty where there are none."""
    counts = Counter(found for each in labels for found in each.values())
    total = sum(counts.values())
    return {name: counts[name] / total for name in LABELS} if total else {}
