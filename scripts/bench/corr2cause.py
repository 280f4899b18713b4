"""Corr2Cause: counts, shares that are entailed, seconds; and two solvers against each other on every label.

    python scripts/bench/corr2cause.py                      # counts, premises and hypotheses for 2 to 6 variables
    python scripts/bench/corr2cause.py --solvers --most 6   # every label of every class by networkx too (minutes)

On one core of the development machine the first takes some seconds (the limit is 60), nearly all of them for n = 6.
Expect 2, 6, 31, 302, 5,984 graphs; 2, 5, 20, 142, 2,201 classes (2,207 in the published data); 0, 3.33, 7.92, 14.65,
21.47% entailed (published: 0, 3.33, 7.50, 13.01, 18.85%); and no label on which the solvers differ.
"""

from __future__ import annotations

import argparse
import time

from evals.tasks.corr2cause.classes import FEWEST, MOST, SEMANTICS, MarkovClass, classes, positives
from evals.tasks.corr2cause.graphs import dags, pairs
from evals.tasks.corr2cause.relations import RELATIONS
from evals.tasks.corr2cause.solve import verdicts
from evals.tasks.corr2cause.words import hypothesis, letters, premise


def written(table: tuple[MarkovClass, ...], nodes: int) -> int:
    """Characters of all premises and hypotheses, each made once."""
    names = letters(nodes)
    asked = [hypothesis(kind, (names[i], names[j])).text for i, j in pairs(nodes) for kind in RELATIONS]
    return sum(len(premise(found.independent, names).text) + sum(map(len, asked)) for found in table)


def differences(table: tuple[MarkovClass, ...], nodes: int) -> tuple[int, int]:
    """Labels on which the second solver says something else, and all that it was asked; of what it can solve."""
    names = letters(nodes)
    wrong = asked = 0
    for found in table:
        try:
            follows = verdicts(premise(found.independent, names).text)
        except ValueError:  # no graph has these independences: a released premise
            continue
        for (a, b), held in follows.items():
            mask = found.entailed[names.index(a)][names.index(b)]
            wrong += len(held ^ {kind for bit, kind in enumerate(RELATIONS) if mask >> bit & 1})
            asked += len(RELATIONS)
    return wrong, asked


def main() -> None:
    """Print a line for each number of variables and semantics."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=MOST, help="variables at most")
    parser.add_argument("--semantics", choices=SEMANTICS, nargs="+", default=list(SEMANTICS))
    parser.add_argument("--solvers", action="store_true", help="compare every label with networkx's")
    chosen = parser.parse_args()
    for semantics in chosen.semantics:
        for nodes in range(FEWEST, chosen.most + 1):
            began = time.process_time()
            table = classes(nodes, semantics)
            held, asked = positives(nodes, semantics)
            size = written(table, nodes)
            took = time.process_time() - began
            print(
                f"{semantics} n={nodes}: {len(dags(nodes)):,} graphs, {len(table):,} classes, {held:,} of {asked:,} "
                f"entailed ({100 * held / asked:.2f}%), {size / 1e6:.2f} MB of text, {took:.2f} s of one core",
                flush=True,
            )
            if chosen.solvers:
                began = time.process_time()
                wrong, compared = differences(table, nodes)
                took = time.process_time() - began
                print(f"    solvers differ on {wrong:,} of {compared:,} labels, {took:.1f} s of one core", flush=True)


if __name__ == "__main__":
    main()
