"""Parts of a batch on several threads of one process, each of them with one core of its own.

On a CPU a batch that is cut into a part for each core is read about a third faster than one whose many small
operations are each cut: the parts never wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier
from typing import TypeVar

import torch

S = TypeVar("S")
T = TypeVar("T")


def each(work: Callable[[S], T], parts: Sequence[S]) -> list[T]:
    """``work`` on every part at the same time, in inference mode; results in order."""
    if len(parts) == 1:
        return [work(parts[0])]

    def alone(part: S) -> T:
        with torch.inference_mode():
            return work(part)

    return list(pool(len(parts)).map(alone, parts))


@cache
def pool(threads: int) -> ThreadPoolExecutor:
    """Threads that compute with one core each; started once and kept."""
    before = torch.get_num_threads()
    made = ThreadPoolExecutor(threads, thread_name_prefix="rmt-read")
    together = Barrier(threads)

    def start() -> None:
        torch.set_num_threads(1)
        together.wait()

    for started in [made.submit(start) for _ in range(threads)]:
        started.result()
    torch.set_num_threads(before)  # the number is the thread's own, and for libraries below also the process's
    return made
