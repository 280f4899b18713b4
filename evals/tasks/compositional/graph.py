"""Computation graphs of "Faith and Fate" (Dziri et al., arXiv 2305.18654, sec. 2): measures, and labels of errors.

A node is a value that an algorithm makes of the values of earlier nodes. A model's scratchpad gives values to the same
nodes; what each of them is, right or one of three kinds of wrong, follows from the graph (sec. 4.2). Knows no task.
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

    @property
    def width(self) -> int:
        """Nodes of the layer that has most (reasoning width): values to be held at once."""
        return max(Counter(self.layers.values()).values(), default=0)

    @property
    def parallelism(self) -> float:
        """Nodes a layer: |V| / depth (average parallelism); 0 for a graph without an edge."""
        return len(self.nodes) / self.depth if self.depth else 0.0


def label(graph: Graph, said: Mapping[str, Any]) -> dict[str, str]:
    """What each node that a scratchpad gives a value is (sec. 4.2), in the graph's order.

    A node's computation is right where its value follows from the values said of its parents. Then

    - correct: value and computation are right, and every ancestor is correct;
    - local: all parents have the right value, and the computation is wrong;
    - propagation: the computation is right and some ancestor is not correct, so that the value is wrong, or right by
      chance only of what it was made of;
    - restoration: the value is right, the computation is wrong.

    Where value and computation are both wrong and a parent's value is too, the step itself is wrong: local. Nodes that
    are not said get no label; one that stands below a node that is not said counts this one as not right. A source has
    no parents, so a wrong one is a local error.
    """
    labels: dict[str, str] = {}
    for node in graph.nodes:
        if node.name not in said:
            continue
        right = said[node.name] == graph.values[node.name]
        labels[node.name] = _label(node, said, right, _follows(node, said), labels)
    return labels


def _follows(node: Node, said: Mapping[str, Any]) -> bool:
    """Whether a node's value is what its computation makes of what was said."""
    if any(parent not in said for parent in node.parents):
        return False
    try:
        return bool(node.compute(*(said[parent] for parent in node.parents)) == said[node.name])
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return False


def _label(node: Node, said: Mapping[str, Any], right: bool, follows: bool, labels: Mapping[str, str]) -> str:
    if follows:
        return CORRECT if right and all(labels[parent] == CORRECT for parent in node.parents) else PROPAGATION
    return RESTORATION if right and node.parents else LOCAL


def shares(labels: Sequence[Mapping[str, str]]) -> dict[str, float]:
    """Share of each label among all labelled nodes; empty where there are none."""
    counts = Counter(found for each in labels for found in each.values())
    total = sum(counts.values())
    return {name: counts[name] / total for name in LABELS} if total else {}
