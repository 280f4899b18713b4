"""A reading that was broken off: a memory with its place in the text, and what must be the same to go on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rmt.errors import InputError
from rmt.memory import Memory

_KIND = "reading"


@dataclass
class Checkpoint:
    """Keeps a reading on disk.

    Attributes:
        path: the file, written beside and renamed.
        model: fingerprint of the model that reads.
        document: gives the digest of the whole document; called when it is needed.
        begun: the memory that the reading began with, None for nothing.
        settings: what else the bits of the result depend on.
        every: tokens between two writes.
        saved: the token at which it was written last.
    """

    path: Path
    model: str
    document: Callable[[], str]
    begun: Memory | None
    settings: dict[str, str]
    every: int
    saved: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.every < 1:
            raise InputError(f"checkpoint_every: expected at least 1 token, got {self.every}; give a larger number")

    def load(self) -> tuple[Memory, int] | None:
        """The memory and the position it stands at; None where there is no file.

        Raises:
            InputError: no checkpoint, or one of another model, document, beginning or other settings.
        """
        if not self.path.exists():
            return None
        memory = Memory.load(self.path)
        found = memory.meta.extra
        if found.get("kind") != _KIND:
            raise InputError(
                f"{self.path}: expected a checkpoint of a reading, got a finished memory; name another file"
            )
        differing = [name for name, value in self._expected().items() if found.get(name) != value]
        if differing:
            name = differing[0]
            raise InputError(
                f"{self.path}: expected a checkpoint of this {name} ({self._expected()[name]}), got one of "
                f"{found.get(name)}; give what it was begun with, or remove it to start again"
            )
        self.saved = int(found["position"])
        return memory, self.saved

    def due(self, position: int) -> bool:
        """Whether it is time to write again."""
        return position - self.saved >= self.every

    def keep(self, memory: Memory, position: int) -> None:
        """Write the memory at this token of the document."""
        extra = {**memory.meta.extra, **self._expected(), "kind": _KIND, "position": str(position)}
        memory.with_meta(extra=extra).save(self.path)
        self.saved = position

    def _expected(self) -> dict[str, str]:
        return {
            "model": self.model,
            "document": self.document(),
            "beginning": _digest(self.begun),
            **self.settings,
        }


def _digest(memory: Memory | None) -> str:
    """A short name of the numbers in a memory."""
    if memory is None:
        return "nothing"
    digest = hashlib.sha256()
    for name, tensor in sorted(memory.tensors.items()):
        digest.update(name.encode() + tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
