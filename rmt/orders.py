"""Layers and segments in another order than segment by segment, for memory that is local to a layer.

With layer-local memory, layer l of segment s needs (l - 1, s) and (l, s - 1) only. So a layer may finish all segments
before the one above it begins (``layers``: backward then finishes a layer before it comes to the one below), and all
pairs with the same l + s may run together (``wavefront``; Sivtsov et al., arXiv 2506.05229, diagonal batching). Both
give what segment by segment gives, gradients included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rmt import layers
from rmt.cells.associative import State, Store
from rmt.cells.layout import Laid
from rmt.cells.tokens import CellOutput
from rmt.recurrence import cut
from rmt.segments import Segment
from rmt.stack import Stack, stack_of, unlike


@runtime_checkable
class LayeredCell(Protocol):
    """A cell with memory local to a layer: :class:`rmt.cells.associative.AssociativeMemoryCell`, or PEFT's wrapper."""

    config: Any
    family: Any

    def begin(self, backbone: nn.Module, segment: Segment) -> tuple[Laid, layers.Plan]:
        """A segment laid out, and what its layers are to be called with."""

    def layer(
        self,
        number: int,
        layer: nn.Module,
        hidden: Tensor,
        call: layers.Call,
        before: Store,
        written: slice,
        active: Tensor,
    ) -> tuple[Tensor, Store, Tensor]:
        """One layer of one segment."""

    def end(self, backbone: nn.Module, laid: Laid, hidden: Tensor, state: State, gates: Tensor) -> CellOutput:
        """What a segment gives once all layers have run."""

    def read(self, at: slice, hidden: Tensor, store: Store) -> Tensor:
        """Hidden states with what some layers hold for them added."""

    def write(self, at: slice, outputs: Tensor, before: Store, active: Tensor) -> tuple[Store, Tensor]:
        """What some layers hold after a segment, and gates."""


@dataclass(frozen=True)
class Flight:
    """A segment on its way through the layers.

    Attributes:
        segment: itself.
        laid: how it is laid out.
        calls: what each layer is called with.
        layer: the next to run.
        hidden: what that is given.
        gates: of the layers behind it.
        border: rows whose memory is cut before this segment.
    """

    segment: Segment
    laid: Laid
    calls: tuple[layers.Call, ...]
    layer: int
    hidden: Float[Tensor, "batch width hidden"]
    gates: tuple[Tensor, ...] = ()
    border: Tensor | None = None


# Flights whose next layers follow one another, and what these hold: hidden states, what they hold then, gates.
Diagonal = Callable[[Sequence[Flight], Store], tuple[Sequence[Tensor], Store, Sequence[Tensor]]]


def run(
    cell: LayeredCell,
    core: nn.Module,
    segments: Sequence[Segment],
    state: State,
    order: str,
    borders: Sequence[Tensor | None],
    checkpointed: bool = False,
) -> Iterator[CellOutput]:
    """What each segment gives, in order; the state is there behind the last one only, empty before.

    Args:
        cell, core: of a model.
        segments: of a batch of documents.
        state: before the first.
        order: ``layers`` or ``wavefront``, whose layers run one by one where they are not alike.
        borders: for each segment, rows whose memory is cut before it (:func:`rmt.recurrence.borders`).
        checkpointed: compute activations inside a layer, or a diagonal, again in backward.
    """
    if order == "layers":
        yield from layer_major(cell, core, segments, state, borders, checkpointed=checkpointed)
        return
    alike = not unlike(layers.layers_of(core, cell.family))
    how = stacked(cell, stack_of(core, cell.family), checkpointed=checkpointed) if alike else one_by_one(cell, core)
    for number, (flight, store) in enumerate(wavefront(cell, core, segments, state, how, iter(borders))):
        after = store.state() if number == len(segments) - 1 else {}
        yield cell.end(core, flight.laid, flight.hidden, after, torch.cat(flight.gates))


def layer_major(
    cell: LayeredCell,
    core: nn.Module,
    segments: Sequence[Segment],
    state: State,
    borders: Sequence[Tensor | None],
    *,
    checkpointed: bool = False,
) -> Iterator[CellOutput]:
    """What each segment gives, in order; the state is there behind the last one only, empty before.

    Keeps hidden states of every segment at every layer: what this order is for (gradients that are complete and can be
    freed layer by layer) is paid for with that.

    Args:
        cell, core: of a model.
        segments: in order.
        state: before the first.
        borders: for each segment, rows whose memory is cut before it (:func:`rmt.recurrence.borders`).
        checkpointed: compute activations inside a layer again in backward.
    """
    begun = [cell.begin(core, segment) for segment in segments]
    hidden = [plan.hidden for _, plan in begun]
    gates: list[list[Tensor]] = [[] for _ in segments]
    after = []
    for number, (layer, store) in enumerate(
        zip(layers.layers_of(core, cell.family), Store.of(state).split(), strict=True)
    ):
        for at, ((laid, plan), segment, border) in enumerate(zip(begun, segments, borders, strict=True)):
            given = (
                *(number, layer, hidden[at], plan.calls[number]),
                *(cut_rows(store, [border]), laid.written, segment.active),
            )
            hidden[at], store, gate = maybe_checkpoint(cell.layer, checkpointed, *given)
            gates[at].append(gate)
        after.append(store)
    last = len(segments) - 1
    for at, (laid, _) in enumerate(begun):
        yield cell.end(core, laid, hidden[at], Store.join(after).state() if at == last else {}, torch.cat(gates[at]))


def wavefront(
    cell: LayeredCell,
    core: nn.Module,
    segments: Iterable[Segment],
    state: State,
    run: Diagonal,
    borders: Iterator[Tensor | None] | None = None,
) -> Iterator[tuple[Flight, Store]]:
    """Each segment behind its last layer, in order, and what the layers hold at that moment.

    That is the memory once the last segment has come; before, upper layers are behind the lower ones. As many segments
    as there are layers are on their way at a time, so space does not grow with the length.

    Args:
        cell, core: of a model.
        segments: in order.
        state: before the first.
        run: how the pairs of a diagonal are run.
        borders: for each segment, rows whose memory is cut before it; None for none.
    """
    depth = cell.config.num_hidden_layers
    stream, store = iter(segments), Store.of(state)
    flights: list[Flight] = []  # newest first: their next layers follow one another
    while True:
        segment = next(stream, None)
        if segment is not None:
            border = None if borders is None else next(borders)
            laid, plan = cell.begin(core, segment)
            flights.insert(0, Flight(segment, laid, plan.calls, 0, plan.hidden, border=border))
        if not flights:
            return
        at = slice(flights[0].layer, flights[-1].layer + 1)
        hidden, after, gates = run(flights, cut_rows(store.at(at), [f.border for f in flights]))
        store = (
            after
            if at == slice(0, depth)
            else Store.join([store.at(slice(at.start)), after, store.at(slice(at.stop, None))])
        )
        flights = [
            replace(f, layer=f.layer + 1, hidden=h, gates=(*f.gates, gate))
            for f, h, gate in zip(flights, hidden, gates, strict=True)
        ]
        if flights[-1].layer == depth:
            yield flights.pop(), store


def one_by_one(cell: LayeredCell, core: nn.Module, each: Callable[..., Any] | None = None) -> Diagonal:
    """The pairs of a diagonal each by itself: right for all layers, alike or not.

    Args:
        cell, core: of a model.
        each: maps a function over the pairs, such as :func:`rmt.executors.side_by_side.each`; None for in turn.
    """
    stack = layers.layers_of(core, cell.family)

    def one(pair: tuple[Flight, Store]) -> tuple[Tensor, Store, Tensor]:
        f, store = pair
        return cell.layer(f.layer, stack[f.layer], f.hidden, f.calls[f.layer], store, f.laid.written, f.segment.active)

    def run(flights: Sequence[Flight], before: Store) -> tuple[Sequence[Tensor], Store, Sequence[Tensor]]:
        pairs = list(zip(flights, before.split(), strict=True))
        hidden, after, gates = zip(*(map(one, pairs) if each is None else each(one, pairs)), strict=True)
        return hidden, Store.join(list(after)), gates

    return run


def stacked(cell: LayeredCell, stack: Stack, *, checkpointed: bool = False) -> Diagonal:
    """The pairs of a diagonal as one batch, or a few, where the last segments are narrower or have other masks.

    Args:
        cell: of a model.
        stack: of its layers.
        checkpointed: compute activations inside a diagonal again in backward.
    """

    def group(flights: Sequence[Flight], before: Store) -> tuple[Sequence[Tensor], Store, Sequence[Tensor]]:
        at = slice(flights[0].layer, flights[-1].layer + 1)
        calls = [f.calls[f.layer] for f in flights]
        active = torch.stack([f.segment.active for f in flights])
        written = flights[0].laid.written

        def diagonal(hidden: Tensor, before: Store) -> tuple[Tensor, Store, Tensor]:
            out = stack.run(at, cell.read(at, hidden, before), calls)
            return out, *cell.write(at, out[:, :, written], before, active)

        hidden = torch.stack([f.hidden for f in flights])
        out, after, gates = maybe_checkpoint(diagonal, checkpointed, hidden, before)
        return out.unbind(0), after, gates.split(1)

    def run(flights: Sequence[Flight], before: Store) -> tuple[Sequence[Tensor], Store, Sequence[Tensor]]:
        hidden: list[Tensor] = []
        gates: list[Tensor] = []
        after, start = [], 0
        for _, alike in groupby(flights, lambda f: (f.hidden.shape, f.calls[f.layer].kind())):
            some = list(alike)
            out = group(some, before.at(slice(start, start + len(some))))
            start += len(some)
            hidden += out[0]
            after.append(out[1])
            gates += out[2]
        return hidden, Store.join(after), gates

    return run


def maybe_checkpoint(function: Callable[..., Any], checkpointed: bool, *args: Any) -> Any:
    """Call it, as a checkpoint where that is wanted and there is a gradient."""
    if checkpointed and torch.is_grad_enabled():
        return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=True)
    return function(*args)


def cut_rows(store: Store, borders: Sequence[Tensor | None]) -> Store:
    """What layers hold with no gradient through the rows of their border, one border a layer."""
    if all(border is None for border in borders):
        return store
    parts = [
        part
        if border is None
        else Store(*(cut(t.transpose(0, 1), border).transpose(0, 1) for t in (part.associations, part.normalizers)))
        for part, border in zip(store.split(), borders, strict=True)
    ]
    return Store.join(parts)
