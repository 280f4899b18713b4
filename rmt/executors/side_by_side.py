"""Parts of a batch on several threads of one process, each of them with one core of its own.

On a CPU a batch that is cut into a part for each core is read about a third faster than one whose many small
operations are each cut: the parts never wait for each other.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from threading import Barrier
from typing import TypeVar

import torch

S = TypeVar("S")
T = TypeVar("T")

_here = threading.local()  # which piece of work a thread is at
_turn = threading.Lock()


class Dropped(Exception):  # no error: ends work that nobody wants
    """Raised inside work that was dropped, to end it."""


class Work:
    """A piece of work that may be dropped by another thread.

    Threads have turns at it, but for what is :func:`aside`. Python has one lock for all of them: two that run many
    small operations at the same time wake each other at every one, and go on side by side like that; after a turn each
    they are out of step.

    Attributes:
        dropped: nobody wants the result: it ends where it next calls :func:`still_wanted`.
    """

    def __init__(self) -> None:
        self.dropped = False

    def __enter__(self) -> None:
        _turn.acquire()
        _here.work = self

    def __exit__(self, *_: object) -> None:
        _here.work = None
        _turn.release()


@contextmanager
def aside() -> Iterator[None]:
    """Around what takes long and needs little of Python: others have their turn meanwhile."""
    if getattr(_here, "work", None) is None:
        yield
        return
    _turn.release()
    try:
        yield
    finally:
        _turn.acquire()


def still_wanted() -> None:
    """To be called now and then in long work, which may be a :class:`Work` of this thread.

    Raises:
        Dropped: it is, and was dropped.
    """
    work: Work | None = getattr(_here, "work", None)
    if work is not None and work.dropped:
        raise Dropped


def lanes(run: Callable[[], object], stop: Callable[[], object]) -> None:
    """Call ``run`` once on each of as many threads as torch has, in inference mode, and wait for all of them.

    Args:
        run: shares out its own work.
        stop: lets calls end that are still at work, when this is interrupted or another has failed; also called when
            all have ended.
    """
    threads = torch.get_num_threads()

    def one() -> None:
        with torch.inference_mode():
            run()

    if threads == 1:
        one()
        return
    calls = [pool(threads, os.getpid()).submit(one) for _ in range(threads)]
    try:
        done, _ = wait(calls, return_when=FIRST_EXCEPTION)
        for call in done:
            call.result()
    finally:
        stop()
        wait(calls)


def each(work: Callable[[S], T], parts: Sequence[S]) -> list[T]:
    """``work`` on every part, as many at a time as torch has threads, each with one; in inference mode, in order.

    Results do not depend on how many cores there are.
    """

    def alone(part: S) -> T:
        with torch.inference_mode():
            return work(part)

    threads = torch.get_num_threads()
    return [alone(part) for part in parts] if threads == 1 else list(pool(threads, os.getpid()).map(alone, parts))


@cache
def pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads that compute with one core each; started once a process (a fork has none of them) and kept."""
    made = ThreadPoolExecutor(threads, thread_name_prefix="rmt-read")
    together = Barrier(threads)

    def start() -> None:
        torch.get_num_threads()  # a thread takes the process's number at its first call, after this one its own
        torch.set_num_threads(1)
        together.wait()

    for started in [made.submit(start) for _ in range(threads)]:
        started.result()
    torch.set_num_threads(threads)  # the number is the thread's own, and for libraries below also the process's
    return made
