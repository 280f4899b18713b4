"""A backbone taken apart: what comes before its layers, the layers one by one, and what comes behind.

Memory that lives in the layers needs to stand between them. How a model family makes masks and positions for its
layers is left to the family's own code: a view of the base model, in which each layer only notes what it is called
with, is run in its place. Knows nothing of memory.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rmt.backbone import Family


@dataclass(frozen=True)
class Call:
    """What a layer is called with behind its hidden states: masks, positions, a cache, as its family has it."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def kind(self) -> str:
        """Equal for calls that can be made as one: the same form, tensors of the same shapes, the same other values."""
        leaves, form = pytree.tree_flatten((self.args, self.kwargs))
        return str([form, *((tuple(x.shape), x.dtype) if isinstance(x, Tensor) else x for x in leaves)])


@dataclass(frozen=True)
class Plan:
    """A forward of a base model before any of its layers has run.

    Attributes:
        hidden: what the first layer is given, (batch, width, hidden).
        calls: one a layer.
    """

    hidden: Tensor
    calls: tuple[Call, ...]


def layers_of(core: nn.Module, family: Family) -> list[nn.Module]:
    """The layers of a base model, in order."""
    return list(core.get_submodule(family.layers).children())


def plan(core: nn.Module, family: Family, **inputs: Any) -> Plan:
    """Run what comes before the layers.

    Args:
        core: base model of the family; left as it is.
        inputs: of its forward.
    """
    calls: list[Call] = []
    first: list[Tensor] = []
    notes = nn.ModuleList(_Note(layer, calls, first, family.pairs) for layer in layers_of(core, family))
    view = shallow(core)
    put(view, family.layers, notes)
    if family.norm:
        put(view, family.norm, nn.Identity())
    view(**inputs)
    return Plan(first[0], tuple(calls))


def run(layer: nn.Module, hidden: Tensor, call: Call) -> Tensor:
    """One layer: (batch, width, hidden) to the same."""
    out = layer(hidden, *call.args, **call.kwargs)
    return out[0] if isinstance(out, tuple) else out


def finish(core: nn.Module, family: Family, hidden: Tensor) -> Tensor:
    """What comes behind the layers: the last norm, where the family has one."""
    return core.get_submodule(family.norm)(hidden) if family.norm else hidden


def shallow(module: nn.Module) -> nn.Module:
    """A copy that shares all parts, yet has a table of parts of its own."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin


class _Note(nn.Module):
    """Stands for a layer, notes what it is called with, and gives back what it was given."""

    def __init__(self, layer: nn.Module, calls: list[Call], first: list[Tensor], pairs: bool) -> None:
        super().__init__()
        # Behind nn.Module's back: the layer is not a part of this one.
        self.__dict__["layer"] = layer
        self.calls, self.first, self.pairs = calls, first, pairs

    def __getattr__(self, name: str) -> Any:
        """What a base model asks of its layers, such as the kind of their attention."""
        return getattr(self.__dict__["layer"], name)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """See :func:`plan`."""
        self.calls.append(Call(args, kwargs))
        if not self.first:
            self.first.append(hidden_states)
        return (hidden_states, None) if self.pairs else hidden_states


def put(view: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module at a path of a view, whose modules on the way there become copies."""
    *way, name = path.split(".")
    for step in way:
        view._modules[step] = shallow(view.get_submodule(step))
        view = view.get_submodule(step)
    view._modules[name] = module
