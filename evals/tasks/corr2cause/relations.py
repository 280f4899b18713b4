"""The six causal relations of a pair of nodes (Jin et al., arXiv 2306.05836, section 3.2), by the paths between them.

For nodes i and j of a graph G, with ``i ⇒ j`` a directed path and ``G - j`` the graph without j:

- parent, child: the edge i → j, or j → i;
- non-parent ancestor: i causes something else that causes j, so i ⇒ j by two edges or more (beside an edge, too);
  non-child descendant: the same from j to i;
- has_collider: a path i ⇒ c ⇐ j, so a c with i ⇒ c in G - j and j ⇒ c in G - i;
- has_confounder: a path i ⇐ c ⇒ j, so a c with c ⇒ i in G - j and c ⇒ j in G - i.

Of two such legs that meet before c, the first common node is a c whose legs do not meet, so that each is one path.
"""

from __future__ import annotations

from collections.abc import Iterable

from evals.tasks.corr2cause.graphs import Dag, descendants, parents

RELATIONS = ("parent", "non-parent ancestor", "child", "non-child descendant", "has_collider", "has_confounder")
ALL = (1 << len(RELATIONS)) - 1
Related = tuple[tuple[int, ...], ...]


def relations(dag: Dag) -> Related:
    """For each ordered pair of nodes a mask of the relations that hold, bits in the order of ``RELATIONS``; 0 for i, i.

    Returns n rows of n integers.
    """
    nodes = len(dag)
    below = descendants(dag)
    without = [descendants(dag, 1 << j) for j in range(nodes)]
    above = parents(dag)
    over = [descendants(above, 1 << j) for j in range(nodes)]
    mediated = [0] * nodes  # nodes reached from each through something else
    for i, mask in enumerate(dag):
        for w in range(nodes):
            if mask >> w & 1:
                mediated[i] |= below[w] & ~(1 << w)
    table = []
    for i in range(nodes):
        row = []
        for j in range(nodes):
            common = without[j][i] & without[i][j]
            causes = over[j][i] & over[i][j]
            held = (
                dag[i] >> j & 1
                | (mediated[i] >> j & 1) << 1
                | (dag[j] >> i & 1) << 2
                | (mediated[j] >> i & 1) << 3
                | bool(common) << 4
                | bool(causes) << 5
            )
            row.append(0 if i == j else held)
        table.append(tuple(row))
    return tuple(table)


def entailed(tables: Iterable[Related]) -> Related:
    """The relations that hold in all of them: what follows from a class is what all its graphs agree in."""
    rows: list[list[int]] | None = None
    for table in tables:
        if rows is None:
            rows = [list(row) for row in table]
        else:
            rows = [[a & b for a, b in zip(old, new, strict=True)] for old, new in zip(rows, table, strict=True)]
    if rows is None:
        raise ValueError("tables: expected at least one graph, got none; a class is never empty")
    return tuple(tuple(row) for row in rows)
