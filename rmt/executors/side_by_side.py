"""Parts of a batch on several threads of one process, each of them with one core of its own.

On a CPU a batch that is cut into a part for each core is read about a third faster than one whose many small
operations are each cut: the parts never wait for each other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier
from typing import TypeVar

import torch

S = TypeVar("S")
T = TypeVar("T")


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
