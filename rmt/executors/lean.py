"""BERT's layers written out for reading on a CPU: few, large operations, in the layout that oneDNN wants.

What is saved beside Hugging Face's modules: query, key and value are one product; weights are laid out for oneDNN once
instead of at every product; residuals are added inside the product; no mask of ones is built or added; and a softmax,
which on a CPU took as long in bfloat16 as a layer's largest product, is one exponential and a division of the output.
The last layer runs for the memory's positions only (:mod:`rmt.executors.narrow`).
"""

from __future__ import annotations

from functools import cache
from math import e, log2
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.activations import GELUActivation
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.bert.modeling_bert import BertEmbeddings
from transformers.utils import ModelOutput

from rmt.executors import scripted
from rmt.executors.side_by_side import aside, still_wanted

LINEARS = ("attention.self.query", "attention.self.key", "attention.self.value",
           "attention.output.dense", "intermediate.dense", "output.dense")  # fmt: skip
ACTIVATIONS = {GELUActivation: "gelu", nn.ReLU: "relu"}
LARGEST = 2.0**120  # of a softmax's denominator; weights up to it times values stay below what bfloat16 holds


class Product:
    """x W^T + b; W is laid out for oneDNN beforehand where torch can do that, else used as it is.

    Args:
        linears: layers of one input, whose outputs are to stand side by side.
        scale: of the first one's output.
    """

    def __init__(self, *linears: nn.Linear, scale: float = 1.0) -> None:
        weights = [linear.weight.detach() for linear in linears]
        biases = [linear.bias.detach() for linear in linears]
        self.bias = torch.cat([(biases[0].float() * scale).to(biases[0].dtype), *biases[1:]])
        self.weight = torch.cat([(weights[0].float() * scale).to(weights[0].dtype), *weights[1:]])
        self.packed = _packs(self.weight)
        if self.packed:
            with torch.inference_mode():
                self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight)

    @property
    def given(self) -> list[Tensor]:
        """What a layer takes of it."""
        return [self.weight, self.bias]

    def __call__(self, x: Float[Tensor, "rows inputs"], plus: Tensor | None = None) -> Float[Tensor, "rows outputs"]:
        """The product, and ``plus`` of the same shape added to it."""
        return scripted.product(x, self.weight, self.bias, plus, self.packed)


def _packs(weight: Tensor) -> bool:
    """Whether oneDNN takes this weight. Private names: where a release has renamed them, slower and still right."""
    ops = torch.ops.mkldnn
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not all(hasattr(ops, name) for name in ("_reorder_linear_weight", "_linear_pointwise")):
        return False
    if weight.dtype == torch.bfloat16:
        return hasattr(ops, "_is_mkldnn_bf16_supported") and ops._is_mkldnn_bf16_supported()
    return weight.dtype == torch.float32


class ProductOfBytes:
    """x W^T + b over 8-bit weights, laid out for oneDNN beforehand.

    Args:
        linears, scale: as of :class:`Product`; layers that :func:`eight_bits` holds of.
    """

    def __init__(self, *linears: Any, scale: float = 1.0) -> None:
        with torch.inference_mode():
            weight = torch.cat([linear.weight.detach() for linear in linears])
            self.packed = torch.ops.onednn.qlinear_prepack(weight, None)
            scales = [linear.weight_scale.detach().float().flatten() for linear in linears]
            biases = [linear.bias.detach().float() for linear in linears]
            self.scale = torch.cat([scales[0] * scale, *scales[1:]])
            self.bias = torch.cat([biases[0] * scale, *biases[1:]])
            self.zeros = torch.zeros(len(weight), dtype=torch.int32)

    @property
    def given(self) -> list[Tensor]:
        """What :func:`rmt.executors.scripted.product_of_bytes` takes behind x."""
        return [self.packed, self.scale, self.zeros, self.bias]


KNOWN = "Int8Linear"  # by name: this package imports none that has it


def eight_bits(linear: Any) -> bool:
    """Whether a layer multiplies rows, each with a scale of its own, by 8-bit weights with one a channel."""
    weight = getattr(linear, "weight", None)
    if not isinstance(weight, Tensor) or weight.dtype != torch.int8 or not hasattr(linear, "weight_scale"):
        return False
    # Layers that are to treat memory apart do so themselves, and those of classes derived from the one known do more.
    apart = getattr(linear, "marks", None) is not None or type(linear).__name__ != KNOWN
    return getattr(linear, "activations", "") == "token" and linear.bias is not None and not apart


@cache
def multiplies_bytes() -> bool:
    """Whether oneDNN multiplies bytes here, and rightly: without VNNI large sums would be cut off."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qlinear_pointwise")):
        return False
    try:
        with torch.inference_mode():
            linear = nn.Linear(64, 16)
            linear.weight = nn.Parameter(torch.full((16, 64), 127, dtype=torch.int8), requires_grad=False)
            linear.weight_scale, linear.bias = torch.ones(16, 1), nn.Parameter(torch.ones(16))
            got = scripted.product_of_bytes(torch.full((16, 64), 127.0), *ProductOfBytes(linear).given)
    except (RuntimeError, AttributeError, TypeError, NotImplementedError):
        return False  # private names and forms, which a release may change
    return bool((got == 64 * 127 * 127 + 1).all())


class Layer:
    """One layer, ready to run.

    Args:
        layer: of a BERT.
    """

    def __init__(self, layer: Any) -> None:
        own, size = layer.attention.self, layer.attention.self.attention_head_size
        attended, fed = layer.attention.output, layer.output
        norms = (attended.LayerNorm, fed.LayerNorm)
        self.of_bytes = eight_bits(own.query)
        kind: Any = ProductOfBytes if self.of_bytes else Product
        qkv = kind(own.query, own.key, own.value, scale=log2(e) / size**0.5)
        out, up, down = kind(attended.dense), kind(layer.intermediate.dense), kind(fed.dense)
        affine = [[norm.weight.detach(), norm.bias.detach()] for norm in norms]
        if self.of_bytes:
            affine = [[tensor.float() for tensor in pair] for pair in affine]
        self._run = scripted.fast_layer_of_bytes() if self.of_bytes else scripted.fast_layer()
        self._given = (
            [*qkv.given, *out.given, *affine[0], *up.given, *down.given, *affine[1]],
            norms[0].weight.dtype == torch.bfloat16 if self.of_bytes else [p.packed for p in (qkv, out, up, down)],
            [norm.eps for norm in norms],
            ACTIVATIONS[type(layer.intermediate.intermediate_act_fn)],
            own.query.out_features // size,
        )

    def __call__(self, x: Tensor, batch: int, width: int, rows: int, whole: bool) -> tuple[Tensor, Tensor]:
        """See :func:`rmt.executors.scripted.layer`."""
        found: tuple[Tensor, Tensor] = self._run(x, *self._given, batch, width, rows, whole)
        return found


class LeanEncoder(nn.Module):
    """A view of an encoder with BERT's layers that gives last hidden states of the first ``rows`` positions only.

    It has its own copy of the layers' weights, of the same size.

    Args:
        view: gives the same by itself; run where positions are padded, and where gradients may be wanted.
        core: base model, in evaluation mode.
        path: of its list of layers, such as ``encoder.layer``.
        rows: positions whose last hidden states are wanted.
    """

    def __init__(self, view: nn.Module, core: nn.Module, path: str, rows: int) -> None:
        super().__init__()
        self.view, self.rows = view, rows
        self.layers = [Layer(layer) for layer in core.get_submodule(path).children()]
        self.of_bytes = self.layers[0].of_bytes

    def get_input_embeddings(self) -> nn.Module:
        """Word embeddings."""
        found: Any = self.view.get_input_embeddings
        return found()

    def forward(
        self, inputs_embeds: Float[Tensor, "batch width hidden"], attention_mask: Tensor | None = None, **kwargs: Any
    ) -> ModelOutput:
        """Last hidden states of the first positions, under ``last_hidden_state``."""
        if torch.is_grad_enabled() or (attention_mask is not None and not attention_mask.all()):
            other: ModelOutput = self.view(inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs)
            return other
        x = self._embed(inputs_embeds)
        with aside():
            out, most = self._run(x, whole=False)
            if not most < LARGEST:  # also where it is no number
                out, _ = self._run(x, whole=True)
        return BaseModelOutput(last_hidden_state=out)  # float32 where products are of bytes

    def _embed(self, words: Tensor) -> Tensor:
        """Words with their places: as the module gives it, BERT's own in three operations."""
        embed: Any = self.view.embeddings
        if type(embed) is not BertEmbeddings or type(embed.LayerNorm) is not nn.LayerNorm or embed.training:
            given: Tensor = embed(inputs_embeds=words)
            return given
        x = words + embed.token_type_embeddings.weight[0] + embed.position_embeddings.weight[: words.shape[1]]
        norm: Tensor = embed.LayerNorm(x)
        return norm

    def _run(self, x: Tensor, whole: bool) -> tuple[Tensor, float]:
        """Hidden states after the last layer, and the largest denominator of a softmax."""
        batch, width, hidden = x.shape
        rows, totals = min(self.rows, width), []
        x = scripted.padded(x.float() if self.of_bytes else x)
        for layer in self.layers:
            still_wanted()
            wanted = rows if layer is self.layers[-1] else width
            x, most = layer(x, batch, width, wanted, whole)
            totals.append(most)
        return x[: batch * rows].view(batch, rows, hidden), float(torch.stack(totals).amax())


def suits(core: nn.Module, path: str) -> bool:
    """Whether an encoder's layers are BERT's, unchanged, on a CPU and not for decoding."""
    layers: list[Any] = list(core.get_submodule(path).children())
    weight = next(core.parameters())
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.bfloat16):
        return False
    for layer in layers:
        if any(m._forward_hooks or m._forward_pre_hooks for m in layer.modules()):
            return False  # nobody would call them
        if type(layer.intermediate.intermediate_act_fn) not in ACTIVATIONS:
            return False
        norms = (layer.attention.output.LayerNorm, layer.output.LayerNorm)
        if not all(type(norm) is nn.LayerNorm and norm.bias is not None for norm in norms):
            return False
        own, linears = layer.attention.self, [layer.get_submodule(name) for name in LINEARS]
        plain = all(type(linear) is nn.Linear for linear in linears)
        if not plain and not (all(map(eight_bits, linears)) and multiplies_bytes()):
            return False  # a layer that is adapted, or quantised in other ways, has products of its own
        if plain != (type(layers[0].attention.self.query) is nn.Linear):
            return False
        if getattr(own, "is_decoder", False) or getattr(own, "position_embedding_type", "absolute") != "absolute":
            return False
    return bool(layers)
