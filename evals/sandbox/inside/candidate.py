"""The untrusted process: runs a program, then calls its function with what comes in and sends back what it returns.

Nothing here is a defence. The program can change all of this module, and may send what it likes; the checker
believes a message only as an answer to the call that it has made.
"""

from __future__ import annotations

import gc
import os
import random
import sys
import types
from typing import Any

from . import frames, layers, literals

READY, ANSWER, RAISED, BROKEN = b"R", b"A", b"E", b"B"
INBOX, OUTBOX = 3, 4


def _keep(inbox: int, outbox: int) -> None:
    """Closes every descriptor but the two pipes, which become ``INBOX`` and ``OUTBOX``, and /dev/null as 0, 1 and 2."""
    null = os.open("/dev/null", os.O_RDWR)
    high = [os.dup2(fd, 100 + i) for i, fd in enumerate((null, inbox, outbox))]
    for low, fd in ((0, high[0]), (1, high[0]), (2, high[0]), (INBOX, high[1]), (OUTBOX, high[2])):
        os.dup2(fd, low)
    os.closerange(OUTBOX + 1, 1 << 20)


def _error(error: BaseException) -> bytes:
    try:
        text = str(error)[:200]
    except BaseException:  # the candidate's own __str__
        text = ""
    return RAISED + literals.encode((type(error).__name__[:60], text), 4096)


def run(inbox: int, outbox: int, held: layers.Layers, limits: dict[str, Any], folder: str) -> None:
    """Never returns: the process ends with the pipe. Forked by the checker before that has read the test."""
    try:
        _keep(inbox, outbox)
        os.setsid()  # a process group of its own: kill(0) reaches nobody else
        try:
            layers.set_limits(limits["seconds"], limits["memory"], limits["output"])
            layers.close_candidate(held, folder)
        except Exception as error:
            frames.send(OUTBOX, BROKEN + repr(error).encode())
            return
        frames.send(OUTBOX, READY)
        program, entry_point = literals.decode(frames.receive(INBOX))
        random.seed(0)  # else a program that draws would have another verdict each time
        gc.enable()
        _serve(program, entry_point, limits["output"])
    except EOFError:  # the checker is gone
        pass
    finally:
        os._exit(0)


def _serve(program: str, entry_point: str, limit: int) -> None:
    # No "__main__": as in the reference, a block guarded by that name does not run.
    module = types.ModuleType("candidate")
    sys.modules["candidate"] = module
    try:
        exec(compile(program, "candidate.py", "exec"), module.__dict__)
        if entry_point not in module.__dict__:
            raise NameError(f"the program defines no {entry_point}")
        function = module.__dict__[entry_point]
    except BaseException as error:
        frames.send(OUTBOX, _error(error))
        return
    frames.send(OUTBOX, READY)
    while True:
        positional, named = literals.decode(frames.receive(INBOX))
        try:
            reply = ANSWER + literals.encode(function(*positional, **named), limit)
        except BaseException as error:
            reply = _error(error)
        frames.send(OUTBOX, reply)
