"""What calibration saw of the inputs of linear layers, as a value: maxima of channels, and a few rows.

Rows that are memory are counted apart from text: they feed the next segment, and there are few of them.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from efficiency.errors import InputError

KINDS = ("text", "memory")
FORMAT = "smoothquant-statistics-1"


@dataclass
class Statistics:
    """Inputs of linear layers, by name of the layer.

    Attributes:
        maxima: largest absolute value of each channel, float32 of shape (in,), for text and for memory; zeros where
            there was no such row.
        rows: how many rows there were, of text and of memory.
        samples: a few rows drawn evenly, float32 of shape (rows, in), of the layers that were asked for.
        fingerprint: of the model, empty where none was given.
    """

    maxima: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    rows: dict[str, dict[str, int]] = field(default_factory=dict)
    samples: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    fingerprint: str = ""

    def channels(self, name: str, *, memory_weight: float = 1.0, memory: bool = True) -> Float[Tensor, " channels"]:
        """max|X_j| of a layer's input over text and memory.

        Args:
            memory_weight: of the memory's maxima in that, 1 for as they are.
            memory: whether its rows count at all.

        Raises:
            InputError: a layer that calibration did not see.
        """
        if name not in self.maxima:
            raise InputError(f"statistics: expected some of {name}, got none; calibrate this model")
        found = self.maxima[name]
        return torch.maximum(found["text"], found["memory"] * memory_weight) if memory else found["text"]

    def merge(self, other: Statistics) -> Statistics:
        """Both together; of samples those of both.

        Raises:
            InputError: statistics of another model.
        """
        if self.fingerprint != other.fingerprint:
            raise InputError(
                f"statistics: expected two of one model, got fingerprints {self.fingerprint!r} and "
                f"{other.fingerprint!r}; merge what came from the same weights"
            )
        merged = Statistics(fingerprint=self.fingerprint)
        for name in [*self.maxima, *(n for n in other.maxima if n not in self.maxima)]:
            parts = [one for one in (self, other) if name in one.maxima]
            if len({tuple(one.maxima[name]["text"].shape) for one in parts}) > 1:
                raise InputError(
                    f"statistics: expected as many channels of {name} in both, got others; merge one model's"
                )
            merged.maxima[name] = {
                kind: torch.stack([one.maxima[name][kind] for one in parts]).amax(dim=0) for kind in KINDS
            }
            merged.rows[name] = {kind: sum(one.rows[name][kind] for one in parts) for kind in KINDS}
            held = [one.samples[name] for one in parts if name in one.samples]
            if held:
                merged.samples[name] = {kind: torch.cat([one[kind] for one in held]) for kind in KINDS}
        return merged

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all."""
        path = Path(path)
        tensors = {f"maxima.{kind}.{name}": t for name, found in self.maxima.items() for kind, t in found.items()}
        tensors |= {f"samples.{kind}.{name}": t for name, found in self.samples.items() for kind, t in found.items()}
        tokens = {kind: max((rows[kind] for rows in self.rows.values()), default=0) for kind in KINDS}
        about = {"format": FORMAT, "fingerprint": self.fingerprint, "rows": self.rows, "tokens": tokens}
        handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        try:
            save_file({name: t.contiguous() for name, t in tensors.items()}, beside, {"statistics": json.dumps(about)})
            os.replace(beside, path)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: str | Path, fingerprint: str | None = None) -> Statistics:
        """Read what :meth:`save` wrote.

        Args:
            fingerprint: of the model they are wanted for; None to take any.

        Raises:
            InputError: no such file, or one of another model.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                about = json.loads((file.metadata() or {}).get("statistics", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except Exception as error:
            raise InputError(f"statistics: expected a file of calibration at {path}, got {error}; calibrate") from error
        if about.get("format") != FORMAT:
            raise InputError(f"statistics: expected {FORMAT} at {path}, got {about.get('format')!r}; calibrate again")
        if fingerprint is not None and about["fingerprint"] != fingerprint:
            raise InputError(
                f"statistics: expected those of model {fingerprint!r}, got of {about['fingerprint']!r}; calibrate again"
            )
        found = cls(rows=about["rows"], fingerprint=about["fingerprint"])
        for key, tensor in tensors.items():
            what, kind, name = key.split(".", 2)
            getattr(found, what).setdefault(name, {})[kind] = tensor
        return found
