"""The recipe that makes emergence in vision nets, at toy size: its data, its metrics, and that it repeats itself."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
QUICK = ["--quick", "--seeds", "2", "--steps", "4"]


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    yield importlib.import_module("vision_emergence")
    sys.modules.pop("vision_emergence")


def test_no_image_is_trained_and_tested_on(recipe):
    (x, y), (test_x, test_y) = recipe.images(3)
    assert (x.shape, test_x.shape) == ((1_200, 64), (597, 64))
    assert (len(y), len(test_y)) == (1_200, 597)
    assert 0 <= float(x.min()) < float(x.max()) == 1
    # The 1,797 images all differ, so what is in both is what was split wrongly.
    everything = {tuple(row) for row in torch.cat([x, test_x]).tolist()}
    assert len(everything) == 1_797
    assert not torch.equal(recipe.images(4)[1][0], test_x)
    assert torch.equal(recipe.images(3)[1][0], test_x)


def test_metrics_are_what_they_say(recipe):
    x = torch.zeros(4, 64)
    shift = torch.zeros(4, 64)
    shift[0, 0], shift[1, 0], shift[2, :2] = 0.4, 0.9, 1.9  # squared errors 0.16, 0.81, 7.22 and 0

    class Shifted(nn.Module):
        def forward(self, inputs):
            return inputs + shift

    found = recipe.reconstruction(Shifted(), x)
    assert found["mse"] == pytest.approx((0.16 + 0.81 + 7.22) / 4 / 64)
    assert [found[f"below {c:g}"] for c in (4, 1, 0.25)] == [0.75, 0.75, 0.5]

    labels = torch.zeros(43, dtype=torch.long)
    answers = torch.eye(10)[torch.tensor([1] + [0] * 42)]  # the first one wrong
    found = recipe.recognition(nn.Identity(), answers, labels)
    assert found["1 right"] == pytest.approx(42 / 43)
    assert found["5 right"] == pytest.approx(7 / 8)
    assert found["10 right"] == pytest.approx(3 / 4)
    assert found["20 right"] == pytest.approx(1 / 2)
    assert [recipe.units(m, 43) for m in ("below 1", "1 right", "20 right")] == [43, 43, 2]


def test_a_rehearsal_repeats_itself_and_keeps_its_numbers(recipe, tmp_path, capsys):
    for name in ("a", "b"):
        assert recipe.main([*QUICK, "-o", str(tmp_path / f"{name}.png")]) == 0
    first, second = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("a", "b"))
    assert first == second
    settings = {"steps": 4, "train": 1_200, "test": 597, "hidden": [1, 2, 4], "channels": [1, 2, 3]}
    assert first["settings"] == settings
    assert [(r["family"], r["size"], r["seed"]) for r in first["records"]] == [
        (family, size, seed)
        for seed in (0, 1)
        for family, sizes in (("autoencoder", recipe.HIDDEN[:3]), ("classifier", recipe.CHANNELS[:3]))
        for size in sizes
    ]
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.md").read_text() in capsys.readouterr().out


def test_a_run_that_was_killed_goes_on(recipe, tmp_path, monkeypatch, capsys):
    out = ["-o", str(tmp_path / "a.png")]
    whole, once = [*QUICK, "-o", str(tmp_path / "whole.png")], recipe.run
    assert recipe.main(whole) == 0

    def killed(seed, *rest):
        if seed == 1:
            raise KeyboardInterrupt
        return once(seed, *rest)

    monkeypatch.setattr(recipe, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        recipe.main([*QUICK, *out])
    trained = []
    monkeypatch.setattr(recipe, "run", lambda seed, *rest: trained.append(seed) or once(seed, *rest))
    assert recipe.main([*QUICK, *out]) == 0
    assert trained == [1]
    assert (tmp_path / "a.json").read_text() == (tmp_path / "whole.json").read_text()
    assert recipe.main([*QUICK, *out, "--steps", "6"]) == 2
    assert "expected results of" in capsys.readouterr().err


def test_the_floor_is_in_every_panel(recipe, tmp_path, monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr(recipe.figures, "save", lambda figure, path: drawn.append(figure))
    assert recipe.main([*QUICK, "-o", str(tmp_path / "a.png")]) == 0
    (figure,) = drawn
    assert len(figure.axes) == 4
    for axes in figure.axes:
        assert any("floor 1/n" in text.get_text() for text in axes.get_legend().get_texts())
        assert [line for line in axes.get_lines() if line.get_color() == recipe.figures.FLOOR and len(line.get_xdata())]


def test_what_it_cannot_run_on_is_refused(recipe, monkeypatch, capsys):
    assert recipe.main(["--seeds", "1"]) == 2
    assert "expected 2 seeds" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(SystemExit, match=r"rmt-memory\[emergence\]"):
        recipe.images(0)
