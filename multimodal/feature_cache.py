"""Features of images kept by what the images are, so that a frozen tower sees each image once.

A feature is found again by the bytes of its preprocessed pixels together with everything else that decides it: the
tower's weights, layers, strategy and precision. It is kept in memory up to a number of bytes, the least recently used
going first, and where a folder is given also in a file each, for other processes. The cache is an object of its
caller's; no module holds one. Knows nothing of language models.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Shaped
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from efficiency.weight_cache import stamp_of
from multimodal.encoders import Layer, check_pixels, global_features, patch_features, trains
from rmt.errors import InputError

FORMAT = "image features 1"
# What changes where a tower's weights are written to, moved or replaced; a weight that is gone is no weight of now,
# even where another has its address.
Stamp = list[tuple[weakref.ref[Tensor], Any]]


class FeatureCache:
    """Features of images under frozen towers. Threads may share it; what it gives is the caller's own copy.

    Images are encoded ``batch`` at a time. With 1, the start, an image's features are those of
    ``patch_features(..., batch=1)`` bit for bit, whatever else is asked for beside it and in whatever order. More is
    faster on a GPU; then the last bits of a feature may depend on how many images happened to be missing with it.

    Args:
        max_bytes: that features in memory may take, wherever their tower is; None for no limit.
        folder: of files, made where it is missing. It is never emptied: delete it to be rid of it.
        batch: images that are encoded at once.

    Attributes:
        hits, misses: images found in memory, in the folder or earlier in the same call, and images encoded.

    Raises:
        InputError: a negative size, a batch below one, or a folder that cannot be made.
    """

    def __init__(self, max_bytes: int | None, folder: str | Path | None = None, *, batch: int = 1) -> None:
        if max_bytes is not None and max_bytes < 0:
            raise InputError(f"max_bytes: expected 0 or more, or None for no limit, got {max_bytes}")
        if batch < 1:
            raise InputError(f"batch: expected 1 image or more, got {batch}; leave it out")
        self.max_bytes, self.batch = max_bytes, batch
        self.folder = None if folder is None else Path(folder)
        self.hits = self.misses = self._used = 0
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._towers: weakref.WeakKeyDictionary[nn.Module, tuple[Stamp, str]] = weakref.WeakKeyDictionary()
        self._lock = threading.RLock()
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(
                    f"{folder}: expected a folder for features, got {error.strerror or error}; give another"
                ) from error

    @property
    def used_bytes(self) -> int:
        """Bytes of the features in memory now."""
        return self._used

    def __len__(self) -> int:
        """Images whose features are in memory now."""
        return len(self._kept)

    def clear(self) -> None:
        """Let go of all features in memory; files stay, and so do the counts."""
        with self._lock:
            self._kept.clear()
            self._used = 0

    def features(
        self, tower: nn.Module, pixel_values: Tensor, layer: Layer = -2, strategy: str = "default"
    ) -> Float[Tensor, "images patches hidden"]:
        """:func:`multimodal.encoders.patch_features` of a frozen tower, each image encoded once.

        Args:
            tower, pixel_values, layer, strategy: as there.

        Returns:
            In the order of the images given, without a graph.

        Raises:
            InputError: as there; a tower that learns or drops out at random; pixels that want a gradient; a file that
                cannot be written.
        """
        numbers = _from_the_front(tower, [layer] if isinstance(layer, int) else layer)
        return self._all(
            tower,
            pixel_values,
            f"patches {numbers} {strategy}",
            lambda part: patch_features(tower, part, layer, strategy, batch=None),
        )

    def global_features(
        self, tower: nn.Module, pixel_values: Tensor, layers: Sequence[int]
    ) -> Float[Tensor, "images scales_hidden"]:
        """:func:`multimodal.encoders.global_features` in the same way, see :meth:`features`."""
        numbers = _from_the_front(tower, layers)
        return self._all(
            tower, pixel_values, f"global {numbers}", lambda part: global_features(tower, part, layers, batch=None)
        )

    def _all(
        self, tower: nn.Module, pixel_values: Tensor, what: str, make: Callable[[Tensor], Tensor]
    ) -> Shaped[Tensor, "images ..."]:
        """Features of all images: from memory, from files, and the rest made."""
        _check(tower, pixel_values)
        alone = "alone" if self.batch == 1 else "together"  # or a folder would bring other last bits to a batch of 1
        maker = f"{self._fingerprint(tower)} {what} {_precision(tower)} {alone}"
        places: dict[str, list[int]] = {}
        for place, pixels in enumerate(pixel_values):
            places.setdefault(hashlib.sha256(f"{maker} {digest(pixels)}".encode()).hexdigest(), []).append(place)
        out: Tensor | None = None
        device = next(tower.parameters()).device

        def put(key: str, feature: Tensor) -> None:
            nonlocal out
            if out is None:
                out = feature.new_empty((len(pixel_values), *feature.shape), device=device)
            out[places[key]] = feature

        missing = []
        for key in places:
            feature = self._find(key, device)
            if feature is None:
                missing.append(key)
            else:
                put(key, feature)
        for start in range(0, len(missing), self.batch):
            part = missing[start : start + self.batch]
            with torch.no_grad():
                made = make(pixel_values[[places[key][0] for key in part]])
            for key, feature in zip(part, made, strict=True):
                feature = feature.clone()  # or it would keep the whole part alive
                self._keep(key, feature)
                self._write(key, feature)
                put(key, feature)
        with self._lock:
            self.misses += len(missing)
            self.hits += len(pixel_values) - len(missing)
        assert out is not None  # there is at least one image
        return out

    def _fingerprint(self, tower: nn.Module) -> str:
        """The tower's, computed again only where its weights have been written to, moved or replaced."""
        weights = list(tower.state_dict(keep_vars=True).values())
        with self._lock:
            known = self._towers.get(tower)
        if known is not None and _unchanged(known[0], weights):
            return known[1]
        stamp, found = [(weakref.ref(w), stamp_of(w)) for w in weights], fingerprint(tower)
        with self._lock:
            self._towers[tower] = (stamp, found)
        return found

    def _find(self, key: str, device: torch.device) -> Tensor | None:
        """A feature from memory or else from its file."""
        with self._lock:
            if (feature := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return feature
        if self.folder is None or (feature := read(self._path(key), key)) is None:
            return None
        feature = feature.to(device)
        self._keep(key, feature)
        return feature

    def _keep(self, key: str, feature: Tensor) -> None:
        """Keep a feature in memory, and let go of those not used for longest where there is no room."""
        if self.max_bytes is not None and feature.nbytes > self.max_bytes:
            return
        with self._lock:
            if (old := self._kept.pop(key, None)) is not None:  # another thread made it too
                self._used -= old.nbytes
            self._kept[key] = feature
            self._used += feature.nbytes
            while self.max_bytes is not None and self._used > self.max_bytes:
                self._used -= self._kept.popitem(last=False)[1].nbytes

    def _path(self, key: str) -> Path:
        """Of a feature's file."""
        assert self.folder is not None
        return self.folder / f"{key}.safetensors"

    def _write(self, key: str, feature: Tensor) -> None:
        """Write a feature's file: beside its place first, then renamed, so that no reader sees half of it."""
        if self.folder is None:
            return
        feature = feature.cpu()
        told = {"format": FORMAT, "key": key, "sha256": hashlib.sha256(_bytes(feature)).hexdigest()}
        path = self._path(key)
        beside = path.with_name(f".{key}.{os.getpid()}.{threading.get_ident()}.tmp")
        try:
            beside.write_bytes(save({"features": feature}, metadata=told))
            os.replace(beside, path)
        except OSError as error:
            raise InputError(
                f"{path}: expected a path that can be written, got {error.strerror or error}; give another folder"
            ) from error
        finally:
            with suppress(OSError):  # gone where all went well
                beside.unlink()


def _unchanged(stamp: Stamp, weights: list[Tensor]) -> bool:
    """Whether these are the weights a stamp was taken of, as they were then."""
    return len(stamp) == len(weights) and all(
        ref() is weight and then == stamp_of(weight) for (ref, then), weight in zip(stamp, weights, strict=True)
    )


def read(path: Path, key: str) -> Tensor | None:
    """A feature from its file; None where there is none, or one that was cut, changed or made for another key.

    A file may have its full length and still not its bytes, where a machine stopped while it was written; so bytes
    are compared with their sum.
    """
    try:
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little")
        told = json.loads(data[8 : 8 + size])["__metadata__"]
        feature = load(data)["features"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None
    sums = hashlib.sha256(_bytes(feature)).hexdigest()
    return feature if told == {"format": FORMAT, "key": key, "sha256": sums} else None


def digest(pixels: Tensor) -> str:
    """SHA-256 of an image's pixels, their dtype and shape, as hexadecimal digits."""
    about = f"{pixels.dtype} {tuple(pixels.shape)} "
    return hashlib.sha256(about.encode() + _bytes(pixels)).hexdigest()


def fingerprint(tower: nn.Module) -> str:
    """A name for a tower's configuration and weights, all of them to the bit, their dtypes and modules included."""
    config: Any = tower.config
    # Where it lies and who wrote it decides nothing.
    about = {k: v for k, v in config.to_dict().items() if k[0] != "_" and k not in ("architectures", "dtype")}
    about.pop("transformers_version", None)
    kinds = [(name, type(module).__qualname__) for name, module in tower.named_modules()]
    found = hashlib.sha256(repr((sorted(about.items()), kinds)).encode())
    for name, tensor in sorted(tower.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        found.update(_bytes(tensor))
    return found.hexdigest()


def _bytes(tensor: Tensor) -> Any:
    """The bytes of a tensor of any dtype, in order; a view where it lies in order on the CPU."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def _precision(tower: nn.Module) -> str:
    """What decides the last bits of features beside weights: device, autocast and the kernel of attention."""
    device = next(tower.parameters()).device.type
    cast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return f"{device} {cast} {getattr(tower.config, '_attn_implementation', None)}"


def _from_the_front(tower: nn.Module, layers: Sequence[int]) -> list[int]:
    """Numbers of hidden states, so that -2 and what it stands for find the same."""
    config: Any = tower.config
    states = config.num_hidden_layers + 1
    return [number % states if -states <= number < states else number for number in layers]


def _check(tower: nn.Module, pixel_values: Tensor) -> None:
    """Refuse what cannot be kept."""
    config: Any = tower.config
    check_pixels(config, pixel_values)
    if trains(tower):
        raise InputError(
            "expected a frozen tower, got one with parameters that want a gradient, whose features would be out of "
            "date; call multimodal.encoders.freeze, or patch_features without a cache"
        )
    dropouts = sorted(k for k, v in config.to_dict().items() if ("drop" in k) and isinstance(v, float) and v)
    if tower.training and dropouts:
        raise InputError(
            f"expected a tower in evaluation mode, got one in training mode with {dropouts[0]} = "
            f"{getattr(config, dropouts[0])}, whose features are drawn at random; call eval() on it"
        )
    if torch.is_grad_enabled() and pixel_values.requires_grad:
        raise InputError(
            "expected pixel_values that want no gradient, got some that do; detach them, or call patch_features "
            "without a cache"
        )
