"""8-bit products on a GPU: rows to integers, alone or behind a norm or a gate, and the product with what follows it.

    y = activation((q W_q^T) s_row s_column + b) + residual,    q = round(x / s_row),  s_row = max|x| / 127 of each row

(SmoothQuant, arXiv 2211.10438, equations 1 and 2 and table 2.) Sums of integers are exact; what surrounds them is
computed in float32. :func:`support` says once a device which way is usable: Triton's kernels, of which a product also
takes ``torch._int_mm`` where that is faster (see ``triton_launch.choose``); ``torch._int_mm`` with torch's operations;
or the same numbers multiplied in floating point, slowly. Tensors on a CPU take the second, or the kernels in Triton's
interpreter. No gradients flow. Knows nothing of modules. ``Int8Linear`` uses :func:`int8_linear_cuda`,
:func:`quantise_rows` and :func:`int8_product`; rows behind a norm or a gate nothing here asks for yet.
"""

from __future__ import annotations

import importlib
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int8
from torch import Tensor

from efficiency.errors import InputError
from efficiency.int8 import cuda_torch
from efficiency.int8.cuda_torch import FUNCTIONS
from efficiency.int8.linear import ACTIVATIONS, LEVELS

NORMS = ("rms", "layer")
WAYS = ("auto", "triton", "library")


class Quantised(NamedTuple):
    """Rows of integers.

    Attributes:
        values: int8 (*rows, features).
        scale: float32 (*rows,); values times it are the rows. nan where a row held a number that is not finite.
    """

    values: Tensor
    scale: Tensor


@dataclass(frozen=True)
class Support:
    """What a device can do.

    Attributes:
        products: ``triton``, ``library`` (``torch._int_mm``) or ``plain`` (floating point).
        why: what stands in the way of the first, or of the second; empty where nothing does.
    """

    products: str
    why: str


def support(device: torch.device) -> Support:
    """Which products this device can do, found by trying small ones once in a process; warns where they are slow."""
    return _support(device.type, device.index if device.type == "cpu" else _index(device))


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


@cache
def _support(kind: str, index: int | None) -> Support:
    device = torch.device(kind) if index is None else torch.device(kind, index)
    # From a seed of its own, on the CPU: a probe must not move the generators that others draw from.
    draw = torch.Generator().manual_seed(0)
    drawn = [torch.randint(-LEVELS, LEVELS + 1, (40, 96), dtype=torch.int8, generator=draw) for _ in range(2)]
    values, weight = (x.to(device) for x in drawn)
    expected = (drawn[0].double() @ drawn[1].double().T).float()
    why = []
    with torch.inference_mode(), _on(device):
        for products in ("triton", "library"):
            try:
                total = _probed(products, values, weight)
            except Exception as error:  # whatever a compiler, a driver or a build of torch objects to
                said = (str(error).strip().splitlines() or [""])[0][:200]
                why.append(f"{products}: {type(error).__name__}: {said}")
                continue
            if torch.equal(total.float().cpu(), expected):
                break
            why.append(f"{products}: expected exact sums, got others")
        else:
            products = "plain"
    found = Support(products, "; ".join(why))
    if products == "plain":
        text = f"{device}: no product of 8-bit integers runs here ({found.why}); they are multiplied in floating point"
        warnings.warn(f"{text}, which saves memory but is slower than the model was", stacklevel=4)
    return found


def _probed(products: str, values: Tensor, weight: Tensor) -> Tensor:
    if products == "library":
        return cuda_torch.sums(values, weight)
    launch = _launch()
    if launch.interpreted() != (values.device.type == "cpu"):
        raise RuntimeError("Triton runs on a GPU, or in its interpreter on a CPU")
    kept, scale = launch.quantise(values.float(), torch.ones(1, device=values.device))
    one = torch.ones(len(weight), device=values.device)
    product = launch.Product(kept, weight, scale, one, None, None, None, torch.float32)
    total: Tensor = product.fused(launch.SIMPLE)
    return total


def _launch() -> ModuleType:
    return importlib.import_module("efficiency.int8.triton_launch")


def _on(device: torch.device) -> Any:
    """Triton launches on the current device, whatever that of its tensors is."""
    if device.type != "cuda" or _index(device) == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(device)


def _kernels(features: int, *tensors: Tensor) -> Any:
    """The module of launches where Triton takes such rows, else None.

    Raises:
        InputError: tensors of several devices, or of none that is known.
    """
    places = {t.device for t in tensors}
    if len(places) > 1 or tensors[0].device.type not in ("cpu", "cuda"):
        raise InputError(
            f"x: expected all tensors on one CPU or GPU, got {', '.join(sorted(map(str, places)))}; move them"
        )
    if support(tensors[0].device).products != "triton":
        return None
    launch = _launch()
    return launch if features <= launch.WIDEST else None


def _flat(x: Tensor, name: str) -> Tensor:
    """(rows, features) with features side by side, copied only where they are not."""
    if x.dim() < 1 or not x.is_floating_point() or x.shape[-1] == 0:
        raise InputError(f"{name}: expected (..., features) in floating point, got {x.dtype} of {tuple(x.shape)}")
    x = x.detach().reshape(-1, x.shape[-1])
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()


def _none(x: Tensor) -> Quantised:
    empty = torch.empty(x.shape, dtype=torch.int8, device=x.device)
    return Quantised(empty, torch.empty(x.shape[:-1], device=x.device))


def _shaped(found: tuple[Tensor, Tensor], like: Tensor) -> Quantised:
    return Quantised(found[0].reshape(like.shape), found[1].reshape(like.shape[:-1]))


def tensor_scale(x: Float[Tensor, " ..."]) -> Float[Tensor, " 1"]:
    """One scale of all of x, max|x| / 127 in float32 (the paper's O2)."""
    if x.numel() == 0:
        return torch.ones(1, device=x.device)
    most = torch.linalg.vector_norm(x.detach(), float("inf"), dtype=torch.float32)
    return (most / LEVELS).clamp(min=cuda_torch.TINY).reshape(1)


def quantise_rows(x: Float[Tensor, "*rows features"], *, scale: Float[Tensor, " 1"] | None = None) -> Quantised:
    """Rows as integers, each with a scale of its own, or all with a given one, which clips what is past it.

    Args:
        x: float32, float16 or bfloat16; need not be contiguous.
        scale: the paper's O2 or O3.

    Raises:
        InputError: no rows of floating point.
    """
    flat = _flat(x, "x")
    if len(flat) == 0:
        return _none(x)
    if (kernels := _kernels(flat.shape[1], flat)) is None:
        return _shaped(cuda_torch.quantise(flat, scale), x)
    with _on(x.device):
        return _shaped(kernels.quantise(flat, scale), x)


def norm_quantise(
    x: Float[Tensor, "*rows features"],
    weight: Float[Tensor, " of_norm"],
    bias: Float[Tensor, " of_norm"] | None = None,
    *,
    eps: float,
    kind: str = "rms",
    plus_one: bool = False,
    scale: Float[Tensor, " 1"] | None = None,
) -> Quantised:
    """:func:`quantise_rows` of a norm of x, in one kernel: the norm itself is never written.

    No layer of this library calls it: a norm and what reads it are modules of their own. For callers that write a
    model's layers out; compared with torch in Triton's interpreter, never timed on a GPU.

    Args:
        kind: ``rms`` for x / sqrt(mean(x^2) + eps) (arXiv 1910.07467, equation 4), ``layer`` for
            (x - mean) / sqrt(var + eps).
        plus_one: times 1 + weight, as Gemma has it.

    Raises:
        InputError: another kind, or a weight or bias of another size.
    """
    if kind not in NORMS:
        raise InputError(f"kind: expected one of {', '.join(NORMS)}, got {kind!r}; choose among these")
    flat = _flat(x, "x")
    for name, given in (("weight", weight), ("bias", bias)):
        if given is not None and given.shape != flat.shape[1:]:
            raise InputError(f"{name}: expected shape ({flat.shape[1]},), got {tuple(given.shape)}; is it this norm's?")
    if len(flat) == 0:
        return _none(x)
    weight, bias = weight.detach().contiguous(), None if bias is None else bias.detach().contiguous()
    layer = kind == "layer"
    if (kernels := _kernels(flat.shape[1], flat, weight)) is None:
        normed = cuda_torch.normed(flat, weight, bias, eps, layer, plus_one)
        return _shaped(cuda_torch.quantise(normed, scale), x)
    with _on(x.device):
        return _shaped(kernels.norm_quantise(flat, weight, bias, eps, layer, plus_one, scale), x)


def gated_quantise(
    gate: Float[Tensor, "*rows features"],
    up: Float[Tensor, "*as_gate"],
    *,
    activation: str = "silu",
    scale: Float[Tensor, " 1"] | None = None,
) -> Quantised:
    """:func:`quantise_rows` of activation(gate) * up in one kernel; both may be halves of one tensor.

    No layer of this library calls it, as with :func:`norm_quantise`; never timed on a GPU either.

    Raises:
        InputError: an unknown activation, or tensors of two shapes.
    """
    _known(activation)
    if gate.shape != up.shape:
        raise InputError(f"up: expected the shape of gate, {tuple(gate.shape)}, got {tuple(up.shape)}")
    left, right = _flat(gate, "gate"), _flat(up, "up")
    if len(left) == 0:
        return _none(gate)
    if (kernels := _kernels(left.shape[1], left, right)) is None:
        return _shaped(cuda_torch.quantise(cuda_torch.gated(left, right, activation), scale), gate)
    with _on(gate.device):
        return _shaped(kernels.gated_quantise(left, right, activation, scale), gate)


def _known(activation: str | None) -> None:
    if activation is not None and activation not in FUNCTIONS:
        raise InputError(
            f"activation: expected one of {', '.join(FUNCTIONS)} or none, got {activation!r}; apply it afterwards"
        )


def int8_product(
    x: Quantised,
    weight: Int8[Tensor, "out in"],
    weight_scale: Float[Tensor, " ..."],
    bias: Float[Tensor, " out"] | None = None,
    *,
    dtype: torch.dtype,
    activation: str | None = None,
    residual: Float[Tensor, "*as_result"] | None = None,
    way: str = "auto",
) -> Float[Tensor, "*rows out"]:
    """activation((q W_q^T) s_row s_column + b) + residual.

    Args:
        x: what one of the functions above gave.
        weight_scale: float32 (out,) or (out, 1).
        dtype: of the result.
        activation: of :data:`cuda_torch.FUNCTIONS`.
        way: where Triton runs, ``triton`` for its product, ``library`` for ``torch._int_mm`` and a kernel behind it,
            ``auto`` for the faster, timed at first use of a size.

    Raises:
        InputError: sizes that do not fit, an unknown activation or way.
    """
    _known(activation)
    if way not in WAYS:
        raise InputError(f"way: expected one of {', '.join(WAYS)}, got {way!r}; choose among these")
    out, inner = weight.shape
    shape = (*x.values.shape[:-1], out)
    if x.values.shape[-1] != inner or weight_scale.numel() != out or (bias is not None and bias.shape != (out,)):
        given = None if bias is None else tuple(bias.shape)
        raise InputError(
            f"x: expected {inner} features for a weight of {tuple(weight.shape)} with {out} scales and biases, got "
            f"{x.values.shape[-1]} features, {weight_scale.numel()} scales, bias {given}; are they one layer's?"
        )
    if residual is not None and residual.shape != shape:
        raise InputError(f"residual: expected the shape of the result, {shape}, got {tuple(residual.shape)}")
    values, row_scale = x.values.reshape(-1, inner), x.scale.reshape(-1)
    if len(values) == 0:
        return torch.empty(shape, dtype=dtype, device=weight.device)
    weight, column_scale = weight.detach().contiguous(), weight_scale.detach().reshape(-1)
    beside = None if residual is None else _flat(residual, "residual")
    bias = None if bias is None else bias.detach().contiguous()
    behind = (row_scale, column_scale, bias, activation, beside, dtype)
    if (kernels := _kernels(1, values, weight)) is None:
        real = support(weight.device).products == "plain"
        total = cuda_torch.dequantised(values, weight, dtype) if real else cuda_torch.sums(values, weight)
        return cuda_torch.finish(total, *behind).reshape(shape)
    product = kernels.Product(values, weight, *behind)
    with _on(weight.device):
        return product.by(kernels.choose(product, way)).reshape(shape)


def int8_linear_cuda(
    x: Float[Tensor, "*rows in"],
    weight: Int8[Tensor, "out in"],
    weight_scale: Float[Tensor, " ..."],
    bias: Float[Tensor, " out"] | None = None,
    *,
    activations: str = "token",
    input_scale: Float[Tensor, " 1"] | None = None,
    activation: str | None = None,
    residual: Float[Tensor, "*rows out"] | None = None,
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "*rows out"]:
    """A linear layer on 8-bit integers: :func:`quantise_rows`, then :func:`int8_product`.

    Rows that hold inf or nan come out as nan; with one scale for the whole tensor as it comes, all rows do. Under
    ``torch.compile`` it is one operation, ``efficiency::int8_linear``.

    Args:
        activations: ``token``, ``tensor`` or ``static``.
        input_scale: the scale where static.
        activation, residual: what follows; see :func:`int8_product`.
        dtype: of the result; that of x where None.

    Raises:
        InputError: static without a scale, an unknown way, sizes that do not fit, or an input that wants gradients.
    """
    if activations not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise InputError(f"activations: expected one of {known}, got {activations!r}; choose among these")
    if activations == "static" and input_scale is None:
        raise InputError("input_scale: expected a number for static activations, got none; calibrate, or use token")
    if torch.is_grad_enabled() and x.requires_grad:
        raise InputError("x: expected no gradients through integers, got an input that wants them; use torch.no_grad()")
    run = torch.ops.efficiency.int8_linear if torch.compiler.is_compiling() else _linear
    scale = input_scale if activations == "static" else None
    y: Tensor = run(x, weight, weight_scale, bias, activations, scale, activation, residual, dtype or x.dtype)
    return y


def _linear(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    activations: str,
    input_scale: Tensor | None,
    activation: str | None,
    residual: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    scale = tensor_scale(x) if activations == "tensor" else input_scale
    rows = quantise_rows(x, scale=scale)
    return int8_product(rows, weight, weight_scale, bias, dtype=dtype, activation=activation, residual=residual)


def _shape_only(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=rest[-1])


SCHEMA = (
    "(Tensor x, Tensor weight, Tensor weight_scale, Tensor? bias, str activations, Tensor? input_scale, "
    "str? activation, Tensor? residual, ScalarType dtype) -> Tensor"
)
_operation = torch.library.custom_op("efficiency::int8_linear", _linear, mutates_args=(), schema=SCHEMA)
_operation.register_fake(_shape_only)
