"""Counts and shares as published, and the labels against relations read off every path."""

from __future__ import annotations

from itertools import pairwise

import networkx as nx
import pytest

from evals.tasks.corr2cause.classes import classes, positives
from evals.tasks.corr2cause.graphs import Dag, dags, equivalents
from evals.tasks.corr2cause.relations import RELATIONS, entailed, relations
from evals.tasks.corr2cause.released import met, related_of


def by_paths(dag: Dag, i: int, j: int, legs: int | None = None) -> set[str]:
    """Relations of i and j as the shapes of all simple paths; ``legs``: the longest second leg of a confounder."""
    edges = nx.Graph((a, b) for a, mask in enumerate(dag) for b in range(len(dag)) if mask >> b & 1)
    held: set[str] = set()
    if i not in edges or j not in edges:
        return held
    for path in nx.all_simple_paths(edges, i, j):
        ways = "".join(">" if dag[a] >> b & 1 else "<" for a, b in pairwise(path))
        turns = ways.count("><"), ways.count("<>")
        if turns == (0, 0):
            direct = len(ways) == 1
            up = ("parent", "non-parent ancestor") if ways[0] == ">" else ("child", "non-child descendant")
            held.add(up[0] if direct else up[1])
        elif turns == (1, 0):
            held.add("has_collider")
        elif turns == (0, 1) and (legs is None or ways.count(">") <= legs):
            held.add("has_confounder")
    return held


def named(mask: int) -> set[str]:
    return {name for bit, name in enumerate(RELATIONS) if mask >> bit & 1}


@pytest.mark.parametrize("nodes", [2, 3, 4, 5])
def test_relations_are_the_shapes_of_paths(nodes: int) -> None:
    for dag in dags(nodes):
        table, theirs = relations(dag), related_of(dag)
        for i in range(nodes):
            for j in range(nodes):
                if i != j:
                    assert named(table[i][j]) == by_paths(dag, i, j), (dag, i, j)
                    assert named(theirs[i][j]) == by_paths(dag, i, j, legs=1), (dag, i, j)
    assert all(relations(dag)[n][n] == 0 for dag in dags(nodes) for n in range(nodes))


# Counts: Jin et al. 2023, table 2, whose last number of classes is the released data's.
@pytest.mark.parametrize(
    ("nodes", "semantics", "count", "percent"),
    [
        (2, "correct", 2, 0.0), (3, "correct", 5, 3.33), (4, "correct", 20, 7.92),
        (5, "correct", 142, 14.65), (6, "correct", 2201, 21.47),
        (2, "released", 2, 0.0), (3, "released", 5, 3.33), (4, "released", 20, 7.50),
        (5, "released", 142, 13.01), (6, "released", 2207, 18.85),
    ],
)  # fmt: skip
def test_classes_and_positives_are_as_published(nodes: int, semantics: str, count: int, percent: float) -> None:
    found = classes(nodes, semantics)
    held, asked = positives(nodes, semantics)
    assert len(found) == count
    assert asked == count * nodes * (nodes - 1) * 6
    assert round(100 * held / asked, 2) == percent


def test_a_chain_and_a_collider_entail_what_is_known() -> None:
    collider = next(found for found in classes(3) if found.dag == (0b100, 0b100, 0))
    assert collider.members == 1
    assert named(collider.entailed[0][2]) == {"parent"}
    assert named(collider.entailed[0][1]) == {"has_collider"}
    chain = next(found for found in classes(3) if found.members == 3)
    assert chain.entailed == ((0, 0, 0),) * 3  # nothing follows: a chain either way, or a fork


def test_labels_hold_in_all_graphs_of_a_class_and_not_in_one_alone() -> None:
    for found in classes(5):
        tables = [relations(member) for member in equivalents(found.dag)]
        assert len(tables) == found.members
        assert found.entailed == entailed(tables)
    one = sum(mask.bit_count() for found in classes(5) for row in relations(found.dag) for mask in row)
    assert one > positives(5)[0]


def test_the_released_descendants_miss_some() -> None:
    assert met((0b10, 0b100, 0b1000, 0))[0] == 0b1111
    assert met((0b1110, 0b1000, 0, 0))[0] == 0b1011  # node 2 is passed over, as 3 was met by way of 1


def test_refuses_what_there_is_not() -> None:
    with pytest.raises(ValueError, match="variables: expected 2 to 6, got 7"):
        classes(7)
    with pytest.raises(ValueError, match="semantics: expected one of correct, released, got 'right'"):
        classes(3, "right")
    with pytest.raises(ValueError, match="expected at least one graph"):
        entailed([])
