"""Which norm or linear layer may carry the scales of which linear layers' inputs, found by a model's structure.

A *group* is linear layers that read one and the same tensor, and what makes that tensor. Dividing a channel of the
tensor by s and multiplying that column of the layers' weights by s changes nothing (SmoothQuant, arXiv 2211.10438, eq.
3). The division costs nothing where it goes into what stands before:

``norm``: an affine norm whose output nothing else reads. Pre-norm families only: behind the norm of a post-norm layer
(BERT, RoBERTa, DistilBERT, DeBERTa) the same tensor is the residual of the next norm, which takes mean and variance
over its channels, and LN(d + y) cannot be had from y / s without knowing s.
``linear``: a linear layer with only operations behind it that commute with a factor a channel: value to output
projection (attention mixes positions, never channels of a head), up to down projection (one factor of the product
``act(gate) * up``), fc1 to fc2 through ReLU but not through GELU. Where heads share values (grouped queries) their
channels share one scale.
``input``: neither, what is left is a multiplication at run time, see :mod:`efficiency.smoothquant.multiply`.

Layers are known by the name of their class; to add a family, enter its layer in :data:`LAYERS`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from efficiency.smoothquant.weights import GAINS, is_linear, sizes


@dataclass(frozen=True)
class Norm:
    """A norm and all linear layers that read it, as paths inside a layer."""

    norm: str
    readers: tuple[str, ...]


@dataclass(frozen=True)
class Linear:
    """A linear layer and the one that reads what it gives.

    Attributes:
        producer, reader: paths inside a layer.
        rows: which output of the producer is which input of the reader, see :func:`output_rows`.
        head: path of the number of channels of a head, where ``rows`` needs it.
        activation: path of what stands between and must commute with a positive factor, empty where nothing does.
    """

    producer: str
    reader: str
    rows: str = "same"
    head: str = ""
    activation: str = ""


@dataclass(frozen=True)
class Input:
    """Linear layers of one input that nothing can carry scales for."""

    readers: tuple[str, ...]


Part = Norm | Linear | Input


def _like_bert(query: str, key: str, value: str) -> tuple[Part, ...]:
    return (
        Linear(f"attention.self.{value}", "attention.output.dense"),
        Linear("intermediate.dense", "output.dense", activation="intermediate.intermediate_act_fn"),
        Input(tuple(f"attention.self.{name}" for name in (query, key, value))),
        Input(("intermediate.dense",)),
    )


_LIKE_LLAMA: tuple[Part, ...] = (
    Linear("self_attn.v_proj", "self_attn.o_proj", rows="grouped", head="self_attn.head_dim"),
    Linear("mlp.up_proj", "mlp.down_proj"),
    Norm("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    Norm("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
)
_BERT = _like_bert("query", "key", "value")

# Linear producers first: their rows, scaled, are what the norms' readers then hold.
LAYERS: dict[str, tuple[Part, ...]] = {
    "BertLayer": _BERT,
    "RobertaLayer": _BERT,
    "DebertaV2Layer": _like_bert("query_proj", "key_proj", "value_proj"),
    "TransformerBlock": (  # DistilBERT
        Linear("attention.v_lin", "attention.out_lin"),
        Linear("ffn.lin1", "ffn.lin2", activation="ffn.activation"),
        Input(("attention.q_lin", "attention.k_lin", "attention.v_lin")),
        Input(("ffn.lin1",)),
    ),
    "ModernBertEncoderLayer": (
        Linear("attn.Wqkv", "attn.Wo", rows="last"),
        Linear("mlp.Wi", "mlp.Wo", rows="last"),
        Norm("attn_norm", ("attn.Wqkv",)),  # the first layer has none
        Norm("mlp_norm", ("mlp.Wi",)),
    ),
    "LlamaDecoderLayer": _LIKE_LLAMA,
    "MistralDecoderLayer": _LIKE_LLAMA,
    "Qwen2DecoderLayer": _LIKE_LLAMA,
    "Qwen3DecoderLayer": _LIKE_LLAMA,
    "GemmaDecoderLayer": _LIKE_LLAMA,
    "GPT2Block": (
        Linear("attn.c_attn", "attn.c_proj", rows="last"),
        Linear("mlp.c_fc", "mlp.c_proj", activation="mlp.act"),
        Norm("ln_1", ("attn.c_attn",)),
        Norm("ln_2", ("mlp.c_fc",)),
    ),
    "GPTNeoXLayer": (
        Linear("attention.query_key_value", "attention.dense", rows="thirds", head="attention.head_size"),
        Linear("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", activation="mlp.act"),
        Norm("input_layernorm", ("attention.query_key_value",)),
        Norm("post_attention_layernorm", ("mlp.dense_h_to_4h",)),
    ),
}


@dataclass(frozen=True)
class Group:
    """Linear layers of one input, and what carries their scales.

    Attributes:
        kind: ``norm``, ``linear`` or ``input``.
        producer: dotted name of the carrier, empty where there is none.
        readers: dotted names of all that reads the tensor.
        rows: of a linear producer: the output that each input channel comes from.
        why: of an ``input``: why nothing carries its scales.
    """

    kind: str
    producer: str
    readers: tuple[str, ...]
    rows: Int[Tensor, " channels"] | None = None
    why: str = ""

    @property
    def name(self) -> str:
        """Its name: that of the first reader."""
        return self.readers[0]


def output_rows(rows: str, outputs: int, inputs: int, head: int = 0) -> Int[Tensor, " inputs"]:
    """For each input channel of a reader, the output of the producer that it comes from.

    Args:
        rows: ``same``; ``last``, the last part of a fused layer; ``thirds``, query, key and value side by side in each
            head; ``grouped``, each head of values repeated for the queries that share it.
        outputs: of the producer.
        inputs: of the reader.
        head: channels of a head.
    """
    at = torch.arange(inputs)
    if rows == "last":
        return at + (outputs - inputs)
    if rows == "thirds":
        return at // head * 3 * head + 2 * head + at % head
    if rows == "grouped":
        return at // head // (inputs // outputs) * head + at % head
    assert (rows, outputs) == ("same", inputs), f"{rows}: {outputs} outputs, {inputs} inputs"
    return at


def find_groups(model: nn.Module) -> list[Group]:
    """All groups of a model's known layers; producers come before the groups that read what they scale.

    A norm or linear layer that hangs in several places, shares its weights, has hooks that read or change its output,
    or is of an unknown kind carries nothing: its readers' groups are ``input``, with the reason.
    """
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    owners = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    groups: list[Group] = []
    carried: set[str] = set()
    for name, layer in model.named_modules():
        for part in LAYERS.get(type(layer).__name__, ()):
            found = _group(f"{name}." if name else "", layer, part, places, owners)
            if found is not None:
                groups.append(found)
                carried.update(found.readers if found.kind != "input" else ())
    return groups


def _group(prefix: str, layer: nn.Module, part: Part, places: Counter[int], owners: Counter[int]) -> Group | None:
    """One part of a layer as a group; None where its linear layers are no longer plain ones."""
    readers = (part.reader,) if isinstance(part, Linear) else part.readers
    names = tuple(prefix + reader for reader in readers)
    modules = [_at(layer, reader) for reader in readers]
    if not all(is_linear(module) for module in modules):
        return None
    if any(_shared(module, places, owners) for module in modules):
        return None  # a second place would read the scaled weight with another input

    def uncarried(why: str) -> Group:
        return Group("input", "", names, why=why)

    if isinstance(part, Input):
        return uncarried("its input is a residual, too")
    path = part.norm if isinstance(part, Norm) else part.producer
    producer = _at(layer, path)
    if isinstance(part, Norm):
        if type(producer).__name__ not in GAINS or getattr(producer, "weight", None) is None:
            return uncarried(f"{path} is {type(producer).__name__}, no norm with weights that is known")
    elif not is_linear(producer):
        return uncarried(f"{path} is {type(producer).__name__}, no plain linear layer")
    if _shared(producer, places, owners):
        return uncarried(f"{path} or its weights are used in several places")
    if producer._forward_hooks:
        return uncarried(f"{path} has hooks that may read its output")
    if isinstance(part, Norm):
        return Group("norm", prefix + path, names)
    if part.activation and not commutes(_at(layer, part.activation)):
        return uncarried(f"{type(_at(layer, part.activation)).__name__} stands between it and {path}")
    outputs, inputs = sizes(producer)[0], sizes(modules[0])[1]
    head = int(_at(layer, part.head)) if part.head else 0
    return Group("linear", prefix + path, names, output_rows(part.rows, outputs, inputs, head))


def commutes(activation: Any) -> bool:
    """Whether act(c x) = c act(x) for every c > 0."""
    return isinstance(activation, nn.ReLU | nn.LeakyReLU | nn.Identity) or activation in (
        torch.relu,
        nn.functional.relu,
    )


def _shared(module: nn.Module, places: Counter[int], owners: Counter[int]) -> bool:
    """Whether a module hangs in several places, or another one has a parameter of it."""
    own = [p for p in module._parameters.values() if p is not None]
    return places[id(module)] > 1 or any(owners[id(p)] > 1 for p in own)


def _at(module: Any, path: str) -> Any:
    """What stands at a path of attributes; None where nothing does."""
    for name in path.split("."):
        module = getattr(module, name, None)
    return module
