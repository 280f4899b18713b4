"""Counted masks: a function of their numbers, of the right density, and unlike one another."""

from __future__ import annotations

import pytest
import torch

from efficiency.masks import kept


def test_a_mask_follows_from_its_numbers():
    one = kept(3, 5, 7, samples=6, features=40, p=0.3)
    torch.manual_seed(1)  # of no matter
    assert torch.equal(one, kept(3, 5, 7, samples=6, features=40, p=0.3))
    assert torch.equal(one[:2], kept(3, 5, 7, samples=2, features=40, p=0.3)), "depends on the batch"
    state = torch.get_rng_state()
    kept(3, 5, 7, samples=6, features=40, p=0.3)
    assert torch.equal(state, torch.get_rng_state()), "draws from torch's generator"


@pytest.mark.parametrize("p", [0.0, 0.05, 0.5, 1.0])
def test_density(p):
    """Within five standard deviations of a fair coin, overall and for each sample and feature together."""
    mask = kept(0, 0, 0, samples=400, features=400, p=p).double()
    sigma = (p * (1 - p)) ** 0.5
    assert abs(float(mask.mean()) - (1 - p)) <= 5 * sigma / 400
    for dim in (0, 1):
        assert float((mask.mean(dim=dim) - (1 - p)).abs().max()) <= 5 * sigma / 20


@pytest.mark.parametrize("other", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_masks_of_other_numbers_have_nothing_in_common(other):
    one, two = (kept(*numbers, samples=300, features=300, p=0.5).double() for numbers in ((0, 0, 0), other))
    correlation = ((one - 0.5) * (two - 0.5)).mean() * 4
    assert abs(float(correlation)) < 5 / 300


def test_samples_and_features_have_nothing_in_common():
    """Neighbours in both directions, and pairs farther apart."""
    mask = kept(0, 0, 0, samples=300, features=300, p=0.5).double() - 0.5
    for shift in ((0, 1), (1, 0), (1, 1), (7, -3)):
        assert abs(float((mask * mask.roll(shift, dims=(0, 1))).mean() * 4)) < 5 / 300, shift
