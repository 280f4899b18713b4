"""BERT's layers written out for reading on a CPU: few, large operations, in the layout that oneDNN wants.

What is saved beside Hugging Face's modules: query, key and value are one product; weights are laid out for oneDNN once
instead of at every product; residuals are added inside the product; no mask of ones is built or added; and a softmax,
which on a CPU took as long in bfloat16 as a layer's largest product, is one exponential and a division of the output.
The last layer runs for the memory's positions only (:mod:`rmt.executors.narrow`).
"""

from __future__ import annotations

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


class Layer:
    """One layer, ready to run.

    Args:
        layer: of a BERT.
    """

    def __init__(self, layer: Any) -> None:
        own, size = layer.attention.self, layer.attention.self.attention_head_size
        attended, fed = layer.attention.output, layer.output
        qkv = Product(own.query, own.key, own.value, scale=log2(e) / size**0.5)
        out, up, down = Product(attended.dense), Product(layer.intermediate.dense), Product(fed.dense)
        norms = (attended.LayerNorm, fed.LayerNorm)
        self._run = scripted.fast_layer()
        self._given = (
            [
                *(qkv.weight, qkv.bias, out.weight, out.bias, norms[0].weight, norms[0].bias),
                *(up.weight, up.bias, down.weight, down.bias, norms[1].weight, norms[1].bias),
            ],
            [product.packed for product in (qkv, out, up, down)],
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
        return BaseModelOutput(last_hidden_state=out)

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
        x = scripted.padded(x)
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
        own = layer.attention.self
        linears = (own.query, own.key, own.value, layer.attention.output.dense, layer.intermediate.dense)
        if not all(type(linear) is nn.Linear for linear in (*linears, layer.output.dense)):
            return False  # a layer that is quantised or adapted has products of its own
        if getattr(own, "is_decoder", False) or getattr(own, "position_embedding_type", "absolute") != "absolute":
            return False
    return bool(layers)
