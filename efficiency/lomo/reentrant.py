"""Is backward running inside backward? A weight updated there is updated once for each such run, silently.

Reentrant checkpointing (``torch.utils.checkpoint`` with ``use_reentrant=True``) runs a backward of its own for each
checkpoint, so a weight's gradient is "complete" once per segment: LOMO's updates were measured 71-81 % wrong. Only
updates during backward are to ask here: where nothing is updated before ``step``, gradients have added up by then,
whatever they came from.
"""

from __future__ import annotations

import sys
from types import FrameType

from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import _engine_run_backward
from torch.utils.checkpoint import CheckpointFunction

ENGINE = _engine_run_backward.__code__
# What the engine calls for the backward of a Python function; newer versions of torch have two.
NODE = {
    getattr(BackwardCFunction, name).__code__ for name in ("apply", "apply_boxed") if hasattr(BackwardCFunction, name)
}
CHECKPOINT = f"{CheckpointFunction.__name__}Backward"


def nested() -> bool:
    """Whether this code runs in a backward that the backward of some function started.

    Seen in the frames of this thread: the engine, entered from the backward of a Python function.
    """
    frame: FrameType | None = sys._getframe(1)
    entered = False
    while frame is not None:
        if frame.f_code is ENGINE:
            entered = True
        elif entered and frame.f_code in NODE:
            return True
        frame = frame.f_back
    return False


def running() -> list[Tensor]:
    """What the backward that runs now, in whichever thread, was asked to differentiate; empty if not found."""
    for start in sys._current_frames().values():
        frame: FrameType | None = start
        while frame is not None:
            if frame.f_code is ENGINE:
                roots = frame.f_locals.get("t_outputs") or ()
                return [t for t in roots if isinstance(t, Tensor)]
            frame = frame.f_back
    return []


def has_checkpoint(roots: list[Tensor]) -> bool:
    """Whether a reentrant checkpoint stands in the graph above these tensors."""
    waiting = [t.grad_fn for t in roots if t.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if type(node).__name__ == CHECKPOINT:
            return True
        for after, _ in node.next_functions:
            if after is not None and after not in seen:
                seen.add(after)
                waiting.append(after)
    return False
