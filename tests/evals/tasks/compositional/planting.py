"""Errors planted in a scratchpad: at a node, with all that follows from it worked out rightly."""

from __future__ import annotations

from evals.tasks.compositional.graph import CORRECT, LOCAL, PROPAGATION, RESTORATION


def steps(problem):
    """Nodes that a scratchpad states."""
    return [node for node in problem.graph.nodes if node.parents]


def follow(problem, planted):
    """All values of one who computes rightly but for the planted ones; None where a value cannot be gone on from."""
    said = {}
    for node in problem.graph.nodes:
        try:
            said[node.name] = planted.get(node.name, node.compute(*(said[parent] for parent in node.parents)))
        except ValueError:
            return None
    return said


def other(rng, value):
    """Another value that a scratchpad might give."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        place = rng.randrange(len(value))
        return tuple(3 - each if at == place else each for at, each in enumerate(value))
    return value + rng.choice((1, 2, 9, 10))


def below(problem, name):
    found = {name}
    for node in problem.graph.nodes:
        if found & set(node.parents):
            found.add(node.name)
    return found - {name}


def planted(problem, rng):
    """Values with a local error at a random node, and below it one restored value where there is one to restore.

    Returns the values and what each node's label must be, from the paper's words and without ``label``: all that comes
    behind a wrong step is propagated, but for what is set right without following.
    """
    right = problem.graph.values
    name = rng.choice([node.name for node in steps(problem)])
    wrong = {name: other(rng, right[name])}
    said = follow(problem, wrong)
    strayed = [node for node in below(problem, name) if said[node] != right[node]]
    labels = dict.fromkeys((node.name for node in steps(problem)), CORRECT)
    labels |= {name: LOCAL} | dict.fromkeys(below(problem, name), PROPAGATION)
    if strayed and rng.random() < 0.5:
        node = rng.choice(sorted(strayed))
        said = follow(problem, wrong | {node: right[node]})
        labels[node] = RESTORATION
    return said, labels
