"""The classes and labels of the published Corr2Cause data, with its errors (github.com/causalNLP/corr2cause).

Read from ``code/data_gen.cpp`` there and written anew. Three errors, each of which moves labels:

1. Descendants. While descendants are gathered, a child i is passed over where i + 1 (not i) has been met before. So
   colliders are opened by too few nodes, some pairs are called independent that are not, and for six nodes there are
   2,207 classes in place of 2,201.
2. Direction. A class is compared under a renaming of nodes, but relations are read through its inverse, so those of
   the wrong pair are counted.
3. Confounders. The second leg of a path i ⇐ c ⇒ j is measured no further than one edge, so c must be a parent of j.

With all three, what is entailed is 0, 3.33, 7.50, 13.01 and 18.85% for 2 to 6 nodes, as in the paper's table.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import numpy as np
from jaxtyping import Float, Int

from evals.tasks.corr2cause.graphs import Dag, dags, descendants, independences, pairs, parents
from evals.tasks.corr2cause.relations import RELATIONS, Related, entailed, relations

_CONFOUNDER = 1 << RELATIONS.index("has_confounder")


def released(nodes: int) -> Iterator[tuple[Dag, tuple[int, ...], Related, int]]:
    """Graph, independences, entailed relations and size of each class, as the fields of ``classes.MarkovClass``."""
    graphs = dags(nodes)
    held = [independences(dag, met(dag)) for dag in graphs]
    related = [related_of(dag) for dag in graphs]
    names = np.array(list(permutations(range(nodes))))
    said = np.array([[mask >> c & 1 for mask in masks for c in range(1 << nodes)] for masks in held], dtype=np.float64)
    sums = said @ _weights(names)  # a sum of whole numbers below 2^53 is exact: alike where the statements are
    sums[~_first(graphs, names)] = np.nan
    order = np.argsort(sums, axis=None, kind="stable")
    ranked = sums.ravel()[order]
    done: set[int] = set()
    for number, dag in enumerate(graphs):
        low, high = np.searchsorted(ranked, sums[number, 0], "left"), np.searchsorted(ranked, sums[number, 0], "right")
        members = [divmod(int(place), len(names)) for place in order[low:high]]
        if any(other in done for other, _ in members):
            continue
        done.update(other for other, _ in members)
        # Error 2: node i of the class has the relations of node names[i]; right were its inverse.
        follows = entailed(_read(related[other], names[name]) for other, name in members)
        yield dag, held[number], follows, len(members)


def met(dag: Dag) -> tuple[int, ...]:
    """Descendants with error 1."""
    return tuple(_gather(dag, node, 0) for node in range(len(dag)))


def _gather(dag: Dag, node: int, seen: int) -> int:
    seen |= 1 << node
    for child in range(len(dag)):
        if dag[node] >> child & 1 and not seen >> (child + 1) & 1:
            seen = _gather(dag, child, seen)
    return seen


def related_of(dag: Dag) -> Related:
    """Relations with error 3: confounders are parents of the second node."""
    above = parents(dag)
    without = [descendants(dag, 1 << j) for j in range(len(dag))]
    table = []
    for i, row in enumerate(relations(dag)):
        new = []
        for j, mask in enumerate(row):
            causes = (c for c in range(len(dag)) if c != i and above[j] >> c & 1)
            common = any(without[j][c] >> i & 1 for c in causes)
            new.append(mask & ~_CONFOUNDER | (_CONFOUNDER if common and i != j else 0))
        table.append(tuple(new))
    return tuple(table)


def _read(table: Related, name: Int[np.ndarray, " nodes"]) -> Related:
    return tuple(tuple(table[i][j] for j in name) for i in name)


def _weights(names: Int[np.ndarray, "orders nodes"]) -> Float[np.ndarray, "statements orders"]:
    """Random whole numbers below 2^43, one for each statement, under each renaming of nodes."""
    nodes = names.shape[1]
    sets = 1 << nodes
    drawn = np.random.default_rng(0).integers(1 << 43, size=(nodes, nodes, sets)).astype(np.float64)
    member = (np.arange(sets)[:, None] >> np.arange(nodes)) & 1
    renamed = (member @ (1 << names.T)).T  # orders, sets: where each set of nodes goes
    columns = []
    for i, j in pairs(nodes):
        low, high = np.minimum(names[:, i], names[:, j]), np.maximum(names[:, i], names[:, j])
        columns.append(drawn[low[:, None], high[:, None], renamed].T)
    return np.concatenate(columns)


def _first(graphs: tuple[Dag, ...], names: Int[np.ndarray, "orders nodes"]) -> np.ndarray:
    """Which renamings are the first to make a labelled graph: booleans, graphs by orders."""
    nodes = names.shape[1]
    edges = np.array([[dag[i] >> j & 1 for i in range(nodes) for j in range(nodes)] for dag in graphs])
    where = (names[:, :, None] * nodes + names[:, None, :]).reshape(len(names), -1)
    codes = edges @ (1 << where.astype(np.int64)).T
    first = np.zeros(codes.shape, dtype=bool)
    for row, code in enumerate(codes):
        first[row, np.unique(code, return_index=True)[1]] = True
    return first
