"""Directed acyclic graphs on a few nodes as bit masks: all of them up to isomorphism, d-separation, equivalence.

A graph (``Dag``) is a tuple of n integers: bit j of number i says that there is an edge i → j. A set of nodes is an
integer with a bit for each. A set of conditioning sets is an integer of 2^n bits, one for each set of nodes, so that a
path is judged for all of them at once. Knows no words and no relations.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import combinations

Dag = tuple[int, ...]


@cache
def pairs(nodes: int) -> tuple[tuple[int, int], ...]:
    """All pairs (i, j) with i < j, in order."""
    return tuple(combinations(range(nodes), 2))


def parents(dag: Dag) -> Dag:
    """Masks of each node's parents: the graph with its edges turned round."""
    return tuple(sum(1 << i for i, mask in enumerate(dag) if mask >> j & 1) for j in range(len(dag)))


def descendants(dag: Dag, without: int = 0) -> tuple[int, ...]:
    """Masks of each node's descendants and itself, in the graph without the nodes of the mask ``without``."""
    found = []
    for node in range(len(dag)):
        seen = 1 << node & ~without
        front = seen
        while front:
            low = front & -front
            new = dag[low.bit_length() - 1] & ~(seen | without)
            seen |= new
            front = front & ~low | new
        found.append(seen)
    return tuple(found)


def relabelled(dag: Dag, order: Sequence[int]) -> Dag:
    """The graph whose node ``order[i]`` is node i of ``dag``."""
    new = [0] * len(dag)
    for i, mask in enumerate(dag):
        new[order[i]] = sum(1 << order[j] for j in range(len(dag)) if mask >> j & 1)
    return tuple(new)


def from_code(code: int, nodes: int) -> Dag:
    """The graph whose edges, all from a smaller to a larger node, are the bits of ``code`` in the order of pairs."""
    dag = [0] * nodes
    for bit, (i, j) in enumerate(pairs(nodes)):
        dag[i] |= (code >> bit & 1) << j
    return tuple(dag)


def sorted_code(dag: Dag) -> int:
    """The code of the graph with its nodes renamed in one of their topological orders."""
    above, order, done = parents(dag), [0] * len(dag), 0
    for place in range(len(dag)):
        node = next(v for v in range(len(dag)) if not done >> v & 1 and not above[v] & ~done)
        order[node] = place
        done |= 1 << node
    return _code(relabelled(dag, order))


def _code(dag: Dag) -> int:
    return sum((dag[i] >> j & 1) << bit for bit, (i, j) in enumerate(pairs(len(dag))))


@cache
def _catalogue(nodes: int) -> tuple[tuple[Dag, ...], dict[int, int]]:
    """All graphs up to isomorphism, least code first, and the place among them of every code."""
    found: list[Dag] = []
    places: dict[int, int] = {}
    for code in range(1 << len(pairs(nodes))):
        if code in places:
            continue
        dag = from_code(code, nodes)
        for order in _orders(parents(dag)):
            places[_code(relabelled(dag, order))] = len(found)
        found.append(dag)
    return tuple(found), places


def _orders(above: Dag) -> list[list[int]]:
    """All topological orders, as the place of each node."""
    found: list[list[int]] = []
    begun: list[list[int]] = [[]]
    while begun:
        nodes = begun.pop()
        if len(nodes) == len(above):
            found.append([nodes.index(node) for node in range(len(above))])
            continue
        done = sum(1 << node for node in nodes)
        begun += [[*nodes, v] for v in range(len(above)) if not done >> v & 1 and not above[v] & ~done]
    return found


def dags(nodes: int) -> tuple[Dag, ...]:
    """One of each graph on ``nodes`` nodes up to isomorphism: 2, 6, 31, 302, 5,984 for 2 to 6 (OEIS A003087)."""
    return _catalogue(nodes)[0]


def isomorphic_to(dag: Dag) -> int:
    """Which of ``dags(n)`` is this graph, but for names."""
    return _catalogue(len(dag))[1][sorted_code(dag)]


def independences(dag: Dag, below: Sequence[int] | None = None) -> tuple[int, ...]:
    """For each pair, the conditioning sets that d-separate it, as one integer of 2^n bits (bit c: the set c).

    A path is open given c where no node on it that is not a collider is in c, and each collider has a descendant (or
    itself) in c; a pair is d-separated where no path is open (Pearl, "Causality" (2000), definition 1.2.3).

    Args:
        dag: the graph.
        below: masks of each node's descendants with itself, where they are not to be the right ones.
    """
    below = descendants(dag) if below is None else below
    above, misses, hits = parents(dag), *_bits(len(dag))
    found = []
    for x, y in pairs(len(dag)):
        every = misses[x] & misses[y]
        found.append(every & ~_open(dag, above, below, misses, hits, x, y, every))
    return tuple(found)


def _open(
    dag: Dag,
    above: Dag,
    below: Sequence[int],
    misses: Sequence[int],
    hits: Sequence[int],
    x: int,
    y: int,
    every: int,
) -> int:
    """Conditioning sets under which some simple path from x to y is open."""
    opened = 0
    begun = [(x, 1 << x, False, every)]  # the end of a path, its nodes, whether its last edge points there, open so far
    while begun:
        node, seen, inwards, alive = begun.pop()
        if node == y:
            opened |= alive
            continue
        through = alive if node == x else alive & misses[node]
        against = alive & hits[below[node]] if inwards else through
        forwards = dag[node] & ~seen
        for nxt in range(len(dag)):
            if (forwards | above[node] & ~seen) >> nxt & 1:
                into = bool(forwards >> nxt & 1)
                left = through if into else against
                if left & ~opened:
                    begun.append((nxt, seen | 1 << nxt, into, left))
    return opened


@cache
def _bits(nodes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """For each node the sets without it; for each set of nodes the sets that meet it."""
    sets = range(1 << nodes)
    misses = tuple(sum(1 << c for c in sets if not c >> v & 1) for v in range(nodes))
    return misses, tuple(sum(1 << c for c in sets if c & mask) for mask in sets)


def equivalents(dag: Dag) -> frozenset[Dag]:
    """All graphs on the same nodes with the same d-separations, itself included.

    Turning a covered edge x → y (the parents of y are those of x, and x) leads to an equivalent graph, and all are
    reached so (Chickering, UAI 1995, arXiv 1302.4938, lemma 1 and theorem 2).
    """
    seen = {dag}
    front = [dag]
    while front:
        here = front.pop()
        above = parents(here)
        for x, mask in enumerate(here):
            for y in range(len(here)):
                if mask >> y & 1 and above[y] == above[x] | 1 << x:
                    turned = list(here)
                    turned[x] &= ~(1 << y)
                    turned[y] |= 1 << x
                    new = tuple(turned)
                    if new not in seen:
                        seen.add(new)
                        front.append(new)
    return frozenset(seen)


def pattern(dag: Dag) -> tuple[frozenset[tuple[int, int]], frozenset[tuple[int, int, int]]]:
    """Skeleton (pairs joined by an edge) and v-structures a → c ← b, a and b apart, as (a, c, b).

    Two graphs are Markov equivalent where both are the same (Verma and Pearl, UAI 1990).
    """
    joined = frozenset((i, j) for i, j in pairs(len(dag)) if (dag[i] >> j | dag[j] >> i) & 1)
    above = parents(dag)
    shapes = frozenset(
        (a, c, b)
        for c, mask in enumerate(above)
        for a, b in pairs(len(dag))
        if mask >> a & 1 and mask >> b & 1 and (a, b) not in joined
    )
    return joined, shapes
