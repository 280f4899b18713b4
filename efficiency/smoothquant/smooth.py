"""Scales that move the difficulty of quantising from activations to weights, and their folding into a model.

    s_j = max|X_j|^alpha / max|W_j|^(1 - alpha)        X' = X diag(s)^-1,  W' = diag(s) W

(SmoothQuant, arXiv 2211.10438, eq. 3 and 4; there W is (in, out)). Scales may be rounded to powers of two: then no
product, sum or norm is rounded differently, in any floating format, and folding changes no bit of an output (Gemma's,
whose gain is 1 + w, excepted). That leaves 8-bit layers more error, so it is not the default; what it costs is
measured in scripts/bench/smoothing.py.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from efficiency.errors import InputError
from efficiency.smoothquant.graph import Group
from efficiency.smoothquant.multiply import multiply_input
from efficiency.smoothquant.weights import (
    divide_norm,
    divide_rows,
    divided,
    divided_bias,
    divided_norm,
    multiply_columns,
    sizes,
)

LEAST, MOST = 2.0**-16, 2.0**16  # of a scale


def check_alpha(alpha: float) -> float:
    """The number itself.

    Raises:
        InputError: outside 0 to 1.
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha: expected a number from 0 to 1, got {alpha}; 0.5 suits most models")
    return float(alpha)


def smoothing_scales(
    inputs: Float[Tensor, " channels"], weights: Float[Tensor, " channels"], alpha: float, *, powers: bool = False
) -> Float[Tensor, " channels"]:
    """Eq. 4 for each channel, float32.

    Args:
        inputs: largest absolute value of each channel of the activations, max|X_j|.
        weights: that of each column of the weights which read it, max|W_j|.
        alpha: how much of the difficulty moves to the weights, 0 to 1.
        powers: round to the nearest power of two.

    A channel that is dead on either side (zero, or not finite) gets 1.

    Raises:
        InputError: ``alpha`` outside 0 to 1.
    """
    check_alpha(alpha)
    x, w = inputs.float(), weights.float()
    scale = x.pow(alpha) / w.pow(1 - alpha)
    alive = (x > 0) & (w > 0) & torch.isfinite(scale) & (scale > 0)
    scale = torch.where(alive, scale, torch.ones_like(scale))
    if powers:
        scale = torch.exp2(scale.log2().round())
    return scale.clamp(LEAST, MOST)


def by_row(group: Group, values: Float[Tensor, " channels"], outputs: int) -> Float[Tensor, " rows"]:
    """Maximum of the channels that come from each output of the group's producer; zero where none does."""
    assert group.rows is not None
    rows = group.rows.to(values.device)
    return torch.zeros(outputs, device=values.device).scatter_reduce(0, rows, values.float(), "amax")


def group_scales(
    model: nn.Module,
    group: Group,
    inputs: Float[Tensor, " channels"],
    alpha: float,
    *,
    powers: bool = False,
    readers: tuple[str, ...] | None = None,
    rows: Mapping[str, Tensor] | None = None,
) -> Float[Tensor, " channels"]:
    """Scales of a group's input, one a channel; channels of a value that several heads share have one.

    Args:
        inputs: max|X_j|.
        readers: whose weights count, those that are to be quantised; all where None.
        rows: what the outputs of layers will be divided by before, by name, where they have not been yet.
    """
    weights = [divided(model.get_submodule(name), (rows or {}).get(name)) for name in readers or group.readers]
    columns = torch.stack([weight.abs().amax(dim=0).float() for weight in weights]).amax(dim=0)
    inputs = inputs.to(columns.device)
    if group.kind != "linear":
        return smoothing_scales(inputs, columns, alpha, powers=powers)
    assert group.rows is not None
    outputs = sizes(model.get_submodule(group.producer))[0]
    scales = smoothing_scales(by_row(group, inputs, outputs), by_row(group, columns, outputs), alpha, powers=powers)
    return scales[group.rows.to(scales.device)]


def producer_rows(model: nn.Module, group: Group, scales: Float[Tensor, " channels"]) -> Float[Tensor, " out"]:
    """What the outputs of a linear group's producer are to be divided by, ones where nothing reads them."""
    assert group.rows is not None
    ones = torch.ones(sizes(model.get_submodule(group.producer))[0], device=scales.device)
    return ones.index_put((group.rows.to(scales.device),), scales.float())


@torch.no_grad()
def foresee(
    model: nn.Module, group: Group, scales: Float[Tensor, " channels"], rows: Mapping[str, Tensor]
) -> tuple[Float[Tensor, " channels"], dict[str, Tensor]]:
    """What :func:`fold` will do, with the model left as it is.

    Args:
        rows: what the outputs of layers will be divided by before, by name, as groups before this one had it.

    Returns:
        the scales that will be applied, and ``rows`` with this group's producer.

    Raises:
        InputError: a number that its format cannot hold: float16 ends at 65,504, and scales may be 65,536.
    """
    rows, producer = dict(rows), None if group.kind == "input" else model.get_submodule(group.producer)
    applied = scales.float()
    if group.kind == "norm":
        applied, *made = divided_norm(producer, applied)
        _check_finite(group.producer, *made)
    elif group.kind == "linear":
        rows[group.producer] = producer_rows(model, group, applied)
        parts = divided(producer, rows[group.producer]), divided_bias(producer, rows[group.producer])
        _check_finite(group.producer, *parts)
    for name in group.readers:
        weight = divided(model.get_submodule(name), rows.get(name))
        _check_finite(name, (weight.float() * applied).to(weight.dtype))
    return applied, rows


def _check_finite(name: str, *parts: Tensor | None) -> None:
    for part in parts:
        if part is not None and not all(torch.isfinite(most) for most in part.aminmax()):
            raise InputError(
                f"{name}: expected numbers that {part.dtype} holds once it is smoothed, got larger ones; smooth the "
                "model in bfloat16 or float32, or leave outliers where they are with a smaller alpha"
            )


@torch.no_grad()
def fold(model: nn.Module, group: Group, scales: Float[Tensor, " channels"]) -> Float[Tensor, " channels"]:
    """Divide a group's input by scales and multiply the weights that read it, in place and in float32.

    Into a norm or linear layer where one carries them: no operation is added. An ``input`` group's layers become
    :class:`~efficiency.smoothquant.multiply.MultipliedLinear`, which multiply once more at run time.

    Args:
        scales: positive; of a linear producer the same for all channels that come from one output.

    Returns:
        the scales that were applied, which rounding may have changed (:func:`~.weights.divided_norm`).
    """
    scales = scales.float()
    if group.kind == "norm":
        scales = divide_norm(model.get_submodule(group.producer), scales)
    elif group.kind == "linear":
        divide_rows(model.get_submodule(group.producer), producer_rows(model, group, scales))
    for name in group.readers:
        multiply_columns(model.get_submodule(name), scales)
        if group.kind == "input":
            multiply_input(model, name, 1 / scales)
    return scales
