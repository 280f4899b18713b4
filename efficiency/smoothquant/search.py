"""The alpha of a group that rounds its outputs best, on rows that calibration kept.

    loss(alpha) = |Q(X / s) Q(s W)^T - X W^T|^2 / |X W^T|^2        summed over the layers of the group

where Q rounds to 8 bits: rows of W with a scale each, X as the activations will be. No smoothing is a candidate, too,
so on the kept rows a group is never worse than without. A scale of the whole input is that of the maxima which
calibration saw, also where it will be taken as the input comes: the few rows kept seldom hold the largest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from efficiency.errors import InputError
from efficiency.int8.cpu import LEVELS
from efficiency.smoothquant.graph import Group
from efficiency.smoothquant.smooth import group_scales
from efficiency.smoothquant.statistics import KINDS, Statistics
from efficiency.smoothquant.weights import divided, matrix

GRID = tuple(step / 10 for step in range(2, 10))


@dataclass(frozen=True)
class Found:
    """What a search gave.

    Attributes:
        alpha: the best, None where no smoothing was.
        loss: its loss; 1 is as large as the output itself.
        plain: the loss without smoothing.
        losses: of each alpha of the grid.
    """

    alpha: float | None
    loss: float
    plain: float
    losses: dict[float, float]


def round_rows(
    x: Float[Tensor, "rows channels"], largest: Tensor | float | None = None
) -> Float[Tensor, "rows channels"]:
    """Numbers as 8 bits hold them, symmetric, with a scale for each row.

    Args:
        largest: absolute value that 127 stands for, above which numbers are cut; that of each row where None.
    """
    top = x.abs().amax(dim=-1, keepdim=True) if largest is None else torch.as_tensor(largest, device=x.device)
    scale = (top / LEVELS).clamp(min=torch.finfo(torch.float32).tiny)
    return (x / scale).round().clamp(-LEVELS, LEVELS) * scale


def group_loss(
    model: nn.Module,
    group: Group,
    statistics: Statistics,
    scales: Float[Tensor, " channels"] | None,
    *,
    activations: str = "token",
    memory_weight: float = 1.0,
    memory: bool = True,
    readers: tuple[str, ...] | None = None,
    rows: Mapping[str, Tensor] | None = None,
) -> float:
    """The loss of a group's outputs under scales, see above; the model is left as it is.

    Args:
        scales: None for no smoothing.
        memory_weight: of the mean over memory's rows against that over text.
        memory: whether the memory's rows are rounded at all.
        readers: layers that are to be quantised, all where None.
        rows: what the outputs of layers will be divided by before, see :func:`~.smooth.group_scales`.

    Raises:
        InputError: statistics without kept rows of this group.
    """
    if group.name not in statistics.samples:
        raise InputError(f"search: expected kept rows of {group.name}, got none; collect with samples=64 or more")
    weight = matrix(model.get_submodule(group.name))
    device = weight.device
    s = torch.ones(weight.shape[1], device=device) if scales is None else scales.float().to(device)
    weights = {"text": 1.0, "memory": memory_weight if memory else 0.0}
    channels = statistics.channels(group.name, memory=memory).to(device) / s
    wrong, whole = 0.0, 0.0
    for name in readers or group.readers:
        exact = divided(model.get_submodule(name), (rows or {}).get(name)).float()
        coarse = round_rows(exact * s)
        for kind in KINDS:
            x = statistics.samples[group.name][kind].to(device)
            if not len(x) or not weights[kind]:
                continue
            y = x @ exact.t()
            smooth = x / s
            found = round_rows(smooth, None if activations == "token" else channels.amax()) @ coarse.t()
            wrong += weights[kind] * float((found - y).square().sum() / len(x))
            whole += weights[kind] * float(y.square().sum() / len(x))
    return wrong / whole if whole else 0.0


def search_alpha(
    model: nn.Module,
    group: Group,
    statistics: Statistics,
    *,
    grid: Sequence[float] = GRID,
    activations: str = "token",
    memory_weight: float = 1.0,
    memory: bool = True,
    powers: bool = False,
    readers: tuple[str, ...] | None = None,
    rows: Mapping[str, Tensor] | None = None,
) -> Found:
    """The best alpha of a grid for one group; arguments as of :func:`group_loss`.

    Args:
        powers: whether scales are rounded to powers of two.
    """

    def loss(scales: Tensor | None) -> float:
        return group_loss(
            model,
            group,
            statistics,
            scales,
            activations=activations,
            memory_weight=memory_weight,
            memory=memory,
            readers=readers,
            rows=rows,
        )

    inputs = statistics.channels(group.name, memory_weight=memory_weight, memory=memory)
    plain = loss(None)
    losses = {a: loss(group_scales(model, group, inputs, a, powers=powers, readers=readers, rows=rows)) for a in grid}
    best = min(losses, key=losses.__getitem__)
    if losses[best] >= plain:
        return Found(None, plain, plain, losses)
    return Found(best, losses[best], plain, losses)
