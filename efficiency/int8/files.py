"""Files of 8-bit weights: what stands in them, whether it fits layers, how large it is. Knows no transformers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from efficiency.errors import InputError
from efficiency.int8.linear import SCALES, Int8Linear

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # bytes of a number


class Entry(NamedTuple):
    """A tensor in a file: its format in the words of safetensors, its shape, and the file."""

    dtype: str
    shape: tuple[int, ...]
    file: Path


@dataclass(frozen=True)
class Sizes:
    """What quantised linear layers take on disk, in bytes.

    Attributes:
        layers: how many there are.
        stored: weights, scales, multipliers and biases as they stand in the file.
        float32: the same weights and biases in 32 bit.
    """

    layers: int
    stored: int
    float32: int

    @property
    def ratio(self) -> float:
        """Stored over float32."""
        return self.stored / self.float32


def entries(files: Iterable[Path | str]) -> dict[str, Entry]:
    """What stands in files of safetensors, by name; only their headers are read.

    Raises:
        InputError: a file that is not there, cut short, or no safetensors.
    """
    found: dict[str, Entry] = {}
    for file in map(Path, files):
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - no mapping
                    part = opened.get_slice(name)
                    found[name] = Entry(part.get_dtype(), tuple(part.get_shape()), file)
        except FileNotFoundError as error:
            raise InputError(f"{file}: expected a file of weights, got nothing there; copy the whole folder") from error
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{file}: expected whole weights, got a file cut short ({error}); copy it again"
            ) from error
    return found


def weight_files(folder: Path) -> list[Path]:
    """The files of weights in a folder: one, or those that an index names.

    Raises:
        InputError: none, or an index that cannot be read.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        raise InputError(f"{folder}: expected {WEIGHTS}, got a folder without; name the folder of a saved model")
    names = _json(folder / INDEX).get("weight_map")
    if not isinstance(names, dict):
        raise InputError(f"{folder / INDEX}: expected a weight_map, got none; copy the whole folder")
    return [folder / name for name in sorted(set(names.values()))]


def quantization_config(folder: Path) -> dict[str, Any]:
    """What a folder's ``config.json`` says of how its weights are quantised.

    Raises:
        InputError: no such file, no JSON, or nothing of quantisation in it.
    """
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder}: expected {CONFIG}, got a folder without; name the folder of a saved model")
    found = _json(folder / CONFIG).get("quantization_config")
    if not isinstance(found, dict):
        raise InputError(f"{folder / CONFIG}: expected a quantization_config, got none; the model is not quantised")
    return found


def check(layer: Int8Linear, name: str, found: Mapping[str, Entry]) -> None:
    """Refuse a file that has not all of a layer, each part in its format and shape.

    Args:
        layer: to be filled.
        name: of the layer in the file.
        found: from :func:`entries`.

    Raises:
        InputError: the first part that is missing or does not fit.
    """
    for part, parameter in layer.named_parameters(recurse=False):
        full = f"{name}.{part}" if name else part
        entry = found.get(full)
        if entry is None:
            raise InputError(f"{full}: expected it among the weights, got none; copy the whole folder")
        if part == "weight" and entry.dtype != "I8":
            raise InputError(f"{full}: expected int8, got {entry.dtype}; quantise the float model again")
        if part != "weight" and entry.dtype not in FLOATS:
            raise InputError(f"{full}: expected floating point, got {entry.dtype}; quantise the float model again")
        if entry.shape != tuple(parameter.shape):
            raise InputError(
                f"{full}: expected shape {tuple(parameter.shape)}, got {entry.shape}; "
                "weights and config.json are of different models"
            )


def sizes(folder: Path | str) -> Sizes:
    """What the quantised linear layers of a saved model take on disk; only headers of files are read.

    Raises:
        InputError: no folder of quantised weights, or a file cut short.
    """
    found = entries(weight_files(Path(folder)))
    names = [n.removesuffix("_scale") for n in found if n.endswith("weight_scale")]
    layers = [n for n in names if n in found and found[n].dtype == "I8"]
    if not layers:
        raise InputError(f"{folder}: expected 8-bit weights, got none; name the folder of a quantised model")
    stored = whole = 0
    for name in layers:
        count = _numbers(found[name])
        stored, whole = stored + count, whole + 4 * count
        for part in (*SCALES, "bias"):
            entry = found.get(name.removesuffix("weight") + part)
            if entry is not None:
                stored += _numbers(entry) * FLOATS[entry.dtype]
                whole += 4 * _numbers(entry) if part == "bias" else 0
    return Sizes(len(layers), stored, whole)


def _numbers(entry: Entry) -> int:
    count = 1
    for side in entry.shape:
        count *= side
    return count


def _json(file: Path) -> dict[str, Any]:
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file}: expected JSON, got: {error}; copy it again") from error
    if not isinstance(read, dict):
        raise InputError(f"{file}: expected a JSON object, got {type(read).__name__}; copy it again")
    return read
