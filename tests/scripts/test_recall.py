"""The recipe for recall at toy size: its batches say what it claims of them, and what was killed goes on."""

from __future__ import annotations

import sys

import pytest
import torch

SMALL = ["--hidden", "16", "--layers", "1", "--memory-tokens", "2", "--steps", "2", "--batch", "2", "--documents", "4"]


@pytest.fixture
def recipe(script):
    return script("recall")


@pytest.mark.parametrize("pairs", [1, 8, 32])
def test_keys_that_were_told_are_asked_for_with_their_values(recipe, pairs):
    ids, labels, size = recipe.batch(5, pairs, seed=3)
    told, asked = ids[:, : 2 * pairs].view(5, pairs, 2), ids[:, 2 * pairs :].view(5, -1, 2)
    assert asked.shape[1] == min(pairs, recipe.ASKED)
    assert size == 2 * max(1, pairs // recipe.SEGMENTS)
    for row in range(5):
        pairs_told = [tuple(pair) for pair in told[row].tolist()]
        assert len({key for key, _ in pairs_told}) == pairs
        assert {tuple(pair) for pair in asked[row].tolist()} <= set(pairs_told)
    wanted = torch.full_like(labels, -100)
    wanted[:, 2 * pairs + 1 :: 2] = asked[:, :, 1]
    assert torch.equal(labels, wanted)


def test_a_run_that_was_killed_goes_on_with_the_models_that_are_not_there(recipe, monkeypatch, tmp_path, capsys):
    trained, broken, train = [], [None], recipe.train

    def noted(name, seed, args):
        if len(trained) == broken[0]:
            raise KeyboardInterrupt
        trained.append((name, seed))
        return train(name, seed, args)

    def run(out):
        trained.clear()
        chosen = ["--models", "associative, normalised", "tokens", "--seeds", "0", "1"]
        monkeypatch.setattr(sys, "argv", ["recall.py", "--out", str(out), *chosen, *SMALL])
        recipe.main()
        return capsys.readouterr().out

    monkeypatch.setattr(recipe, "train", noted)
    table = run(tmp_path / "unbroken")
    whole = list(trained)
    assert len(whole) == 4
    assert len(table.splitlines()) == 2 + 2
    broken[0] = 3
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken")
    broken[0] = None
    assert run(tmp_path / "broken") == table
    assert trained == whole[3:]


def test_other_settings_are_not_mixed_into_a_table(recipe, monkeypatch, tmp_path, capsys):
    def run(*more):
        argv = ["recall.py", "--out", str(tmp_path), "--models", "tokens", "--seeds", "0", *SMALL, *more]
        monkeypatch.setattr(sys, "argv", argv)
        recipe.main()

    run()
    with pytest.raises(SystemExit) as stop:
        run("--steps", "3")
    assert stop.value.code == 2
    assert "give another --out" in capsys.readouterr().err
