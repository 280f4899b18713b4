"""The cache finds what recurrence asks for, within its budget, and never gives what is no longer true."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from efficiency.errors import InputError
from efficiency.weight_cache import WeightCache

SIZE = 256  # bytes of one weight


def made(cache: WeightCache, weights: list[Tensor], order: list[int]) -> list[int]:
    """How often each weight was made when they are asked for in this order; what is given is checked."""
    counts = [0] * len(weights)
    for n in order:

        def make(n: int = n) -> Tensor:
            counts[n] += 1
            return weights[n] * 2

        assert torch.equal(cache.get(weights[n], torch.float32, make), weights[n] * 2)
        assert cache.budget_bytes is None or cache.used_bytes <= cache.budget_bytes
    return counts


def some(count: int) -> list[Tensor]:
    return [torch.full((SIZE // 4,), float(n)) for n in range(count)]


def by_segment(layers: int, segments: int, checkpointed: bool = False) -> list[int]:
    """Layers in the order in which one training step asks for them."""
    up, down = list(range(layers)), list(range(layers))[::-1]
    return up * segments + ((up + down) if checkpointed else down) * segments


def by_layer(layers: int, segments: int, width: int = 2) -> list[int]:
    """The same layer by layer, each with ``width`` weights."""
    blocks = [list(range(start, start + width)) for start in range(0, layers, width)]
    forward = [n for block in blocks for n in block * segments]
    return forward + forward[::-1]


@pytest.mark.parametrize("order", [by_segment(10, 8), by_segment(10, 8, True), by_layer(10, 8)])
def test_everything_once_where_it_fits(order):
    cache = WeightCache(10 * SIZE)
    assert made(cache, some(10), order * 2) == [1] * 10
    assert (cache.misses, cache.hits) == (10, 2 * len(order) - 10)
    assert cache.used_bytes == 10 * SIZE


@pytest.mark.parametrize("checkpointed", [False, True])
def test_less_than_the_model_is_as_useful_as_its_size(checkpointed):
    """Least recently used alone finds almost nothing in rounds; the best possible is the kept share."""
    step = by_segment(10, 8, checkpointed)
    cache = WeightCache(4 * SIZE)
    weights = some(10)
    made(cache, weights, step * 2)
    before = cache.misses
    made(cache, weights, step)
    hits = 1 - (cache.misses - before) / len(step)
    assert hits > 0.38, hits


def test_layer_by_layer_one_layer_is_enough():
    cache = WeightCache(2 * SIZE)
    step = by_layer(10, 8)
    counts = made(cache, some(10), step)
    # Once in each direction, the last layer once in all.
    assert counts == [2] * 8 + [1] * 2


def test_a_change_of_order_is_learned():
    cache, weights = WeightCache(4 * SIZE), some(10)
    made(cache, weights, by_segment(10, 8) * 3)
    made(cache, weights, by_layer(10, 8) * 3)
    before = cache.misses
    made(cache, weights, by_layer(10, 8))
    assert cache.misses - before <= 20


def test_nothing_larger_than_the_budget_is_kept():
    for budget in (0, SIZE - 1):
        cache = WeightCache(budget)
        assert made(cache, some(2), [0, 1, 0, 1]) == [2, 2]
        assert cache.used_bytes == 0


def test_formats_are_kept_apart():
    cache, weight = WeightCache(), torch.ones(4)
    one = cache.get(weight, torch.float32, lambda: weight)
    other = cache.get(weight, torch.bfloat16, lambda: weight.bfloat16())
    assert (one.dtype, other.dtype) == (torch.float32, torch.bfloat16)
    assert cache.used_bytes == 24


@pytest.mark.parametrize("change", ["written", "given other data", "replaced"])
def test_a_changed_weight_is_made_again(change):
    cache, holder = WeightCache(), nn.ParameterList([nn.Parameter(torch.ones(4), requires_grad=False)])
    for _ in range(2):
        cache.get(holder[0], torch.float32, lambda: holder[0] * 2)
    assert (cache.hits, cache.misses) == (1, 1)
    if change == "written":
        holder[0].add_(1)
    elif change == "given other data":
        holder[0].data = torch.full((4,), 2.0)
    else:
        holder[0] = nn.Parameter(torch.full((4,), 2.0), requires_grad=False)
    assert torch.equal(cache.get(holder[0], torch.float32, lambda: holder[0] * 2), torch.full((4,), 4.0))


def test_room_of_weights_that_are_gone_is_used_again():
    cache = WeightCache(4 * SIZE)
    made(cache, some(10), by_segment(10, 8) * 2)  # rounds: first come, first kept
    assert made(cache, some(4), [0, 1, 2, 3] * 4) == [1] * 4


def test_clear():
    cache, weights = WeightCache(), some(3)
    made(cache, weights, [0, 1, 2])
    cache.clear()
    assert (cache.used_bytes, cache.hits, cache.misses) == (0, 0, 0)
    assert made(cache, weights, [0, 1, 2]) == [1, 1, 1]


def test_what_an_inference_pass_left_serves_training():
    cache, weight = WeightCache(), torch.ones(2, 2)
    with torch.inference_mode():
        assert not cache.get(weight, torch.float32, lambda: weight * 2).is_inference()
    x = torch.ones(2, requires_grad=True)
    (cache.get(weight, torch.float32, lambda: weight * 2) @ x).sum().backward()
    assert cache.hits == 1
    assert torch.equal(x.grad, torch.full((2,), 4.0))


def test_copies_start_empty():
    cache = WeightCache(5 * SIZE)
    made(cache, some(3), [0, 1, 2])
    for twin in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        assert (twin.budget_bytes, twin.used_bytes) == (5 * SIZE, 0)
    one, other = copy.deepcopy([cache, cache])
    assert one is other


def test_threads():
    cache, weights = WeightCache(4 * SIZE), some(10)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: made(cache, weights, by_segment(10, 8)), range(8)))
    assert cache.hits + cache.misses == 8 * 160
    assert cache.used_bytes == sum(kept.size for kept in cache._kept.values()) <= 4 * SIZE


def test_bad_budget():
    with pytest.raises(InputError, match="-1"):
        WeightCache(-1)
