"""How far the reading of one document has come: what is behind, under which name, and whether it was read before.

Knows digests and checkpoints; nothing of tokens' meaning, images or how segments are run.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from multimodal.stream import Page
from rmt.checkpoint import Checkpoint
from rmt.memory import Memory, MemoryMeta
from rmt.session import read_on

State = dict[str, Tensor]


@runtime_checkable
class Reading(Protocol):
    """What a course asks of a reader."""

    def fingerprint(self) -> str:
        """Of the model."""

    def settings(self) -> dict[str, str]:
        """What the bits of a memory depend on beside model and document."""

    def initial(self, batch_size: int = 1) -> State:
        """The state before anything is read."""


class Course:
    """How far one reading has come.

    A run that was broken goes on by passing what it had read once more, which tells whether it is still the same
    document up to there: what comes behind may have been mended since.

    Args:
        reader: that reads.
        name: of the document.
        own: the memory to begin with, checked; None for nothing.

    Attributes:
        begin: tokens that were read before the run was broken.
        skips: whether what is passed now was read then.
        state: the memory now.
        position, segments, images: passed so far.
    """

    def __init__(self, reader: Reading, name: str, own: Memory | None) -> None:
        self._reader, self._own, self.name = reader, own, name
        self.state: State = reader.initial() if own is None else dict(own.tensors)
        self._before = MemoryMeta() if own is None else own.meta
        self.begin = self.position = self.segments = self.images = 0
        self.skips = False
        self._claimed: str | None = None  # the digest that a checkpoint names, until it can be compared
        self._ids, self._names = hashlib.sha256(), hashlib.sha256()

    def keep_at(self, path: Path, every: int) -> Checkpoint:
        """What keeps this reading in a file; where it is there, all of it but the document is compared now.

        Raises:
            InputError: as of :meth:`rmt.checkpoint.Checkpoint.load`.
        """
        if path.exists():
            self._claimed = Memory.load(path).meta.extra.get("document", "")
        keeper = Checkpoint(
            path,
            self._reader.fingerprint(),
            lambda: self.digest() if self._claimed is None else self._claimed,
            self._own,
            self._reader.settings(),
            every,
        )
        found = keeper.load()
        if found is not None:
            self.begin, self.skips = found[1], True
        return keeper

    def arrive(self, keeper: Checkpoint, device: torch.device, ended: bool = False) -> None:
        """Go on from the checkpoint, once all before it, or with ``ended`` the whole document, was passed.

        Raises:
            InputError: it is of another document.
        """
        if not self.skips or (self.position < self.begin and not ended):
            return
        self._claimed = None
        found = keeper.load()
        assert found is not None
        self.state, self.skips = dict(found[0].to(device).tensors), False

    def passed(self, group: list[Page], names: list[bytes]) -> None:
        """These segments with images of these names are behind."""
        for page in group:
            self._ids.update(np.ascontiguousarray(page.ids, dtype="<i8").tobytes())
            self.position += len(page.ids)
        for name in names:
            self._names.update(name)
        self.segments, self.images = self.segments + len(group), self.images + len(names)

    def digest(self) -> str:
        """Of the words and images passed so far; 64 hexadecimal digits."""
        return hashlib.sha256(self._ids.digest() + self._names.digest()).hexdigest()

    def memory(self) -> Memory:
        """The memory now, with what was read into it."""
        images = self.images + int(self._before.extra.get("images", 0))
        meta = read_on(
            self._before, tokens=self.position, segments=self.segments, source=self.name, digest=self.digest()
        )
        extra = {**self._reader.settings(), "images": str(images)}
        return Memory(self.state, replace(meta, model=self._reader.fingerprint(), extra=extra))
