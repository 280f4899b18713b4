"""The only place that changes what a module of somebody else's model does. Knows nothing of what it becomes."""

from __future__ import annotations

from torch import nn


def become(module: nn.Module, kind: type[nn.Module]) -> None:
    """Let a module run as another class, with all that it holds left where it is.

    Parameters, buffers, parts, hooks and names in a state dict stay as they are, references to the module stay right,
    and copies of it (``copy``, ``deepcopy``, pickle, ``functional_call``) run with their own parameters, which they
    would not with a ``forward`` put on the instance.

    Args:
        module: changed in place.
        kind: derived from the module's class, or a class that it is derived from.
    """
    assert issubclass(kind, type(module)) or issubclass(type(module), kind), f"{kind} is no kin of {type(module)}"
    module.__class__ = kind
