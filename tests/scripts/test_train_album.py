"""The recipe of the model that remembers pictures: its phases are settings, and at tiny size it runs through."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch


def test_every_phase_is_settings_that_can_be_trained_with(script, tmp_path: Path) -> None:
    from rmt.cli.training_images import check
    from rmt.cli.training_images_settings import ImageSettings
    from rmt.training.settings import override

    album = script("train_album")
    (tmp_path / "book.txt").write_text("text")
    for name, phase in album.PHASES.items():
        settings = override(ImageSettings(), [*album.COMMON, *phase, f"data.text={tmp_path / 'book.txt'}"])
        check(settings)
        assert settings.stage == (1 if name == "projector" else 2)


def test_drawings_are_never_the_same_and_follow_the_seed(script) -> None:
    encoder = script("album_encoder")
    one, two = (encoder.Drawer(seed=5, scenes=8) for _ in range(2))
    (images, labels), (again, same) = one.batch(16), two.batch(16)
    assert torch.equal(images, again)
    assert torch.equal(labels, same)
    assert not torch.equal(images, one.batch(16)[0])
    assert images.shape == (16, 3, 32, 32)
    assert float(images.abs().max()) <= 1
    assert (labels[:2, 0] == -100).all()  # scenes
    assert (labels[2:] >= 0).all()
    framed = labels[:, 2] > 0
    corner = images[:, :, 0, 0]
    assert corner[framed].amax(dim=1).min() > corner[~framed][2:].amax(dim=1).max()


@pytest.mark.slow
def test_the_recipe_runs_through_and_goes_on(script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from multimodal import LlavaRMT

    album = script("train_album")
    (tmp_path / "book.txt").write_text("\n".join(f"The {n}th evening was long and cold." for n in range(300)))
    monkeypatch.setattr(album, "ENCODER_STEPS", 2)
    few = [tuple("optim.steps=1" if s.startswith("optim.steps=") else s for s in p) for p in album.PHASES.values()]
    monkeypatch.setattr(album, "PHASES", dict(zip(album.PHASES, few, strict=True)))
    output = tmp_path / "run"
    command = ["train_album.py", "--text", str(tmp_path / "book.txt"), "--output", str(output), "data.album=48"]
    monkeypatch.setattr(
        sys, "argv", [*command, "model.layers=1", "model.hidden_size=32", "--phases", ",".join(album.PHASES)]
    )
    album.main()
    folder = output / "long" / "model"
    assert LlavaRMT.from_pretrained(folder).config.tokens_per_image == 16
    assert (output / "encoder" / "model.safetensors").is_file()
    written = (output / "encoder" / "model.safetensors").stat().st_mtime_ns
    album.main()
    assert (output / "encoder" / "model.safetensors").stat().st_mtime_ns == written
