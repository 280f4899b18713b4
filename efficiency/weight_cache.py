"""Dequantised weights that are kept within a budget of bytes. Knows nothing of formats or modules.

Frozen weights never change, so what was read once is good until its room is needed. Under recurrence a weight is asked
for once per segment in forward and again in backward, in one of two patterns. Segment by segment, layers come round in
order: where they do not all fit, throwing out the least recently used always throws out what comes next, and nothing
is ever found; keeping the first that fit finds those every time, and no policy does better on a round. Layer by layer
(or with what is read in runs) the least recently used is gone for good, and its room is needed. So both policies are
followed on paper, by names and sizes only, and the cache does what would have missed less.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from efficiency.errors import InputError

Key = tuple[int, torch.dtype]

# Uses after which what was missed counts half: several steps of a large model, so that one round weighs little.
MEMORY = 8192


class WeightCache:
    """Dequantised weights of one model, kept up to a number of bytes. Threads may share it.

    On a GPU a weight is made on the stream that first asks; a reader on another stream must wait for that one.

    Args:
        budget_bytes: that kept tensors may take together; None for no limit.

    Attributes:
        hits, misses: how often a weight was found, and how often it had to be made.

    Raises:
        InputError: a negative budget.
    """

    def __init__(self, budget_bytes: int | None = None) -> None:
        if budget_bytes is not None and budget_bytes < 0:
            raise InputError(f"budget_bytes: expected 0 or more, or None for no limit, got {budget_bytes}")
        self.budget_bytes = budget_bytes
        self._lock = threading.RLock()
        self.clear()

    def clear(self) -> None:
        """Forget everything: tensors, counts and what was learned of the pattern."""
        with self._lock:
            self._kept: OrderedDict[Key, Kept] = OrderedDict()
            self._used = self.hits = self.misses = self._asked = 0
            self._oldest_out = Paper(self.budget_bytes, evicts=True)
            self._first_stay = Paper(self.budget_bytes, evicts=False)

    @property
    def used_bytes(self) -> int:
        """Bytes of the tensors kept now."""
        return self._used

    def get(self, weight: Tensor, dtype: torch.dtype, make: Callable[[], Tensor]) -> Tensor:
        """What ``make`` gives for ``weight`` in ``dtype``, kept from an earlier call where possible. Read only.

        Args:
            weight: whose identity, place and version say whether what was kept is still good.
            dtype: of what ``make`` gives.
            make: called outside the lock; two threads that ask at once may both call it.
        """
        key, stamp = (id(weight), dtype), stamp_of(weight)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None and kept.stamp == stamp and kept.weight() is weight:
                self.hits += 1
                self._kept.move_to_end(key)
                self._note(key, kept.size)
                return kept.tensor
            if kept is not None:
                self._drop(key)
        # A tensor made under inference mode could not be used in training later.
        with torch.inference_mode(False), torch.no_grad():
            tensor = make()
        with self._lock:
            self.misses += 1
            new = Kept(tensor, weakref.ref(weight), stamp, tensor.numel() * tensor.element_size())
            self._note(key, new.size)
            if key not in self._kept and self._has_room(new.size):
                self._kept[key] = new
                self._used += new.size
        return tensor

    def _note(self, key: Key, size: int) -> None:
        """Follow both policies on paper."""
        for paper in (self._oldest_out, self._first_stay):
            paper.ask(key, size)
        self._asked += 1
        if self._asked % MEMORY == 0:
            for paper in (self._oldest_out, self._first_stay):
                paper.missed //= 2

    def _has_room(self, size: int) -> bool:
        """Whether ``size`` bytes fit, where the better policy says so after making room."""
        if self.budget_bytes is None or self._used + size <= self.budget_bytes:
            return True
        if size > self.budget_bytes:
            return False
        for key in [key for key, kept in self._kept.items() if kept.weight() is None]:
            self._drop(key)
        if self._oldest_out.missed <= self._first_stay.missed:
            while self._used + size > self.budget_bytes:
                self._drop(next(iter(self._kept)))
        return self._used + size <= self.budget_bytes

    def _drop(self, key: Key) -> None:
        self._used -= self._kept.pop(key).size

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, as of a copied model, starts empty: what is kept belongs to other weights."""
        return WeightCache, (self.budget_bytes,)

    def __repr__(self) -> str:
        return f"WeightCache(budget_bytes={self.budget_bytes}, used_bytes={self._used})"


@dataclass(frozen=True)
class Kept:
    """A tensor, and of which weight it was made."""

    tensor: Tensor
    weight: weakref.ref[Tensor]
    stamp: tuple[Any, ...]
    size: int  # bytes


@dataclass
class Paper:
    """What a policy would keep, and how many bytes it would have had to make again."""

    budget: int | None
    evicts: bool
    missed: int = 0
    used: int = 0
    sizes: OrderedDict[Key, int] = field(default_factory=OrderedDict)

    def ask(self, key: Key, size: int) -> None:
        """Somebody asks for a tensor of ``size`` bytes."""
        if key in self.sizes:
            self.sizes.move_to_end(key)
            return
        self.missed += size
        if self.budget is None or size > self.budget:
            return
        while self.evicts and self.used + size > self.budget:
            self.used -= self.sizes.popitem(last=False)[1]
        if self.used + size <= self.budget:
            self.sizes[key] = size
            self.used += size


def stamp_of(weight: Tensor) -> tuple[Any, ...]:
    """What changes when a weight is moved, given other data or written to."""
    # A subclass of tensors goes through Python for each of these, which costs more than the rest of a look-up.
    with torch._C.DisableTorchFunctionSubclass():
        version = 0 if weight.is_inference() else weight._version
        return weight.device, weight.data_ptr(), version, id(getattr(weight, "quant_state", None))
