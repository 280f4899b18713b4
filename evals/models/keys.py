"""A Hugging Face cache of keys and values as a value: copied, cut into rows, trimmed, its channels in another order.

Knows nothing of models. Layers of attention rebind their tensors when they grow and never write into them, so a copy
shares them; layers that write in place (linear attention, state spaces) are copied in full.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from evals.model import channel_order


def fork(cache: Any, rows: int = 1) -> Any:
    """A cache that may grow without changing ``cache``; its one row ``rows`` times over."""
    other = copy.copy(cache)
    other.layers = [
        copy.copy(layer) if isinstance(layer, DynamicLayer) else copy.deepcopy(layer) for layer in cache.layers
    ]
    if rows > 1:
        other.batch_repeat_interleave(rows)
    return other


def split(cache: Any, rows: int) -> list[Any]:
    """The cache of each row, which holds on to no other row."""
    if rows == 1:
        return [cache]
    made = []
    for row in range(rows):
        one = fork(cache)
        one.batch_select_indices(torch.tensor([row]))
        made.append(one)
    return made


def trim(cache: Any, size: int) -> None:
    """Keep the last ``size`` positions of each layer, in place on the cache, never in its tensors."""
    for layer in cache.layers:
        if layer.is_initialized and layer.keys.shape[-2] > size:
            start = layer.keys.shape[-2] - size
            layer.keys, layer.values = layer.keys[:, :, start:].clone(), layer.values[:, :, start:].clone()


def shuffled(cache: Any, seed: int) -> Any:
    """The channels of each head, of keys and of values, in the order of ``channel_order``."""
    other = fork(cache)
    for layer in other.layers:
        if isinstance(layer, DynamicLayer) and layer.is_initialized:
            layer.keys, layer.values = _shuffled(layer.keys, seed), _shuffled(layer.values, seed)
    return other


def nbytes(cache: Any) -> int:
    """Bytes of all tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(cache))


def new(config: Any, plain: bool) -> Any:
    """An empty cache; ``plain`` for one whose layers all keep what they are given."""
    return DynamicCache() if plain else DynamicCache(config=config)


def _shuffled(tensor: Any, seed: int) -> Tensor:
    return tensor[..., torch.from_numpy(channel_order(tensor.shape[-1], seed)).to(tensor.device)]


def _tensors(cache: Any) -> Iterator[Tensor]:
    for layer in cache.layers:
        yield from (value for value in vars(layer).values() if isinstance(value, Tensor))
