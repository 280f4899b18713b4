"""Layers that are alike as one: their weights side by side in one tensor, all of them run in one batched call.

Knows nothing of memory. The weights exist once: after :func:`stack_of` the parameters of each layer are views of the
stacked tensors, and stay usable, trainable and savable as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from rmt import layers
from rmt.backbone import Family
from rmt.errors import InputError

_known: WeakKeyDictionary[nn.Module, Stack] = WeakKeyDictionary()
_making = Lock()
# Of a module: its own tables, and what may differ between layers that do the same.
NO_MATTER = ("layer_idx", "training", "_parameters", "_buffers", "_modules", "_is_hf_initialized")


def stack_of(core: nn.Module, family: Family) -> Stack:
    """The stack of a base model's layers; made at the first call, or where weights have moved since.

    Raises:
        InputError: the layers are not alike.
    """
    # Views of a base model, such as one that sees images, share its list of layers, and so one stack.
    home = core.get_submodule(family.layers)
    with _making:
        found = _known.get(home)
        if found is None or not found.holds(layers.layers_of(core, family)):
            found = _known[home] = Stack(layers.layers_of(core, family))
        return found


def unlike(some: Sequence[nn.Module]) -> str:
    """Why layers cannot be stacked; empty where they can."""

    def shape(layer: nn.Module) -> list[Any]:
        return [(n, t.shape, t.dtype, t.device) for n, t in _tensors(layer).items()]

    def kind(layer: nn.Module) -> str:
        return str(
            [
                (name, type(m), sorted((k, _facts(v)) for k, v in vars(m).items() if k not in NO_MATTER))
                for name, m in layer.named_modules()
            ]
        )

    for number, layer in enumerate(some):
        if shape(layer) != shape(some[0]):
            return f"layer {number} has other weights than layer 0"
        if kind(layer) != kind(some[0]):
            return f"layer {number} is set up otherwise than layer 0"
        if any(m._forward_hooks or m._forward_pre_hooks for m in layer.modules()):
            return f"layer {number} has hooks, which a batch of layers would not call"
        if any(t.dtype == torch.int8 for t in layer.parameters()):
            return f"layer {number} has 8-bit weights, whose products have no batched form"
        # Such as 4-bit weights, which hold more than their numbers; as views of a stack they would lose it.
        if packed := [type(p).__name__ for p in layer.parameters() if nn.Parameter in type(p).__mro__[1:]]:
            return f"layer {number} has weights of a kind of their own ({packed[0]}), not plain parameters"
    return ""


class Stack:
    """Layers of one kind, run together.

    Args:
        some: layers; their parameters become views of the stacked ones.

    Raises:
        InputError: the layers are not alike.
    """

    def __init__(self, some: Sequence[nn.Module]) -> None:
        if reason := unlike(some):
            raise InputError(f"wavefront: expected layers that are alike, got: {reason}; run them one by one")
        self.layers = list(some)
        self.storage: dict[str, Tensor] = {}
        tables = [_tensors(layer) for layer in some]
        # Outside inference mode, or what becomes the layers' own weights could not be trained.
        with torch.inference_mode(False), torch.no_grad():
            for name in tables[0]:
                whole = torch.stack([table[name].detach() for table in tables])
                for table, part in zip(tables, whole, strict=True):
                    table[name].data = part
                self.storage[name] = whole

    def holds(self, some: Sequence[nn.Module]) -> bool:
        """Whether these are the layers, and their weights still views of the stack."""
        if len(some) != len(self.layers) or any(a is not b for a, b in zip(some, self.layers, strict=True)):
            return False
        return (
            all(
                tensor.data_ptr() == self.storage[name][number].data_ptr() and tensor.dtype == self.storage[name].dtype
                for number, layer in enumerate(some)
                for name, tensor in _tensors(layer).items()
                if name in self.storage
            )
            and self.storage.keys() == _tensors(some[0]).keys()
        )

    def run(
        self, at: slice, hidden: Float[Tensor, "layers batch width hidden"], calls: Sequence[layers.Call]
    ) -> Float[Tensor, "layers batch width hidden"]:
        """Some layers, each on hidden states of its own.

        On a CPU the fused attention kernel has no batched form, so it runs layer by layer there, with a warning of
        torch's: ask for ``attn_implementation="eager"``.

        Args:
            at: which layers.
            hidden: what each is given.
            calls: what each is called with beside that.
        """
        tables = [_tensors(layer) for layer in self.layers[at]]
        weights = {
            name: _Views.apply(whole[at], *(table[name] for table in tables)) for name, whole in self.storage.items()
        }
        layer = _hollow(self.layers[0])  # a call puts weights into it, which other threads should not see
        flat = [pytree.tree_flatten((call.args, call.kwargs)) for call in calls]
        leaves, dims = zip(*(_together(leaf) for leaf in zip(*(f[0] for f in flat), strict=True)), strict=True)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]

        def one(weights: dict[str, Tensor], hidden: Tensor, tensors: list[Tensor]) -> Tensor:
            given = iter(tensors)
            filled = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            args, kwargs = pytree.tree_unflatten(filled, flat[0][1])
            out = functional_call(layer, weights, (hidden, *args), kwargs)
            return out[0] if isinstance(out, tuple) else out

        places = [dim for leaf, dim in zip(leaves, dims, strict=True) if isinstance(leaf, Tensor)]
        out: Tensor = torch.vmap(one, in_dims=(0, 0, places), randomness="different")(weights, hidden, tensors)
        return out


class _Views(torch.autograd.Function):
    """The stacked tensor as a function of its parts, without a copy; its gradient falls apart into theirs."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, *parts: Tensor) -> Tensor:
        return whole.view_as(whole)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return None, *gradient.unbind(0)


def _facts(value: Any) -> str:
    """What a layer was set up with, in words that are equal for equal things; objects count as themselves."""
    if isinstance(value, int | float | str | bool | type(None) | torch.dtype | torch.device | type):
        return repr(value)
    if isinstance(value, dict):
        return str(sorted((str(k), _facts(v)) for k, v in value.items()))
    if isinstance(value, list | tuple | set):
        return str([_facts(v) for v in value])
    if isinstance(value, Tensor | nn.Module):
        return type(value).__name__
    return getattr(value, "__qualname__", None) or f"{type(value).__name__} {id(value)}"


def _hollow(module: nn.Module) -> nn.Module:
    """The same module with tables of its own, all the way down; what is in them is shared."""
    twin = layers.shallow(module)
    twin._parameters, twin._buffers = dict(module._parameters), dict(module._buffers)
    for name, part in module._modules.items():
        twin._modules[name] = None if part is None else _hollow(part)
    return twin


def _together(leaves: Sequence[Any]) -> tuple[Any, int | None]:
    """What layers are called with at one place as one: stacked, or itself where all are given the same."""
    first = leaves[0]
    if not isinstance(first, Tensor) or all(leaf is first for leaf in leaves):
        return first, None
    return torch.stack(list(leaves)), 0


def _tensors(layer: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name."""
    return {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
