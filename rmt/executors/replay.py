"""The steady diagonal of a wavefront, with all layers at work, recorded once and replayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from rmt import orders
from rmt.cells.associative import Store
from rmt.executors.captured import Record, StaticStep, Tensors, cuda_graph
from rmt.layers import Call
from rmt.orders import Diagonal, Flight, LayeredCell
from rmt.stack import Stack


def replayed(cell: LayeredCell, stack: Stack, record: Record = cuda_graph) -> Diagonal:
    """As :func:`rmt.orders.stacked`, with full diagonals replayed; the first and last few, not full, run as they are.

    Args:
        cell: of a model in evaluation mode.
        stack: of its layers.
        record: how, see :class:`rmt.executors.captured.StaticStep`.
    """
    depth, as_is = cell.config.num_hidden_layers, orders.stacked(cell, stack)
    steps: dict[str, StaticStep] = {}

    def run(flights: Sequence[Flight], before: Store) -> tuple[Sequence[Tensor], Store, Sequence[Tensor]]:
        kinds = {str(f.hidden.shape) + f.calls[f.layer].kind() for f in flights}
        if len(flights) < depth or len(kinds) > 1:
            return as_is(flights, before)
        inputs, calls_of = _inputs(flights, before)
        written, kind = flights[0].laid.written, kinds.pop()

        def diagonal(tensors: Tensors) -> Tensors:
            at, held = slice(0, depth), Store(tensors["associations"], tensors["normalizers"])
            out = stack.run(at, cell.read(at, tensors["hidden"], held), calls_of(tensors))
            after, gates = cell.write(at, out[:, :, written], held, tensors["active"])
            return {
                "hidden": out,
                "associations": after.associations,
                "normalizers": after.normalizers,
                "gates": gates,
            }

        if kind not in steps:
            steps[kind] = StaticStep(diagonal, inputs, record)
        got = steps[kind](inputs)
        return got["hidden"].unbind(0), Store(got["associations"], got["normalizers"]), got["gates"].split(1)

    return run


def _inputs(flights: Sequence[Flight], before: Store) -> tuple[Tensors, Callable[[Tensors], list[Call]]]:
    """Every tensor of a diagonal by name, and what makes the calls of its layers out of them."""
    flat = [pytree.tree_flatten((f.calls[f.layer].args, f.calls[f.layer].kwargs)) for f in flights]
    fixed, form = flat[0]
    named = {n: f"call {n}" for n, leaf in enumerate(fixed) if isinstance(leaf, Tensor)}
    tensors = {name: torch.stack([leaves[n] for leaves, _ in flat]) for n, name in named.items()}
    tensors |= {
        "hidden": torch.stack([f.hidden for f in flights]),
        "associations": before.associations,
        "normalizers": before.normalizers,
        "active": torch.stack([f.segment.active for f in flights]),
    }

    def calls_of(tensors: Tensors) -> list[Call]:
        rows = [
            [tensors[named[n]][row] if n in named else leaf for n, leaf in enumerate(fixed)]
            for row in range(len(flights))
        ]
        return [Call(*pytree.tree_unflatten(row, form)) for row in rows]

    return tensors, calls_of
