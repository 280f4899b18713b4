"""The bundled model that sees: small, whole, free of machine paths, and it remembers what it saw."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from evals.tasks.images import digits, world
from multimodal import AlbumReader, Figure
from multimodal.pretrained import HERE, load, names
from rmt.errors import InputError

FILLER = "The rain fell on the roofs of the town, and the old clock struck the hour. " * 40


@pytest.fixture(scope="module")
def reader() -> AlbumReader:
    return AlbumReader(*load("llava-rmt"), dtype="float32")


def test_names_are_known_and_others_refused() -> None:
    assert names() == ["llava-rmt"]
    with pytest.raises(InputError, match="llava-rmt"):
        load("lava-rmt")


def test_it_is_small_has_a_card_and_names_no_folder_of_a_machine() -> None:
    folder = HERE / "llava-rmt"
    assert sum(f.stat().st_size for f in folder.iterdir()) <= 12_000_000
    card = (folder / "README.md").read_text()
    assert "rmt eval images" in card
    assert "scripts/train_album.py" in card
    for file in folder.glob("*.json"):
        if file.name != "tokenizer.json":  # a vocabulary has slashes
            assert '"/' not in file.read_text(), file
            json.loads(file.read_text())


def test_it_tells_held_out_digits_in_frames_apart_over_text(reader: AlbumReader) -> None:
    rng = np.random.default_rng(11)
    told: dict[int, digits.DigitPicture] = {}
    pieces: list[str | Figure] = [FILLER]
    for frame in (1, 4, 6):
        told[frame] = digits.any_digit(rng, "test", frame=frame, size=32)
        pieces += [Figure(told[frame]()), FILLER, Figure(digits.any_digit(rng, "test", frame=-1, size=32)()), FILLER]
    memory = reader.read(iter(pieces), progress=False)
    assert memory.meta.extra["images"] == "6"
    asked = [(about, frame) for frame in told for about in world.ATTRIBUTES]
    answers = reader.ask(memory, [world.asked(about, frame) for about, frame in asked])
    right = [told[frame].seen["digit" if about == "digit" else "ink"] for about, frame in asked]
    assert sum(a.text == str(r) for a, r in zip(answers, right, strict=True)) >= 5
    never = reader.ask(memory, [world.asked(about, 0) for about in world.ATTRIBUTES])
    assert [a.text for a in never] == ["unknown", "unknown"]


def test_text_alone_leaves_its_memory_bit_for_bit(reader: AlbumReader) -> None:
    rng = np.random.default_rng(12)
    first = reader.read(iter([FILLER, Figure(digits.any_digit(rng, "test", frame=2, size=32)())]), progress=False)
    assert bool((first.tensors["tokens"] != 0).any())
    after = reader.read(iter([FILLER * 3]), memory=first, progress=False)
    assert torch.equal(after.tensors["tokens"], first.tensors["tokens"])
