"""The recipe's batches say what it claims of them, and its models differ in what they should and nothing else."""

from __future__ import annotations

from argparse import Namespace

import pytest
import torch


@pytest.fixture
def recipe(script):
    return script("recall_retrieval")


@pytest.fixture
def args():
    return Namespace(
        hidden=64, memory_tokens=2, keep="spread", steps=5, batch=2, lr=1e-3, documents=3, log=5, bf16=False
    )


def test_every_key_is_told_once_and_asked_once(recipe):
    ids, questions, targets = recipe.batch(5, 16, seed=1)
    assert ids.shape == (5, 16 * 2 * recipe.PAIRS)
    told = ids.view(5, -1, 2)
    assert torch.equal(told, questions)
    assert all(len(set(row.tolist())) == 16 * recipe.PAIRS for row in told[:, :, 0])
    assert int(told[:, :, 0].max()) < recipe.FIRST_VALUE <= int(told[:, :, 1].min())
    assert int(told[:, :, 1].max()) < recipe.VOCABULARY
    assert torch.equal(targets[:, :, 1], told[:, :, 1])
    assert bool((targets[:, :, 0] == -100).all())


def test_models_have_equally_many_parameters(recipe, args):
    models = {name: recipe.build(name, 0, args) for name in recipe.MODELS}
    assert len({sum(p.numel() for p in model.parameters()) for model in models.values()}) == 1
    asks = models["memory only"].cell.retrieval.text_output.weight
    assert not asks.any()
    assert not asks.requires_grad


def test_one_model_from_start_to_table(recipe, args):
    results = [recipe.train(name, seed, args) for name in ("none", "memory and words") for seed in (0, 1)]
    assert all(set(r["quarters"]) == {"16", "32"} and len(r["quarters"]["16"]) == 4 for r in results)
    table = recipe.show(results).splitlines()
    assert len(table) == 4
    assert len({line.count("|") for line in table}) == 1
