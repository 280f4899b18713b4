"""What passes between segments: a value that can be saved, loaded, forked, moved and measured.

Knows nothing of models: it holds tensors by name and the facts about how they came to be.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from rmt.errors import InputError

if TYPE_CHECKING:
    from typing import Self

FORMAT = "rmt-memory/1"


@runtime_checkable
class Fingerprinted(Protocol):
    """Anything that can say which weights it is made of."""

    def fingerprint(self) -> str: ...


@dataclass(frozen=True)
class MemoryMeta:
    """How a memory came to be.

    Attributes:
        model: fingerprint of the weights that wrote it.
        tokens_read, segments_read: how far the reading has come.
        source: what was read, in words.
        digest: sha256 of the text that was read.
        extra: anything else worth keeping, as strings.
    """

    model: str = ""
    tokens_read: int = 0
    segments_read: int = 0
    source: str = ""
    digest: str = ""
    extra: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Memory:
    """The state of a reader between two segments, for each document of a batch.

    Compared by identity: tensors have no single truth value.

    Attributes:
        tensors: by name, each with the batch first. Token memory has one: ``tokens``, float32 of shape
            (batch, num_memory_tokens, hidden); for others see the cells.
        meta: how it came to be.
    """

    tensors: Mapping[str, Tensor]
    meta: MemoryMeta = field(default_factory=MemoryMeta)

    @property
    def batch_size(self) -> int:
        """Documents in the batch."""
        return next(iter(self.tensors.values())).shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return sum(t.numel() * t.element_size() for t in self.tensors.values())

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return next(iter(self.tensors.values())).device

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """A memory with ``function`` applied to each tensor."""
        return replace(self, tensors={name: function(t) for name, t in self.tensors.items()})

    def to(self, *args: object, **kwargs: object) -> Self:
        """A memory on another device or in another dtype; arguments of :meth:`torch.Tensor.to`.

        Counts stay whole numbers: half precision would round them.
        """

        def moved(tensor: Tensor) -> Tensor:
            other: Tensor = tensor.to(*args, **kwargs)  # type: ignore[call-overload]
            return other if tensor.is_floating_point() else tensor.to(other.device)

        return self.map(moved)

    def detach(self) -> Self:
        """A memory cut from the graph that made it."""
        return self.map(torch.Tensor.detach)

    def fork(self, copies: int = 1) -> Self:
        """``copies`` independent copies of every document's memory, those of one document side by side."""
        return self.map(lambda t: t.repeat_interleave(copies, dim=0))

    def index(self, rows: Shaped[Tensor, " rows"] | Int[Tensor, " rows"] | slice | list[int]) -> Self:
        """The memories of some documents of the batch."""
        return self.map(lambda t: t[rows])

    def with_meta(self, **changes: object) -> Self:
        """The same tensors with some facts replaced."""
        return replace(self, meta=replace(self.meta, **changes))  # type: ignore[arg-type]

    def save(self, path: str | Path, model: Fingerprinted | None = None) -> None:
        """Write to ``path`` as safetensors: beside it first, then renamed, so that a kill loses nothing.

        Args:
            path: the file.
            model: whose forward gave this memory; written down, so that no other model takes it. A reader's memories
                know theirs.

        Raises:
            InputError: the path cannot be written; what stood there before still does.
        """
        from safetensors.torch import save

        path = Path(path)
        meta = self.meta if model is None else replace(self.meta, model=model.fingerprint())
        metadata = {"format": FORMAT, "meta": json.dumps(asdict(meta))}
        data = save({k: v.detach().cpu().contiguous() for k, v in self.tensors.items()}, metadata=metadata)
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            beside.write_bytes(data)
            os.replace(beside, path)
        except OSError as error:
            raise InputError(
                f"{path}: expected a path that can be written, got {error.strerror or error}; give another"
            ) from error
        finally:
            with suppress(OSError):  # gone where all went well
                beside.unlink()

    @classmethod
    def load(cls, path: str | Path, model: Fingerprinted | None = None) -> Self:
        """Read what :meth:`save` wrote.

        Args:
            path: the file.
            model: where given, the memory must have been written by these weights.

        Raises:
            InputError: no such file, not a memory, cut short, or written by other weights (both fingerprints
                named).
        """
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        if not os.path.isfile(path):  # unlike Path.is_file, false for a name that no file can have
            raise InputError(f"{path}: expected a memory file, got no such file; write one with `rmt read`")
        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(
                f"{path}: expected a memory file, got one that is cut short or of another kind "
                f"({path.stat().st_size} bytes); read the document again with `rmt read`"
            ) from error
        rows = {t.shape[0] if t.dim() else -1 for t in tensors.values()}
        if metadata.get("format") != FORMAT or len(rows) != 1:
            raise InputError(
                f"{path}: expected a memory file ({FORMAT}), got a safetensors file of another kind; "
                "give one written by `rmt read`"
            )
        try:
            memory = cls(tensors, MemoryMeta(**json.loads(metadata["meta"])))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: expected a memory file ({FORMAT}), got one whose metadata cannot be read; "
                "read the document again with `rmt read`"
            ) from error
        if model is not None and (got := model.fingerprint()) != memory.meta.model:
            found = f"one of model {memory.meta.model}" if memory.meta.model else "one that names no model"
            raise InputError(
                f"{path}: expected a memory of this model ({got}), got {found}; use the model that read the "
                "document, or read it again"
            )
        return memory
