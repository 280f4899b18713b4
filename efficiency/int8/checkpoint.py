"""Models with 8-bit layers on disk: safetensors, and ``quantization_config`` in the layout of compressed-tensors.

    save(model, "folder")                          # a Hugging Face model, or any other module
    model = load("folder")                         # a Hugging Face model, by the class that config.json names
    load_into(MyModel(), "folder")                 # any other module

What is read is what is kept: no floating-point copy of an 8-bit weight is made. A Hugging Face model that was marked
(:func:`efficiency.int8.hugging_face.mark`) may as well be saved by its own ``save_pretrained``; this one marks it by
itself, and writes beside and renames, so that a folder may be the one it was loaded from, and is never taken for a
model while it is half of one: meanwhile its ``config.json`` is none.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from efficiency.errors import InputError
from efficiency.int8.files import CONFIG, INDEX, Entry, entries, quantization_config, weight_files
from efficiency.int8.layout import Layout, is_conv1d
from efficiency.int8.linear import SCALES, Int8Linear
from efficiency.int8.swap import freeze, keep_apart, swap

CUT_OFF = "a save was cut off here: the weights are not all of one model; save it again\n"


def save(model: nn.Module, folder: Path | str, **arguments: Any) -> None:
    """Write a quantised model.

    Args:
        model: with a ``save_pretrained``, or any module.
        folder: made where it is not there; files of the same names are replaced once all is written. Where that is
            cut off between two files, ``config.json`` is no JSON, so nothing loads it; save again.
        arguments: of ``save_pretrained``, such as ``max_shard_size``.

    Raises:
        InputError: no 8-bit layer, a folder that cannot be written, or layers that leave memory as it is in a model
            that does not tell where it is; what stood there still does.
        OSError: no space, or a file that cannot be put in its place.
    """
    folder, layout = Path(folder), Layout.of(model)
    marked = any(module.marks is not None for module in model.modules() if isinstance(module, Int8Linear))
    if marked and not layout.float_memory:
        raise InputError(
            f"float_memory: expected a model that tells where its memory is, got {type(model).__name__}, which would "
            "come back without; save the whole model, or set marks of its 8-bit layers to None"
        )
    told: Any = model
    with _beside(folder) as part:
        if hasattr(model, "save_pretrained") and hasattr(model, "config"):
            from efficiency.int8.hugging_face import mark

            mark(told)
            told.save_pretrained(part, **arguments)
        else:
            from safetensors.torch import save_model

            save_model(model, str(part / "model.safetensors"), metadata={"format": "pt"})
            (part / CONFIG).write_text(json.dumps({"quantization_config": layout.to_dict()}, indent=2) + "\n")


def load(folder: Path | str, kind: Any = None, **arguments: Any) -> Any:
    """Read a Hugging Face model with 8-bit layers, in eval mode.

    Args:
        folder: of :func:`save`, of ``save_pretrained``, or of another program that writes int8 in this layout.
        kind: a class with ``from_pretrained``, such as ``AutoModelForCausalLM``; the one that the configuration names
            where None.
        arguments: of ``from_pretrained``, such as ``dtype``.

    Raises:
        InputError: no such folder, not quantised, a format other than symmetric int8, a file that is cut short, or a
            weight that is missing or of another shape.
    """
    import transformers
    from transformers import AutoConfig

    from efficiency.int8.hugging_face import adapt

    folder = Path(folder)
    quantization_config(folder)
    # A configuration would take "auto" for the name of a format.
    formats = {name: arguments.pop(name) for name in ("dtype", "torch_dtype") if name in arguments}
    config, rest = _telling(folder, AutoConfig.from_pretrained, return_unused_kwargs=True, **arguments)
    adapt(config)
    if kind is None:
        names = config.architectures or [""]
        kind = getattr(transformers, names[0], None)
        if kind is None:
            raise InputError(
                f"{folder}: expected a model of transformers, got {names[0]!r}; give its class: load(folder, kind=...)"
            )
    return _telling(folder, kind.from_pretrained, config=config, **formats, **rest)


def load_into(model: nn.Module, folder: Path | str) -> nn.Module:
    """Fill a module from a folder of :func:`save`, its linear layers becoming 8-bit where they are in the file.

    Tensors are read one after another, to where the module's are; a module on the meta device is put on the CPU, and
    what the files do not have (buffers that are not saved) must then be filled by the caller.

    Args:
        model: of the same structure before it was quantised; changed in place.

    Returns:
        the same module.

    Raises:
        InputError: as of :func:`load`; a parameter or buffer that is missing, or one too many.
    """
    folder = Path(folder)
    layout = Layout.from_dict(quantization_config(folder))
    found = entries(weight_files(folder))
    _check_rest(model, found)
    swap(model, layout, found)
    slots = _slots(model)
    if stray := sorted(found.keys() - slots.keys()):
        raise InputError(f"{stray[0]}: expected no such scale, got one in the files; give the model that was saved")
    for file in sorted({entry.file for entry in found.values()}):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - no mapping
                _fill(slots[name], opened.get_tensor(name))
    freeze(model)
    if layout.float_memory:
        keep_apart(model)
    return model


Slot = tuple[nn.Module, str]


def _slots(model: nn.Module) -> dict[str, list[Slot]]:
    """Where each tensor of a model hangs: one that is tied, in all places under each of its names."""
    where: dict[int, list[Slot]] = {}
    names: dict[str, int] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        for part, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                names[f"{name}.{part}" if name else part] = id(tensor)
                where.setdefault(id(tensor), []).append((module, part))
    return {name: where[one] for name, one in names.items()}


def _check_rest(model: nn.Module, found: dict[str, Entry]) -> None:
    """Refuse a file that lacks a tensor of a module before it is quantised, or has one that it does not know."""
    wanted = model.state_dict(keep_vars=True)
    there = {id(tensor) for name, tensor in wanted.items() if name in found}  # tied ones stand there once
    turned = {f"{name}.weight" for name, part in model.named_modules(remove_duplicate=False) if is_conv1d(part)}
    cure = "give the model that was saved"
    for name, tensor in wanted.items():
        if id(tensor) not in there:
            raise InputError(f"{name}: expected it among the weights, got none; {cure}")
    for name, entry in found.items():
        if name.endswith(SCALES):
            continue
        if name not in wanted:
            raise InputError(f"{name}: expected no such weight, got one in the files; {cure}")
        shape = tuple(wanted[name].shape)
        if name in turned and entry.dtype == "I8":
            shape = shape[::-1]
        if entry.shape != shape:
            raise InputError(f"{name}: expected shape {shape}, got {entry.shape}; {cure}")


def _fill(slots: list[Slot], tensor: torch.Tensor) -> None:
    owner, part = slots[0]
    into: torch.Tensor = getattr(owner, part)
    with torch.no_grad():
        if into.device.type != "meta":
            into.copy_(tensor)
            return
        fresh = tensor.to(into.dtype)
        if isinstance(into, nn.Parameter):
            fresh = nn.Parameter(fresh, requires_grad=into.requires_grad)
        for module, name in slots:
            setattr(module, name, fresh)


def _telling(folder: Path, function: Any, **arguments: Any) -> Any:
    """A ``from_pretrained``, whose errors become one clear line."""
    from safetensors import SafetensorError

    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder, got nothing there; name the folder of a saved model")
    try:
        return function(folder, **arguments)
    except SafetensorError as error:
        raise InputError(f"{folder}: expected whole weights, got half a file ({error}); copy it again") from error
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{folder}: expected a saved model, got: {reason}; save it again") from error


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A folder to write in; its files go to ``folder`` at the end.

    In between the configuration cannot be read: the old one over new weights, or the new one over old, would load,
    and without any a class of transformers takes its defaults and makes a model of billions of weights.
    """
    part = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        try:
            part.mkdir(parents=True)
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: expected a folder that can be written, got {error}; give another") from error
        yield part
        names = sorted(p.name for p in part.iterdir() if p.name != CONFIG)
        (folder / CONFIG).write_text(CUT_OFF)
        for name in names:
            os.replace(part / name, folder / name)
        for old in (*folder.glob("model-*-of-*.safetensors"), folder / "model.safetensors", folder / INDEX):
            if old.name not in names:
                old.unlink(missing_ok=True)
        os.replace(part / CONFIG, folder / CONFIG)
    finally:
        shutil.rmtree(part, ignore_errors=True)
