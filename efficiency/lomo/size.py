"""What gradients take of memory where an optimizer frees them, from shapes: no step is made, no weight is needed.

Deferred, at the end of backward: of each weight what the rule of :mod:`efficiency.lomo.stash` lets it keep,

    min(bytes of the factors of all its calls, bytes of the weight),

and whole gradients of all others. Early: a gradient is gone as soon as it is complete, so it depends on the order of
backward. *early* is the order of autograd: one gradient after another where a weight is used once, and all at a time
where it is used segment by segment; *layers* finishes the layers of a list one after another, as layer-local memory
allows: one of them at a time, and with it whatever lies outside of lists. While gradients are summed and applied, there
is some more, which is a row of its own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from efficiency.errors import InputError
from efficiency.lomo.defer import deferrable, deferred
from efficiency.lomo.optimizer import piece_of

WAYS = ("deferred", "early", "layers")
UPDATE = "update"  # the row of what is there while gradients are summed and applied
# Numbers of a piece that an update has alive at a time: a gradient, and what AdaLomo makes of it in float32.
ALIVE = {"lomo": 1, "adalomo": 4}


@contextmanager
def counted(model: nn.Module) -> Iterator[Counter[int]]:
    """Inside, bytes of factors that one forward would leave of each weight that could be deferred, by the weight's id.

    Numbers are counted in the dtype of a layer's output: that of autocast, where it is on.
    """
    found: Counter[int] = Counter()
    handles = [
        module.register_forward_hook(factors_of(module, found))
        for module in (*deferrable(model), *deferred(model))
        if module.weight.requires_grad
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def factors_of(module: nn.Module, found: Counter[int]) -> Any:
    """A forward hook that counts what :class:`efficiency.lomo.stash.Stash` would keep of a call."""

    def count(module: nn.Module, args: Any, out: Tensor) -> None:
        size, rows = out.element_size(), out.numel() // max(1, out.shape[-1])
        if isinstance(module, nn.Linear):
            found[id(module.weight)] += rows * (module.in_features + module.out_features) * size
        elif isinstance(module, nn.Embedding):
            found[id(module.weight)] += rows * (8 + module.embedding_dim * size)

    return count


def gradients_of(
    model: nn.Module, optimizer: str, way: str, factors: Counter[int], times: int
) -> Iterator[tuple[str, int]]:
    """Names of parameters, and the bytes that their gradients take when most are there; then :data:`UPDATE`.

    Args:
        model: whose parameters that require a gradient are trained.
        optimizer: a key of :data:`ALIVE`.
        way: one of :data:`WAYS`.
        factors: of one forward, by :func:`counted`.
        times: how often that is repeated before one backward.

    Raises:
        InputError: an unknown way.
    """
    if way not in WAYS:
        raise InputError(f"freeing: expected one of {', '.join(WAYS)}, got {way!r}; choose one of these")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trained:
        return
    sizes = {name: p.numel() * p.element_size() for name, p in trained.items()}
    piece, largest = piece_of(sum(sizes.values())), max(sizes.values())
    if way == "deferred":
        kept = {name: times * factors[id(p)] for name, p in trained.items()}
        held = {name: min(kept[name] or size, size) for name, size in sizes.items()}
        yield from held.items()
        yield UPDATE, max(formed(kept[name], size, piece, times, ALIVE[optimizer]) for name, size in sizes.items())
        return
    if way == "layers":
        layers: Counter[str] = Counter()
        for name, size in sizes.items():
            layers[layer_of(name)] += size
        most = max((layer for layer in layers if layer), key=layers.__getitem__, default="")
        alive = {name: size for name, size in sizes.items() if layer_of(name) in ("", most)}
    else:
        alive = sizes if times > 1 else {}
    yield from alive.items()
    # What is gathered until it is a piece, and the part of a gradient that is being added.
    yield UPDATE, largest + ALIVE[optimizer] * min(piece, largest)


def formed(kept: int, size: int, piece: int, times: int, alive: int) -> int:
    """Bytes at most besides what was kept of a deferred weight while it is updated.

    Where nothing is clipped and formats are alike the product is added to the weight at once, and no piece is formed.

    Args:
        kept: bytes of its factors, were they all kept; 0 if its gradient is there in full anyhow.
        size: of the weight.
        piece: of a gradient.
        times: how many calls there were at least.
        alive: pieces at a time, the gradient's own among them.
    """
    if not 0 < kept <= size:
        return (alive - 1) * min(piece, size)
    # The factors of several calls are laid side by side.
    return (kept if times > 1 else 0) + alive * min(piece, size)


def layer_of(name: str) -> str:
    """The member of a list that a parameter is in, such as ``model.layers.3``; empty if in none."""
    found = re.match(r".*?\.\d+(?=\.)", name)
    return found[0] if found else ""
