"""The only place that changes or swaps modules of somebody else's model. Knows nothing of what comes in their place."""

from __future__ import annotations

from collections.abc import Callable

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


def replace_modules(model: nn.Module, choose: Callable[[str, nn.Module], nn.Module | None]) -> list[str]:
    """Replace modules of ``model`` in place, wherever they hang.

    Args:
        choose: given a dotted name and the module there, gives another one, or None to leave it and look inside. It is
            asked once for each module; one that hangs in several places is replaced by one and the same.

    Returns:
        names of what was replaced, all of a shared one's.
    """
    chosen: dict[int, nn.Module | None] = {}
    replaced: list[str] = []
    for full, module in list(model.named_modules(remove_duplicate=False)):
        if not full or (replaced and full.startswith(f"{replaced[-1]}.")):
            continue
        if id(module) not in chosen:
            chosen[id(module)] = choose(full, module)
        new = chosen[id(module)]
        if new is not None:
            parent, _, name = full.rpartition(".")
            setattr(model.get_submodule(parent), name, new)
            replaced.append(full)
    return replaced
