"""Graphs against networkx and against the definitions written out."""

from __future__ import annotations

from itertools import permutations, product

import networkx as nx
import pytest

from evals.tasks.corr2cause.graphs import (
    Dag,
    dags,
    descendants,
    equivalents,
    independences,
    isomorphic_to,
    pairs,
    parents,
    pattern,
    relabelled,
)


def graph(dag: Dag) -> nx.DiGraph:
    made = nx.DiGraph()
    made.add_nodes_from(range(len(dag)))
    made.add_edges_from((i, j) for i, mask in enumerate(dag) for j in range(len(dag)) if mask >> j & 1)
    return made


def labelled(nodes: int) -> list[Dag]:
    """All labelled graphs without a cycle, by trying every orientation of every set of edges."""
    found = []
    for ways in product((0, 1, 2), repeat=len(pairs(nodes))):
        dag = [0] * nodes
        for (i, j), way in zip(pairs(nodes), ways, strict=True):
            dag[i] |= (way == 1) << j
            dag[j] |= (way == 2) << i
        if nx.is_directed_acyclic_graph(graph(tuple(dag))):
            found.append(tuple(dag))
    return found


@pytest.mark.parametrize(("nodes", "count"), [(2, 2), (3, 6), (4, 31), (5, 302), (6, 5984)])
def test_there_are_as_many_graphs_as_known(nodes: int, count: int) -> None:
    assert len(dags(nodes)) == count


@pytest.mark.parametrize(("nodes", "count"), [(3, 25), (4, 543)])
def test_renamed_they_are_all_labelled_graphs_and_each_is_found_again(nodes: int, count: int) -> None:
    every = labelled(nodes)
    assert len(every) == count  # OEIS A003024
    made = {relabelled(dag, order): n for n, dag in enumerate(dags(nodes)) for order in permutations(range(nodes))}
    assert set(made) == set(every)
    assert all(isomorphic_to(dag) == n for dag, n in made.items())


def test_representatives_are_not_isomorphic() -> None:
    made = [graph(dag) for dag in dags(4)]
    assert not any(nx.is_isomorphic(a, b) for n, a in enumerate(made) for b in made[:n])


def test_descendants_are_those_of_networkx() -> None:
    for dag in dags(5):
        whole = graph(dag)
        for gone in range(5):
            rest = whole.subgraph(set(range(5)) - {gone})
            below = descendants(dag, 1 << gone)
            for node in rest:
                assert below[node] == sum(1 << v for v in nx.descendants(rest, node) | {node})
            assert below[gone] == 0
        assert parents(dag) == tuple(sum(1 << v for v in whole.predecessors(node)) for node in range(5))


@pytest.mark.parametrize("nodes", [3, 4, 5])
def test_d_separation_is_that_of_networkx(nodes: int) -> None:
    for dag in dags(nodes)[:: 1 if nodes < 5 else 7]:
        whole = graph(dag)
        for (x, y), sets in zip(pairs(nodes), independences(dag), strict=True):
            for given in range(1 << nodes):
                inside = {v for v in range(nodes) if given >> v & 1}
                apart = not inside & {x, y} and nx.is_d_separator(whole, {x}, {y}, inside)
                assert bool(sets >> given & 1) == apart, (dag, x, y, inside)


@pytest.mark.parametrize("nodes", [3, 4])
def test_equivalent_is_what_has_the_same_separations_and_the_same_pattern(nodes: int) -> None:
    every = labelled(nodes)
    by_sets: dict[object, set[Dag]] = {}
    by_shape: dict[object, set[Dag]] = {}
    for dag in every:
        by_sets.setdefault(independences(dag), set()).add(dag)
        by_shape.setdefault(pattern(dag), set()).add(dag)
    for dag in every:
        assert equivalents(dag) == by_sets[independences(dag)] == by_shape[pattern(dag)]


def test_members_of_larger_classes_share_separations_and_pattern() -> None:
    for dag in dags(6)[::200]:
        for member in equivalents(dag):
            assert independences(member) == independences(dag)
            assert pattern(member) == pattern(dag)
