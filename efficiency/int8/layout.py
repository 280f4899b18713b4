"""Which layers of a model are 8-bit, in the words of compressed-tensors: read from a model, and from a file.

A ``config.json`` of Hugging Face says it under ``quantization_config``: groups of layers with how their weights and
inputs are quantised, and a list of layers to leave. Of all that compressed-tensors can say this knows one part, that
of :class:`~efficiency.int8.linear.Int8Linear`: ``int-quantized``, symmetric int8 weights with a scale of each output
channel, and symmetric int8 inputs with one of each token, of each tensor as it comes, or of a tensor as measured.
What vLLM, transformers or llm-compressor write in that part is read too. Knows nothing of files and transformers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from efficiency.errors import InputError
from efficiency.int8.linear import Int8Linear
from efficiency.int8.multiplied import MultipliedInt8Linear

METHOD = "compressed-tensors"
FORMAT = "int-quantized"
# (strategy, dynamic) of inputs, by the name that Int8Linear has for it.
INPUTS = {"token": ("token", True), "tensor": ("tensor", True), "static": ("tensor", False)}
FLOAT_MEMORY = "float_memory"
# What no other program may take for FORMAT: it would leave the multiplication out, and nothing would say so.
MULTIPLIED, MULTIPLIED_FORMAT = "multiplied", "int-quantized-multiplied"
CURE = "quantise the float model again, or load it with the program that wrote it"


@dataclass(frozen=True)
class Layout:
    """Which layers are 8-bit, and how their inputs are.

    Attributes:
        groups: targets, and the ``activations`` of :class:`~efficiency.int8.linear.Int8Linear` for them. A target is a
            layer's dotted name, ``re:`` and a pattern that its beginning matches, or the name of a class.
        ignore: layers left as they are, named like targets.
        float_memory: whether inputs at memory are left as they are, in a model that tells where it is. No part of
            compressed-tensors, which knows no memory.
        multiplied: 8-bit layers that multiply their input first, named like targets. No part of compressed-tensors;
            a file with some has another format than others, so that no other program loads it.
    """

    groups: tuple[tuple[tuple[str, ...], str], ...]
    ignore: tuple[str, ...] = ()
    float_memory: bool = False
    multiplied: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: nn.Module) -> Layout:
        """The layout of a model: one group for all linear layers, or groups of names where their inputs differ.

        GPT-2's layers are named ``Conv1D``, as in the float model. Their 8-bit weights are (out, in) like all others,
        so a program that takes them for the float model's, which are (in, out), finds shapes that do not fit.

        Raises:
            InputError: no 8-bit layer, or one that does more than this layout can say.
        """
        found: dict[str, list[str]] = {}
        kinds: dict[str, None] = {}
        whole: list[str] = []
        more: list[str] = []
        apart = hasattr(model, "on_positions") and any(
            module.marks is not None for module in model.modules() if isinstance(module, Int8Linear)
        )
        for name, module in model.named_modules(remove_duplicate=False):
            if isinstance(module, Int8Linear):
                if isinstance(module, MultipliedInt8Linear):
                    more.append(name)
                elif type(module) is not Int8Linear:
                    raise InputError(
                        f"{name}: expected an Int8Linear, got a {type(module).__name__}, which the layout of files has "
                        "no place for; save what it was made from"
                    )
                found.setdefault(module.activations, []).append(name)
                kinds[module.stands_for] = None
            elif isinstance(module, nn.Linear) or is_conv1d(module):
                whole.append(name)
        if not found:
            raise InputError(
                f"expected a model with 8-bit layers, got {type(model).__name__} without; quantise it first"
            )
        if len(found) == 1:
            return cls(((tuple(kinds), next(iter(found))),), tuple(whole), apart, tuple(more))
        groups = tuple((tuple(names), kind) for kind, names in found.items())
        return cls(groups, tuple(whole), apart, tuple(more))

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Layout:
        """The layout that a ``quantization_config`` describes.

        Raises:
            InputError: another method or format, or weights or inputs that are not as Int8Linear has them.
        """
        _require(config.get("quant_method") == METHOD, f"quant_method {METHOD!r}", config.get("quant_method"))
        multiplied = tuple(config.get(MULTIPLIED) or ())
        format = MULTIPLIED_FORMAT if multiplied else FORMAT
        _require(config.get("format") == format, f"format {format!r}", config.get("format"))
        _require(not config.get("kv_cache_scheme"), "no kv_cache_scheme", config.get("kv_cache_scheme"))
        groups = config.get("config_groups")
        _require(isinstance(groups, Mapping) and bool(groups), "config_groups", groups)
        assert isinstance(groups, Mapping)
        read = tuple(_group(name, group, format) for name, group in groups.items())
        return cls(read, tuple(config.get("ignore") or ()), bool(config.get(FLOAT_MEMORY)), multiplied)

    def to_dict(self) -> dict[str, Any]:
        """The ``quantization_config`` of compressed-tensors."""
        groups = {}
        format = MULTIPLIED_FORMAT if self.multiplied else FORMAT
        ours = {FLOAT_MEMORY: self.float_memory, MULTIPLIED: list(self.multiplied)}
        for i, (targets, kind) in enumerate(self.groups):
            strategy, dynamic = INPUTS[kind]
            groups[f"group_{i}"] = {
                "targets": list(targets),
                "weights": _args("channel", False),
                "input_activations": _args(strategy, dynamic),
                "output_activations": None,
                "format": format,
            }
        return {
            "quant_method": METHOD,
            "format": format,
            "quantization_status": "compressed",
            "config_groups": groups,
            "ignore": list(self.ignore),
            "kv_cache_scheme": None,
            "global_compression_ratio": None,
        } | {name: value for name, value in ours.items() if value}

    def activations(self, module: nn.Module, *names: str) -> str | None:
        """How the inputs of a linear layer are quantised; None where it stays as it is.

        Names come before classes, as in compressed-tensors.

        Args:
            names: the layer's dotted name, and others that a file may have for it.
        """
        if any(_matches(target, module, names) for target in self.ignore):
            return None
        fits = [
            (not any(_matches(target, None, names) for target in targets), kind)
            for targets, kind in self.groups
            if any(_matches(target, module, names) for target in targets)
        ]
        return min(fits, key=lambda fit: fit[0])[1] if fits else None

    def multiplies(self, *names: str) -> bool:
        """Whether the layer of these names multiplies its input first."""
        return any(_matches(target, None, names) for target in self.multiplied)


def is_conv1d(module: nn.Module) -> bool:
    """Whether it is GPT-2's ``Conv1D``: a linear layer with its weight as (in, out), a class of transformers."""
    return type(module).__name__ == "Conv1D"


def _args(strategy: str, dynamic: bool) -> dict[str, Any]:
    """How compressed-tensors names symmetric int8."""
    return {"num_bits": 8, "type": "int", "symmetric": True, "strategy": strategy, "dynamic": dynamic}


def _matches(target: str, module: nn.Module | None, names: tuple[str, ...]) -> bool:
    if target.startswith("re:"):
        return any(re.match(target.removeprefix("re:"), name) for name in names)
    return target in names or (module is not None and any(target == kind.__name__ for kind in type(module).__mro__))


def _group(name: str, group: Any, format: str) -> tuple[tuple[str, ...], str]:
    """Targets of a group, and the kind of its inputs."""
    _require(isinstance(group, Mapping), f"{name} with weights and input_activations", group)
    _require(group.get("format") in (None, format), f"{name} in format {format!r}", group.get("format"))
    _require(not group.get("output_activations"), f"{name} without output_activations", group.get("output_activations"))
    kind = None
    for part in ("weights", "input_activations"):
        args = group.get(part)
        _require(isinstance(args, Mapping), f"{name}.{part}", args)
        got = {key: args.get(key) for key in ("num_bits", "type", "symmetric")}
        _require(got == {"num_bits": 8, "type": "int", "symmetric": True}, f"{name}.{part} in symmetric int8", got)
        how = str(args.get("strategy")), bool(args.get("dynamic"))
        if part == "weights":
            _require(how == ("channel", False), f"{name}.weights with a scale of each channel", how[0])
        else:
            kind = next((k for k, known in INPUTS.items() if known == how), None)
            said = f"{name}.input_activations of each token, or of a tensor"
            _require(kind is not None, said, f"{how[0]}, {'dynamic' if how[1] else 'static'}")
    assert kind is not None
    return tuple(group.get("targets") or ()), kind


def _require(holds: bool, expected: str, got: object) -> None:
    if not holds:
        raise InputError(f"quantization_config: expected {expected}, got {got!r}; {CURE}")
