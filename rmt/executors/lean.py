"""BERT's layers written out for reading on a CPU: few, large operations, in the layout that oneDNN wants.

What is saved beside Hugging Face's modules: query, key and value are one product; weights are laid out for oneDNN once
instead of at every product; residuals are added inside the product; no mask of ones is built or added; and a softmax,
which on a CPU took as long in bfloat16 as a layer's largest product, is one exponential and a division of the output.
The last layer runs for the memory's positions only (:mod:`rmt.executors.narrow`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import e, log, log2
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import ModelOutput

from rmt.executors.side_by_side import still_wanted

ROWS = 16  # a product with a number of rows that is no multiple of this may take twice as long
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
        if not self.packed:
            out = F.linear(x, self.weight, self.bias)
            return out if plus is None else out.add_(plus)
        linear = torch.ops.mkldnn._linear_pointwise
        out = (
            linear.default(x, self.weight, self.bias, "none", [], "")
            if plus is None
            else linear.binary(x, plus, self.weight, self.bias, "add")
        )
        return out


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


@dataclass(frozen=True)
class Layer:
    """One layer: its products, norms and activation, ready to run."""

    heads: int
    qkv: Product
    out: Product
    up: Product
    down: Product
    norms: tuple[nn.LayerNorm, nn.LayerNorm]
    activation: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, layer: Any) -> Layer:
        """The layer of a BERT. Scores come out in units of log 2, as :func:`attend` takes them."""
        own, size = layer.attention.self, layer.attention.self.attention_head_size
        return cls(
            heads=own.query.out_features // size,
            qkv=Product(own.query, own.key, own.value, scale=log2(e) / size**0.5),
            out=Product(layer.attention.output.dense),
            up=Product(layer.intermediate.dense),
            down=Product(layer.output.dense),
            norms=(layer.attention.output.LayerNorm, layer.output.LayerNorm),
            activation=layer.intermediate.intermediate_act_fn,
        )

    def __call__(self, x: Tensor, batch: int, width: int, rows: int, whole: bool) -> tuple[Tensor, Tensor]:
        """Hidden states after the layer, and the denominators of its softmax.

        Args:
            x: (batch * width, padded, hidden) from :func:`padded`.
            batch, width: sequences, and positions of each.
            rows: positions to give back of each, the first ones.
            whole: see :func:`attend`.
        """
        hidden = x.shape[1]
        q, k, v = self.qkv(x)[: batch * width].view(batch, width, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = (t.flatten(0, 1) for t in (q[:, :, :rows], k, v))
        seen, total = attend(q, k, v, whole)
        seen = seen.view(batch, self.heads, rows, -1).transpose(1, 2)
        first = x if rows == width else padded(x[: batch * width].view(batch, width, hidden)[:, :rows])
        mixed = x.new_zeros(len(first), hidden)
        mixed[: batch * rows].view(batch, rows, self.heads, -1).copy_(seen)
        x = self.norms[0](self.out(mixed, first))
        return self.norms[1](self.down(self.activation(self.up(x)), x)), total


def attend(
    q: Float[Tensor, "heads rows size"],
    k: Float[Tensor, "heads width size"],
    v: Float[Tensor, "heads width size"],
    whole: bool = False,
) -> tuple[Float[Tensor, "heads rows size"], Float[Tensor, "heads rows 1"]]:
    """Attention with weights 2^(q . k) over their sum, and that sum where no score is above what is taken from it.

    A softmax first takes from each row its greatest score, so that nothing overflows; to find it takes longer than the
    exponential. Here a row loses its score with its own position instead, as one more channel of the product: sums are
    then 1 at least, and overflow only where another score is above that one by 120 (in units of log 2). The caller
    looks at the sums.

    Args:
        q: of the first positions.
        whole: take out the greatest score after all.
    """
    own = torch.linalg.vecdot(q, k[:, : q.shape[1]])[..., None]
    scores = torch.bmm(torch.cat([q, -own], -1), torch.cat([k, k.new_ones(*k.shape[:2], 1)], -1).transpose(1, 2))
    if whole:
        weights = torch.softmax(scores * log(2), -1)
        return torch.bmm(weights, v), torch.ones_like(own)
    weights = torch.exp2(scores, out=scores)
    total = weights.sum(-1, keepdim=True)
    return torch.bmm(weights, v).div_(total), total


def padded(x: Float[Tensor, "batch width hidden"]) -> Float[Tensor, "rows hidden"]:
    """Positions of all sequences one after another, and zeros up to a multiple of :data:`ROWS`."""
    count = x.shape[0] * x.shape[1]
    flat = x.new_zeros(-(-count // ROWS) * ROWS, x.shape[2])
    flat[:count].view(x.shape).copy_(x)
    return flat


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
        self.layers = [Layer.of(layer) for layer in core.get_submodule(path).children()]

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
        embed: Any = self.view.embeddings
        x = embed(inputs_embeds=inputs_embeds)
        out, most = self._run(x, whole=False)
        if not most < LARGEST:  # also where it is no number
            out, _ = self._run(x, whole=True)
        return BaseModelOutput(last_hidden_state=out)

    def _run(self, x: Tensor, whole: bool) -> tuple[Tensor, float]:
        """Hidden states after the last layer, and the largest denominator of a softmax."""
        batch, width, hidden = x.shape
        rows, totals = min(self.rows, width), []
        x = padded(x)
        for layer in self.layers:
            still_wanted()
            wanted = rows if layer is self.layers[-1] else width
            x, total = layer(x, batch, width, wanted, whole)
            totals.append(total.amax())
        return x[: batch * rows].view(batch, rows, hidden), float(torch.stack(totals).amax())


def suits(core: nn.Module, path: str) -> bool:
    """Whether an encoder's layers are BERT's, unchanged, on a CPU and not for decoding."""
    layers: list[Any] = list(core.get_submodule(path).children())
    weight = next(core.parameters())
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.bfloat16):
        return False
    for layer in layers:
        own = layer.attention.self
        linears = (own.query, own.key, own.value, layer.attention.output.dense, layer.intermediate.dense)
        if not all(type(linear) is nn.Linear for linear in (*linears, layer.output.dense)):
            return False  # a layer that is quantised or adapted has products of its own
        if getattr(own, "is_decoder", False) or getattr(own, "position_embedding_type", "absolute") != "absolute":
            return False
    return bool(layers)
