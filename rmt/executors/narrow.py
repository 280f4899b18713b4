"""An encoder whose last layer runs for the first positions only: all that a memory needs of it. Exact.

The last layer's outputs at the text are what a head over the text would look at; while a document is read there is
none. Keys and values still come from every position, so the memory is that of the whole layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rmt.backbone import family_of
from rmt.cells.layout import Teller, marked, telling
from rmt.executors.lean import LeanEncoder, suits
from rmt.layers import layers_of, put, shallow
from rmt.models.base import RMTPreTrainedModel


@dataclass(frozen=True)
class Writer:
    """A model for writing memories alone, as :class:`rmt.executors.ReadingModel`; weights are the model's own."""

    cell: Any
    core: nn.Module
    training: bool = False


def writer(model: RMTPreTrainedModel) -> Any:
    """What executors should read with: the model itself, or the same with a narrow last layer where it has BERT's.

    On a CPU BERT's layers are written out (:mod:`rmt.executors.lean`), with a copy of their weights.

    Args:
        model: in evaluation mode; left as it is, and read with as it is where its attention is of a class of its own.
    """
    family = family_of(model.config.backbone_config)
    if not family.like_bert or model.config.memory != "tokens" or not model.config.num_memory_tokens:
        return model
    if not all(_is_plain(layer.get_submodule("attention.self")) for layer in layers_of(model.core, family)):
        return model  # what another class adds to attention, such as prompts, is not written out here
    rows = 1 + model.config.num_memory_tokens
    view = narrow(model.core, family.layers, rows, model.cell.teller)
    return Writer(
        model.cell, LeanEncoder(view, model.core, family.layers, rows) if suits(model.core, family.layers) else view
    )


def _is_plain(attention: nn.Module) -> bool:
    """Whether an attention module is of a class of transformers, and none derived from it."""
    return type(attention).__module__.startswith("transformers.")


def narrow(core: nn.Module, path: str, rows: int, teller: Teller | None = None) -> nn.Module:
    """A view of an encoder that gives last hidden states of the first ``rows`` positions only.

    Modules on the way to the layer are copied without their parts, all others are shared.

    Args:
        core: base model with a list of BERT layers at ``path``, such as ``encoder.layer``.
        rows: of [CLS] and memory.
        teller: told where memory stands among those positions, when they run by themselves.
    """
    view = shallow(core)
    *before, last = core.get_submodule(path).children()
    put(view, path, nn.ModuleList([*before, LastLayer(last, rows, teller)]))
    return view


class LastLayer(nn.Module):
    """A BERT layer (``attention.self``, ``attention.output``, ``feed_forward_chunk``) run for its first positions."""

    def __init__(self, layer: nn.Module, rows: int, teller: Teller | None = None) -> None:
        super().__init__()
        self.layer = layer
        self.rows = rows
        self.teller = teller

    def forward(
        self,
        hidden_states: Float[Tensor, "batch width hidden"],
        attention_mask: Tensor | None = None,
        *_: Any,
        **__: Any,
    ) -> Float[Tensor, "batch rows hidden"]:
        """Last hidden states of the first positions.

        Args:
            hidden_states: of all positions, from the layer before.
            attention_mask: true, or zero, where a position may be looked at; (batch, 1, width or 1, width).
        """
        layer: Any = self.layer
        attention = layer.attention.self
        first = hidden_states[:, : self.rows]
        mask = attention_mask
        if isinstance(mask, Tensor) and mask.shape[2] > 1:
            mask = mask[:, :, : self.rows]

        def heads(x: Tensor) -> Tensor:
            return x.unflatten(2, (-1, attention.attention_head_size)).transpose(1, 2)

        k, v = heads(attention.key(hidden_states)), heads(attention.value(hidden_states))
        with telling(self.teller, lambda: marked(first, slice(1, self.rows))):
            q = heads(attention.query(first))
            seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=attention.scaling)
            out: Tensor = layer.feed_forward_chunk(layer.attention.output(seen.transpose(1, 2).flatten(2), first))
        return out
