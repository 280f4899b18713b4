"""Layers that read one and the same input, as query, key and value do: rounded once, multiplied once."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from efficiency.int8 import cpu

# Names of layers within one module that are given the same tensor, one after the other.
TOGETHER = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("query_proj", "key_proj", "value_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("gate_proj", "up_proj"),
)


class Siblings:
    """Layers whose products are formed together when the first of them is called, and handed to the others.

    A tensor of inference mode does not tell of writes in place, so this is for layers between whose calls the model's
    own code makes none. Any of them may also be called alone.

    Args:
        layers: with ``weight`` (out, in) in 8 bits and ``weight_scale`` (out, 1).
    """

    def __init__(self, layers: list[Any]) -> None:
        self.layers = layers
        self._forget()

    def _forget(self) -> None:
        self._laid: tuple[Any, cpu.Packed] | None = None
        self._last: tuple[Any, Any, dict[int, Tensor]] | None = None

    def forget(self) -> None:
        """The weights have changed in a way that they do not tell."""
        self._forget()

    def product(
        self, x: Float[Tensor, "*rows in"], flat: Float[Tensor, "rows in"], who: nn.Module
    ) -> Float32[Tensor, "rows out"]:
        """Of one layer, without its bias.

        Args:
            x: as the layer was given it.
            flat: the same in two dimensions, and in the format of the product.
            who: the layer.
        """
        last = self._last  # read once: other threads may write it
        state = 0 if x.is_inference() else x._version, flat.dtype, torch.is_inference_mode_enabled()
        if last is not None and last[0]() is x and last[1] == state and id(who) in last[2]:
            return last[2].pop(id(who))
        if len(flat) == 1 and "int_mm" in cpu.kernels():
            row, scale = cpu.rounded_rows(flat, "int_mm")
            parts = [cpu.one_row(row, layer).mul_(scale) for layer in self.layers]
        else:
            packed = self._packed()
            rows, scales = cpu.rounded_rows(flat, packed.kernel)
            parts = list(packed(rows).mul_(scales).split([layer.out_features for layer in self.layers], dim=1))
        left = {id(layer): part for layer, part in zip(self.layers, parts, strict=True)}
        own = left.pop(id(who))
        self._last = weakref.ref(x), state, left
        return own

    def _packed(self) -> cpu.Packed:
        stamp = tuple(cpu.stamp(layer) for layer in self.layers)
        if self._laid is None or self._laid[0] != stamp:
            with torch.inference_mode(False), torch.no_grad():
                weight = torch.cat([layer.weight for layer in self.layers])
                scale = torch.cat([layer.weight_scale for layer in self.layers])
                self._laid = stamp, cpu.Packed(weight, scale, cpu.kernels()[0])
        return self._laid[1]

    def __getstate__(self) -> dict[str, Any]:
        return {"layers": self.layers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.layers = state["layers"]
        self._forget()


def put_together(model: nn.Module, kind: type[nn.Module]) -> int:
    """Let layers of ``kind`` that stand together, by the names of :data:`TOGETHER`, form their products together.

    Args:
        model: changed in place; once more does no harm.
        kind: a class whose layers have an attribute ``siblings``; not those of classes derived from it, which may do
            something of their own with the input. Those that round rows one by one are taken.

    Returns:
        How many groups there are.
    """
    found = 0
    for module in model.modules():
        for names in TOGETHER:
            group: list[Any] = [part for name in names if type(part := module._modules.get(name)) is kind]
            if len(group) < 2 or len({(layer.in_features, layer.activations) for layer in group}) > 1:
                continue
            if group[0].activations == "token":
                found += 1
                siblings = Siblings(group)
                for layer in group:
                    layer.siblings = siblings
    return found
