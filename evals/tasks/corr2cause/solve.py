"""A second solver, independent of the one that labels: from the words of a premise, with networkx.

Reads which pairs are ever independent, joins the others, directs what must be a collider, tries every direction of the
rest, keeps the graphs whose d-separations are exactly those that were said, and reads relations off every simple path.
Shares no code with ``graphs.py`` and ``relations.py`` but the words.
"""

from __future__ import annotations

from itertools import chain, combinations, pairwise, product
from typing import Any

from evals.tasks.corr2cause.words import read_hypothesis, read_premise

Independent = dict[frozenset[str], list[frozenset[str]]]


def verdict(premise: str, hypothesis: str) -> bool:
    """Whether a hypothesis follows from a premise, both in the benchmark's words.

    Raises ValueError on other words, or where no graph has just these independences.
    """
    names, _ = read_premise(premise)
    said = read_hypothesis(hypothesis, names)
    return said.relation in verdicts(premise)[said.pair]


def verdicts(premise: str) -> dict[tuple[str, str], set[str]]:
    """For each ordered pair of variables the relations that follow. Raises ValueError as ``verdict`` does."""
    names, apart = read_premise(premise)
    found: dict[tuple[str, str], set[str]] = {}
    for graph in graphs(names, apart):
        for pair, held in _relations(graph).items():
            found[pair] = found[pair] & held if pair in found else held
    if not found:
        raise ValueError(f"premise: expected independences of some graph, got {premise[:120]!r}…; no graph has these")
    return found


def graphs(names: tuple[str, ...], apart: Independent) -> list[Any]:
    """All ``networkx.DiGraph`` whose d-separations are exactly ``apart`` (pair to what it is given); may be none."""
    import networkx as nx

    edges = [pair for pair in combinations(names, 2) if frozenset(pair) not in apart]
    into: set[tuple[str, str]] = set()  # directions that colliders settle
    for a, b in combinations(names, 2):
        for c in names:
            if c in (a, b) or frozenset((a, b)) not in apart:
                continue
            joined = all(tuple(sorted(pair, key=names.index)) in edges for pair in ((a, c), (b, c)))
            if joined and not any(c in given for given in apart[frozenset((a, b))]):
                into |= {(a, c), (b, c)}
    ways = [[way for way in ((a, b), (b, a)) if way[::-1] not in into] for a, b in edges]
    kept = []
    for chosen in product(*ways):
        graph = nx.DiGraph()
        graph.add_nodes_from(names)
        graph.add_edges_from(chosen)
        if nx.is_directed_acyclic_graph(graph) and _shapes(graph, edges) <= into and _separated(graph) == _sets(apart):
            kept.append(graph)
    return kept


def _shapes(graph: Any, edges: list[tuple[str, str]]) -> set[tuple[str, str]]:
    """Edges of v-structures."""
    joined = {frozenset(edge) for edge in edges}
    found: set[tuple[str, str]] = set()
    for node in graph:
        for a, b in combinations(graph.predecessors(node), 2):
            if frozenset((a, b)) not in joined:
                found |= {(a, node), (b, node)}
    return found


def _separated(graph: Any) -> set[tuple[frozenset[str], frozenset[str]]]:
    import networkx as nx

    found = set()
    for a, b in combinations(graph, 2):
        others = [node for node in graph if node not in (a, b)]
        for given in chain.from_iterable(combinations(others, size) for size in range(len(others) + 1)):
            if nx.is_d_separator(graph, {a}, {b}, set(given)):
                found.add((frozenset((a, b)), frozenset(given)))
    return found


def _sets(apart: Independent) -> set[tuple[frozenset[str], frozenset[str]]]:
    return {(pair, given) for pair, many in apart.items() for given in many}


def _relations(graph: Any) -> dict[tuple[str, str], set[str]]:
    """By the directions along each simple path between two nodes: out, then in, and at most one turn."""
    import networkx as nx

    plain = graph.to_undirected()
    held: dict[tuple[str, str], set[str]] = {(a, b): set() for a in graph for b in graph if a != b}
    for a, b in combinations(graph, 2):
        for path in nx.all_simple_paths(plain, a, b):
            ahead = [graph.has_edge(u, v) for u, v in pairwise(path)]
            turns = [(u, v) for u, v in pairwise(ahead) if u != v]
            if not turns:
                direct = len(ahead) == 1
                down, up = ("parent", "child") if direct else ("non-parent ancestor", "non-child descendant")
                held[a, b].add(down if ahead[0] else up)
                held[b, a].add(up if ahead[0] else down)
            elif len(turns) == 1:
                shape = "has_collider" if turns[0] == (True, False) else "has_confounder"
                held[a, b].add(shape)
                held[b, a].add(shape)
    return held
