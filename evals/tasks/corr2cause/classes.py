"""Markov equivalence classes up to isomorphism, with their independences and the relations that they entail.

A class is all graphs on n named nodes with the same d-separations; two are the same but for names where a graph of one
is isomorphic to a graph of the other. A relation is entailed where it holds in every graph of the class, all labelled
ones counted. Made once a process and number of nodes (seconds for n = 6; ``scripts/bench/corr2cause.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from evals.tasks.corr2cause.graphs import Dag, dags, equivalents, independences, isomorphic_to
from evals.tasks.corr2cause.relations import RELATIONS, Related, entailed, relations

SEMANTICS = ("correct", "released")
FEWEST, MOST = 2, 6  # variables


@dataclass(frozen=True)
class MarkovClass:
    """A class.

    Attributes:
        dag: one of its graphs; its edges go from smaller to larger nodes.
        independent: conditioning sets for each pair, as ``graphs.independences`` gives them.
        entailed: masks of the relations that follow, for each ordered pair.
        members: how many labelled graphs there are in it.
    """

    dag: Dag
    independent: tuple[int, ...]
    entailed: Related
    members: int


@cache
def classes(nodes: int, semantics: str = "correct") -> tuple[MarkovClass, ...]:
    """All classes on ``nodes`` nodes: 2, 5, 20, 142, 2,201 for 2 to 6; in "released" 2,207 for 6.

    Args:
        nodes: 2 to 6.
        semantics: "correct", or "released" with the errors of the published data (see ``released.py``).

    Raises ValueError on other numbers of nodes, or another semantics.
    """
    if not FEWEST <= nodes <= MOST:
        raise ValueError(f"variables: expected {FEWEST} to {MOST}, got {nodes}; ask for that many")
    if semantics not in SEMANTICS:
        raise ValueError(f"semantics: expected one of {', '.join(SEMANTICS)}, got {semantics!r}; name one of these")
    if semantics == "released":
        from evals.tasks.corr2cause.released import released

        return tuple(MarkovClass(*found) for found in released(nodes))
    found: list[MarkovClass] = []
    done: set[int] = set()
    for number, dag in enumerate(dags(nodes)):
        if number in done:
            continue
        members = equivalents(dag)
        done.update(isomorphic_to(member) for member in members)
        follows = entailed(relations(member) for member in members)
        found.append(MarkovClass(dag, independences(dag), follows, len(members)))
    return tuple(found)


def positives(nodes: int, semantics: str = "correct") -> tuple[int, int]:
    """Hypotheses that are entailed, and all there are: each class, each ordered pair, each relation, as the paper's."""
    table = classes(nodes, semantics)
    held = sum(mask.bit_count() for found in table for row in found.entailed for mask in row)
    return held, len(table) * nodes * (nodes - 1) * len(RELATIONS)
