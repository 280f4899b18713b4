"""Which old memories are kept, by a memory that only counts."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from rmt.cells import retrieval
from rmt.cells.retrieval import Retrieval, moved
from rmt.config import RMTConfig
from rmt.memory import Memory
from tests.rmt.test_retrieval import KEEPS, kept
from tests.rmt.tiny import llama_config


def counted(keep: str, budget: int, every: int, values: list[float]) -> list[int]:
    """Numbers of the copies that are kept after memories of these values."""
    config = RMTConfig(
        backbone_config=llama_config(),
        num_memory_tokens=1,
        retrieval_every=every,
        retrieval_budget=budget,
        retrieval_top=1,
        retrieval_keep=keep,
    )
    bank = Retrieval(config)
    state = {"tokens": torch.ones(1, 1, 32)}
    state |= bank.initial(state["tokens"])
    for value in values:
        tokens = torch.full((1, 1, 32), value)
        state = {"tokens": tokens} | bank.keep(state, tokens, torch.tensor([True]))
    for number, copy in kept(Memory(state)).items():
        assert float(copy[0, 0]) == values[number * every - 1]
    return sorted(kept(Memory(state)))


@given(st.integers(1, 9), st.integers(1, 3), st.integers(0, 60))
def test_recent_keeps_the_last(budget, every, length):
    numbers = counted("recent", budget, every, [float(n) for n in range(2, 2 + length)])
    assert numbers == list(range(1, length // every + 1))[-budget:]


@given(st.integers(1, 9), st.integers(1, 3), st.integers(0, 60))
def test_spread_stays_even(budget, every, length):
    numbers = counted("spread", budget, every, [float(n) for n in range(2, 2 + length)])
    count = length // every
    if not count:
        return
    stride = 1
    while count > budget * stride:
        stride *= 2
    members = set(range(1, count + 1, stride))
    assert members <= set(numbers)  # none that belongs is missing
    assert len(numbers) == min(budget, count)  # and no place is idle
    assert all((n - 1) % (stride // 2 or 1) == 0 for n in numbers)  # the others were members a stride ago


def test_spread_by_hand():
    values = [float(n) for n in range(2, 12)]
    after = [counted("spread", 4, 1, values[:n]) for n in range(1, 11)]
    assert after[3] == [1, 2, 3, 4]
    assert after[4] == [1, 3, 4, 5]  # the stride is 2; the oldest that is not a member goes
    assert after[5] == [1, 3, 4, 5]  # 6 is not a member
    assert after[6] == [1, 3, 5, 7]
    assert after[8] == [1, 5, 7, 9]  # the stride is 4


def test_surprise_keeps_the_largest_changes():
    steps = [1.0, 3.0, 0.5, 4.0, 0.1, 2.0]  # each is how much larger the memory gets
    values, value = [], 1.0
    for step in steps:
        value *= 1 + step
        values.append(value)
    assert counted("surprise", 2, 1, values) == [2, 4]
    assert counted("surprise", 3, 1, values) == [2, 4, 6]
    # A copy stands for all that happened since the one before was due: 1/2 + 3/4, 1/3 + 4/5, 1/11 + 2/3.
    assert counted("surprise", 1, 2, values) == [1]
    assert counted("surprise", 2, 2, values) == [1, 2]
    one, two = torch.ones(1, 1, 4), torch.full((1, 1, 4), 4.0)
    assert float(moved(one, two)) == pytest.approx(0.75)
    assert float(moved(torch.zeros(1, 1, 4), one)) == 1
    assert float(moved(torch.zeros(1, 1, 4), torch.zeros(1, 1, 4))) == 0


@pytest.mark.parametrize("keep", KEEPS)
def test_a_memory_that_did_not_move_is_not_kept_twice(keep):
    assert counted(keep, 4, 1, [2.0, 2.0, 2.0, 3.0]) == [1, 4]
    assert counted(keep, 4, 1, [2.0, 2.0, 2.0, 2.0]) == [1]


def test_bit_length():
    numbers = [0, 1, 2, 3, 4, 7, 8, 2**40 - 1, 2**40]
    assert retrieval.bit_length(torch.tensor(numbers)).tolist() == [n.bit_length() for n in numbers]
