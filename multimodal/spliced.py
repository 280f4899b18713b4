"""A model as one call sees it: word embeddings that know virtual ids too. Knows nothing of where features come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rmt.layers import put, shallow

# Rows of the table in, their features out: (rows) to (rows, hidden).
Lookup = Callable[[Int[Tensor, " rows"]], Float[Tensor, "rows hidden"]]


class SplicedEmbedding(nn.Module):
    """Word embeddings below ``vocabulary``, features of images from there on.

    Args:
        words: the model's embeddings; shared, not a part of this.
        vocabulary: the first virtual id.
        lookup: gives features; called once a forward with the rows that stand there, none where there are none.
    """

    def __init__(self, words: nn.Module, vocabulary: int, lookup: Lookup) -> None:
        super().__init__()
        self.__dict__["words"] = words
        self.vocabulary = vocabulary
        self.lookup = lookup

    def __getattr__(self, name: str) -> Any:
        """What a model asks of its embeddings, such as their weight."""
        return getattr(self.__dict__["words"], name)

    def forward(self, ids: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch hidden"]:
        """Embeddings, in the words' dtype."""
        virtual = ids >= self.vocabulary
        embedded: Tensor = self.words(ids.masked_fill(virtual, 0))
        if not bool(virtual.any()):
            return embedded
        features = self.lookup(ids[virtual] - self.vocabulary)
        return embedded.index_put(virtual.nonzero(as_tuple=True), features.to(embedded.dtype))


def table(features: Float[Tensor, "images tokens hidden"]) -> Lookup:
    """Rows of features that are all there."""
    rows = features.flatten(0, 1)
    return lambda wanted: rows[wanted]


def core_view(core: nn.Module, vocabulary: int, lookup: Lookup, path: str = "embed_tokens") -> nn.Module:
    """A base model whose word embeddings know virtual ids; its weights are the same."""
    view = shallow(core)
    put(view, path, SplicedEmbedding(core.get_submodule(path), vocabulary, lookup))
    return view


def concatenated(first: Lookup, count: int, second: Lookup) -> Lookup:
    """Rows below ``count`` from one source, the others from another."""

    def lookup(rows: Tensor) -> Tensor:
        later = rows >= count
        if not bool(later.any()):
            return first(rows)
        if bool(later.all()):
            return second(rows - count)
        both = torch.cat([first(rows[~later]), second(rows[later] - count)])
        order = torch.cat([(~later).nonzero().flatten(), later.nonzero().flatten()])
        return both[order.argsort()]

    return lookup
