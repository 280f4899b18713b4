"""Adaption prompts in an attention module (LLaMA-Adapter, arXiv 2303.16199, section 3.2): zero-init attention.

For a query q of head h, with keys K and values V of the words, and keys K_p = W_k P, V_p = W_v P of K learned prompts P
(equations 2 to 8)

    S = [softmax(q K_p^T / sqrt(d)) * tanh(g_h) ; softmax(q K^T / sqrt(d))],   output = S [V_p ; V]

Two softmaxes, and one gate a head that starts at zero. The second product is what the module computes already, so the
first one is added to it: where attention functions of transformers return, behind which the module's own output
projection follows. There the query carries its position (and its norm, where there is one); prompts have none. With
grouped queries a prompt's key serves all queries of its group, as a word's does.

A module keeps its place, name, weights and hooks; its class becomes one derived from its own, whose forward runs on a
view of it whose configuration asks for our attention function, which calls the one that was asked for. Nothing is
kept between calls. Knows nothing of models beyond where an attention module keeps its projections.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from efficiency.surgery import become
from multimodal.adapter.picture import Picture, shown
from rmt.errors import InputError

NAME = "adaption_prompts"  # of our function, among the attention functions of transformers


@dataclass(frozen=True)
class Projections:
    """Where a layer keeps its attention, and this its projections.

    Attributes:
        path: of the attention module in a layer.
        key, value: linear layers in it.
        head_size: name of the attribute that holds a head's size.
        key_norm: of heads, where there is one.
    """

    path: str
    key: str
    value: str
    head_size: str = "head_dim"
    key_norm: str = "k_norm"


LIKE_LLAMA = Projections("self_attn", "k_proj", "v_proj")
LIKE_BERT = Projections("attention.self", "key", "value", "attention_head_size")
ATTENTIONS: dict[str, Projections] = {
    "llama": LIKE_LLAMA,
    "mistral": LIKE_LLAMA,
    "qwen2": LIKE_LLAMA,
    "qwen3": LIKE_LLAMA,
    "gemma": LIKE_LLAMA,
    "bert": LIKE_BERT,
    "roberta": LIKE_BERT,
}


class Prompts(nn.Module):
    """What an adapted attention module has beside its own: prompts and gates; it is called ``adapter`` there.

    Args:
        where: see :class:`Projections`.
        hidden, heads: of the model.
        count: prompts; 0 where pictures stand in their place.
        visual: whether pictures are prompts here.
        adds: whether a picture is added to the prompts.
        std: spread of fresh prompts.
    """

    def __init__(
        self, where: Projections, hidden: int, heads: int, *, count: int, visual: bool, adds: bool, std: float
    ) -> None:
        super().__init__()
        self.where, self.adds, self.std = where, adds, std
        self.prompts = nn.Parameter(torch.empty(count, hidden)) if count else None
        self.gate = nn.Parameter(torch.empty(heads)) if count else None
        self.visual_gate = nn.Parameter(torch.empty(heads)) if visual else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, init: Any = nn.init) -> None:
        """Prompts at random, gates at zero, where they change nothing."""
        if self.prompts is not None:
            init.normal_(self.prompts, mean=0.0, std=self.std)
        for gate in (self.gate, self.visual_gate):
            if gate is not None:
                init.constant_(gate, 0.0)

    def forward(
        self, attention: Any, query: Float[Tensor, "batch heads width size"], scaling: float
    ) -> Float[Tensor, "batch width heads size"]:
        """What prompts add to the heads' outputs.

        Args:
            attention: the module, whose projections make keys and values of prompts.
            query: as it meets the keys of words.
            scaling: of its products with them.
        """
        picture = shown()
        picture = None if picture is None else picture.for_rows(query.shape[0])
        if self.prompts is not None and self.gate is not None:
            out = self._attend(attention, query, self._with(picture).to(query.dtype), self.gate, scaling)
        else:
            out = torch.zeros_like(query).transpose(1, 2)
        if self.visual_gate is not None and picture is not None:
            added = self._attend(attention, query, picture.tokens.to(query.dtype), self.visual_gate, scaling)
            # Not by a product: a row that sees nothing is to be free of what its zeros would give, a bias for one.
            out = torch.where(picture.seen[:, None, None, None], out + added, out)
        return out

    def _with(self, picture: Picture | None) -> Tensor:
        """Prompts of shape (1 or batch, count, hidden), the picture added to each (section 3.3)."""
        assert self.prompts is not None
        if picture is None or not self.adds:
            return self.prompts[None]
        if picture.tokens.shape[1] != 1:
            raise InputError(
                f"picture: expected one global token of each image for variant 'v1', got {picture.tokens.shape[1]}; "
                "give global features, or take variant='v2' with visual_layers"
            )
        # A choice, not a sum alone: a checkpoint that computes this again without the picture then saves other tensors
        # than before, which torch refuses.
        both = self.prompts + picture.tokens.to(self.prompts.dtype)
        return torch.where(picture.seen[:, None, None], both, self.prompts)

    def _attend(self, attention: Any, query: Tensor, prompts: Tensor, gate: Tensor, scaling: float) -> Tensor:
        def heads(name: str) -> Tensor:
            made: Tensor = getattr(attention, name)(prompts)
            return made.unflatten(-1, (-1, getattr(attention, self.where.head_size)))

        key, value = heads(self.where.key), heads(self.where.value)
        norm = getattr(attention, self.where.key_norm, None)
        key = key if norm is None else norm(key)
        return prompt_attention(query, key.transpose(1, 2), value.transpose(1, 2), gate, scaling)


def prompt_attention(
    query: Float[Tensor, "batch heads width size"],
    key: Float[Tensor, "rows groups prompts size"],
    value: Float[Tensor, "rows groups prompts size"],
    gate: Float[Tensor, " heads"],
    scaling: float,
) -> Float[Tensor, "batch width heads size"]:
    """tanh(g) softmax(q K_p^T scaling) V_p, the softmax in float32; see the module.

    Args:
        query: of words.
        key, value: of prompts, the same for all rows (rows = 1) or for each; one head of them a group of queries.
        gate: before the tanh.
    """
    grouped = query.unflatten(1, (key.shape[1], -1))
    scores = grouped @ key[:, :, None].to(query.dtype).mT * scaling
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    out = (weights @ value[:, :, None].to(query.dtype)).flatten(1, 2)
    return (out * gate.float().tanh().to(out.dtype)[:, None, None]).transpose(1, 2)


class _Asking:
    """A configuration as it is, but for the attention function that it asks for."""

    _attn_implementation = NAME

    def __init__(self, config: Any) -> None:
        self.__dict__["config"] = config

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["config"], name)


class _View:
    """An attention module for one forward: itself, but for the configuration.

    Attributes:
        adapted: the module.
        called: one entry for each call of :func:`_attend`.
    """

    def __init__(self, adapted: Any, called: list[bool]) -> None:
        self.adapted, self.called, self.config = adapted, called, _Asking(adapted.config)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["adapted"], name)


def _attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any) -> Any:
    """An attention function of transformers: the one that was asked for, and what prompts add."""
    own = module.adapted
    module.called.append(True)
    real: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(own.config._attn_implementation, own.eager)
    out, weights = real(own, query, key, value, mask, **kwargs)
    scaling = kwargs.get("scaling") or query.shape[-1] ** -0.5
    return out + own.adapter(own, query, scaling), weights


@cache
def adapted(kind: Any) -> type[nn.Module]:
    """The class that attention modules of a class become."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        called: list[bool] = []
        out = kind.forward(_View(self, called), *args, **kwargs)
        if not called:
            raise InputError(
                f"adapter: expected {kind.__name__} to call one of transformers' attention functions, got one that "
                "does not, so that prompts would be ignored; use a release of transformers that this library names"
            )
        return out

    def __reduce_ex__(self: Any, protocol: Any) -> Any:
        # By the class that it is derived from: a class made here is not found by its name.
        return _blank, (kind,), vars(self).copy()

    # A model family's own eager attention lies beside its attention module, not among transformers' functions.
    lies = (getattr(sys.modules[some.__module__], "eager_attention_forward", None) for some in kind.__mro__)
    eager: Any = next((function for function in lies if function is not None), None)
    inside = {
        "forward": forward,
        "eager": staticmethod(eager),
        "__reduce_ex__": __reduce_ex__,
        "__module__": __name__,
    }
    return type(f"Adapted{kind.__name__}", (kind,), inside)


def _blank(kind: Any) -> nn.Module:
    """An adapted module with nothing in it, for copies and pickles."""
    if NAME not in ALL_ATTENTION_FUNCTIONS.valid_keys():
        ALL_ATTENTION_FUNCTIONS.register(NAME, _attend)
    made: Any = adapted(kind)
    blank: nn.Module = made.__new__(made)
    return blank


def adapt(attention: nn.Module, prompts: Prompts) -> None:
    """Let an attention module attend to prompts, in place.

    Raises:
        InputError: it does already.
    """
    if is_adapted(attention):
        raise InputError("adapter: expected a model without one, got one that has it; load the base model again")
    if NAME not in ALL_ATTENTION_FUNCTIONS.valid_keys():
        ALL_ATTENTION_FUNCTIONS.register(NAME, _attend)
    attention.add_module("adapter", prompts)
    kind: Any = type(attention)
    become(attention, adapted(kind))


def restore(attention: nn.Module) -> None:
    """Let an adapted module be what it was, in place."""
    del attention._modules["adapter"]
    become(attention, type(attention).__bases__[0])


def is_adapted(attention: nn.Module) -> bool:
    """Whether a module attends to prompts."""
    return isinstance(getattr(attention, "adapter", None), Prompts)
