"""What the rows of compositional tasks say beyond a mean: accuracy by size and by depth, labels of nodes by layer.

For any task whose rows have ``size`` and ``depth`` in their detail, and, with scratchpads, ``layers`` and ``unsaid`` as
``scratchpads.labelled`` gives them. Only the score itself is looked at, no control. Knows no task.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from evals.breakdowns import Breakdown, Entry, Estimate, of_memory
from evals.rows import Row
from evals.stats import bootstrap, wilson
from evals.tasks.compositional.graph import LABELS

# Parts of an answer that may be right where the whole is not: name in a row's detail, head of the column.
PARTS = {"first": "first digit", "last": "last digit", "allowed": "allowed"}
_RESAMPLES = 2000  # of a bootstrap; a table may have hundreds


def tables(rows: Sequence[Row]) -> list[Breakdown]:
    """Accuracy by size, accuracy by depth, and shares of labels by layer of the graph, at each length."""
    lengths = of_memory(rows)
    made = [_accuracy(rows, lengths, name, parts) for name, parts in (("size", True), ("depth", False))]
    return [table for table in [*made, _labels(rows, lengths)] if table.lines]


def _accuracy(rows: Sequence[Row], lengths: dict[int, list[Row]], name: str, parts: bool) -> Breakdown:
    """Accuracy at each length by an entry of the detail."""
    shown = [part for part in PARTS if parts and any(part in (row.detail or {}) for row in rows)]
    lines: list[tuple[Entry, ...]] = []
    for length, at in lengths.items():
        for value in sorted({(row.detail or {})[name] for row in at if name in (row.detail or {})}, key=_natural):
            group = [row for row in at if (row.detail or {}).get(name) == value]
            shares = [_mean(group, [float((row.detail or {}).get(part, 0)) for row in group]) for part in shown]
            lines.append((length, value, _mean(group, [row.value for row in group]), *shares))
    heads = ("tokens", name, "accuracy", *(PARTS[part] for part in shown))
    note = "Intervals are 95%, Wilson's, or a bootstrap over documents where they have several questions."
    return Breakdown(_task(rows), f"Accuracy by {name}", heads, tuple(lines), note)


def _labels(rows: Sequence[Row], lengths: dict[int, list[Row]]) -> Breakdown:
    """Shares of the four labels among the nodes that scratchpads state, of all layers and of each."""
    lines: list[tuple[Entry, ...]] = []
    for length, at in lengths.items():
        worked = [row for row in at if "layers" in (row.detail or {})]
        if not worked:
            continue
        documents = _documents(worked)
        unsaid = [((row.detail or {}).get("unsaid", 0), own) for row, own in zip(worked, documents, strict=True)]
        every = [list(_nodes(row)) for row in worked]
        labelled = [(label, own) for own, nodes in zip(documents, every, strict=True) for _, label in nodes]
        stated = [(1.0, document) for _, document in labelled]
        stated += [(0.0, document) for count, document in unsaid for _ in range(count)]
        lines.append((length, "all", len(labelled), *_shares(labelled), _ratio(stated)))
        for layer in sorted({layer for nodes in every for layer, _ in nodes}, key=_natural):
            found = zip(documents, every, strict=True)
            part = [(label, document) for document, nodes in found for at_layer, label in nodes if at_layer == layer]
            lines.append((length, layer, len(part), *_shares(part), None))
    heads = ("tokens", "layer", "nodes", *LABELS, "stated")
    note = (
        "Shares of the nodes that scratchpads state; a layer is the longest way from what is given. Intervals are 95%, "
        "a bootstrap over documents (Wilson's, with documents as the sample, where all nodes are alike)."
    )
    return Breakdown(_task(rows), "Labels of nodes by layer", heads, tuple(lines), note)


def _nodes(row: Row) -> Iterator[tuple[str, str]]:
    """Layer and label of each node that a row's scratchpad states."""
    for layer, counts in (row.detail or {})["layers"].items():
        for label, count in counts.items():
            yield from [(layer, label)] * count


def _shares(labelled: Sequence[tuple[str, int]]) -> list[Estimate | None]:
    return [_ratio([(float(label == name), document) for label, document in labelled]) for name in LABELS]


def _mean(rows: Sequence[Row], values: Sequence[float]) -> Estimate:
    """Mean of one value of each row, at least one."""
    documents = _documents(rows)
    if set(values) <= {0.0, 1.0} and len(set(documents)) == len(documents):
        return Estimate(sum(values) / len(values), wilson(int(sum(values)), len(values)), len(values))
    interval = bootstrap(values, clusters=documents, resamples=_RESAMPLES)
    return Estimate(sum(values) / len(values), interval, len(values))


def _documents(rows: Sequence[Row]) -> list[int]:
    """A number for each row, the same for rows of one document: not its place, which another call may give again."""
    numbers = {digest: number for number, digest in enumerate(dict.fromkeys(row.digest for row in rows))}
    return [numbers[row.digest] for row in rows]


def _ratio(values: Sequence[tuple[float, int]]) -> Estimate | None:
    """Mean of values of nodes, which are not independent within a document; None of nothing."""
    if not values:
        return None
    numbers, documents = [value for value, _ in values], [document for _, document in values]
    share = sum(numbers) / len(numbers)
    if share in (0.0, 1.0):
        n = len(set(documents))
        return Estimate(share, wilson(int(share) * n, n), len(numbers))
    return Estimate(share, bootstrap(numbers, clusters=documents, resamples=_RESAMPLES), len(numbers))


def _natural(value: Any) -> tuple[tuple[int, ...], str]:
    """So that 10 stands behind 9, and 2x10 behind 2x9."""
    return tuple(int(number) for number in re.findall(r"[0-9]+", str(value))), str(value)


def _task(rows: Sequence[Row]) -> str:
    return rows[0].task if rows else ""
