"""How answers to a puzzle are scored: the whole table, the share of its cells, and labels of the reasoning's nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evals.scorers import Assessed
from evals.tasks.compositional.graph import LABELS, label
from evals.tasks.compositional.puzzle import scratch
from evals.tasks.compositional.puzzle.riddle import Riddle, parse_riddle
from evals.tasks.compositional.puzzle.steps import build, name


def puzzle(answered: Any, answers: Sequence[str], asked: str, option: str = "") -> Assessed:
    """1 where all cells of the table are right (arXiv 2305.18654, sec. 3), else 0.

    Detail: ``cells``, the share of cells that are right; with ``option`` "scratchpad" also ``labels``, how many nodes
    of the reasoning there are of each of the four labels of sec. 4.2, and ``layers``, the same by layer of the graph,
    a list of counts in the order of ``graph.LABELS`` for each.

    Args:
        answered: text with a table, and maybe reasoning before it.
        answers: the right table, as ``Riddle.table`` writes it.
        asked: the puzzle's text.
        option: "" or "scratchpad".
    """
    riddle = parse_riddle(asked)
    right, said = scratch.table(answers[0], riddle), scratch.table(str(answered), riddle)
    hits = sum(said.get(cell) == value for cell, value in right.items())
    detail: dict[str, Any] = {"cells": hits / len(right)}
    if option == "scratchpad":
        detail |= judge(riddle, str(answered))
    return Assessed(float(hits == len(right)), detail)


def judge(riddle: Riddle, text: str) -> dict[str, Any]:
    """``labels`` and ``layers`` of the nodes that a reasoning says (see ``puzzle``)."""
    graph = build(riddle)
    labels = label(graph, {name(item): house for item, house in scratch.cells(text, riddle).items()}, given=False)
    layers = [[0] * len(LABELS) for _ in range(graph.depth + 1)]
    for node, found in labels.items():
        layers[graph.layers[node]][LABELS.index(found)] += 1
    return {"labels": {each: sum(found == each for found in labels.values()) for each in LABELS}, "layers": layers}
