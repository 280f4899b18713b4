"""What a run of puzzles says beyond its mean: by size, by depth of the graph, and what nodes of scratchpads are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import Any

from evals.breakdowns import Breakdown, Entry, Estimate, of_memory
from evals.rows import Row
from evals.stats import wilson, wilson_clustered
from evals.tasks.compositional.graph import LABELS


def puzzle(rows: Sequence[Row]) -> list[Breakdown]:
    """Tables of the score itself (control "memory"), by length: one by size, one by depth; two of labels if any."""
    lengths = {length: [row for row in own if row.detail] for length, own in of_memory(rows).items()}
    tables = [
        _scores(lengths, "size", "Solved puzzles by size", "Size is houses x attributes."),
        _scores(
            lengths, "depth", "Solved puzzles by depth of reasoning",
            "Depth is the longest chain of cells in the computation graph, each made of the one before.",
        ),
    ]  # fmt: skip
    judged = {length: [row for row in own if row.detail and "labels" in row.detail] for length, own in lengths.items()}
    if any(judged.values()):
        tables += [_labels(judged), _layers(judged)]
    return [table for table in tables if table.lines]


def _scores(lengths: dict[int, list[Row]], key: str, title: str, note: str) -> Breakdown:
    lines: list[tuple[Entry, ...]] = []
    for length, own in lengths.items():
        for value, group in _groups(own, lambda row: _detail(row).get(key)):
            solved = sum(row.correct for row in group)
            share = [float(_detail(row).get("cells", 0.0)) for row in group]
            lines.append(
                (
                    length,
                    value,
                    Estimate(solved / len(group), wilson(solved, len(group)), len(group)),
                    Estimate(fmean(share), wilson_clustered(share, [1] * len(share)), len(share)),
                )
            )
    return Breakdown("puzzle", title, ("tokens", key, "solved", "right cells"), tuple(lines), note)


def _labels(lengths: dict[int, list[Row]]) -> Breakdown:
    lines: list[tuple[Entry, ...]] = []
    for length, own in lengths.items():
        for size, group in _groups(own, lambda row: _detail(row).get("size")):
            counts = [sum(_detail(row)["labels"].get(name, 0) for row in group) for name in LABELS]
            nodes = sum(int(_detail(row).get("nodes", 0)) for row in group)
            said = Estimate(sum(counts) / nodes, None, nodes) if nodes else None
            lines.append((length, size, said, *_shares(counts)))
    note = (
        "Shares of the nodes that scratchpads say, pooled; said is the share of all nodes (arXiv 2305.18654, sec. 4.2)."
    )
    return Breakdown("puzzle", "Nodes of scratchpads by size", ("tokens", "size", "said", *LABELS), tuple(lines), note)


def _layers(lengths: dict[int, list[Row]]) -> Breakdown:
    lines: list[tuple[Entry, ...]] = []
    for length, own in lengths.items():
        for layer in range(max((len(_detail(row)["layers"]) for row in own), default=0)):
            deep = [_detail(row)["layers"][layer] for row in own if len(_detail(row)["layers"]) > layer]
            counts = [sum(each[place] for each in deep) for place in range(len(LABELS))]
            if sum(counts):
                lines.append((length, layer, *_shares(counts)))
    note = "Layer 0 takes clues alone; each further layer takes at least one cell of the layer before."
    return Breakdown("puzzle", "Nodes of scratchpads by layer", ("tokens", "layer", *LABELS), tuple(lines), note)


def _shares(counts: Sequence[int]) -> list[Estimate | None]:
    """No interval: nodes of one scratchpad are not independent."""
    total = sum(counts)
    return [Estimate(count / total, None, total) if total else None for count in counts]


def _groups(rows: Iterable[Row], of: Callable[[Row], Any]) -> list[tuple[Any, list[Row]]]:
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        if of(row) is not None:
            groups.setdefault(of(row), []).append(row)
    return sorted(groups.items())


def _detail(row: Row) -> dict[str, Any]:
    return dict(row.detail or {})
