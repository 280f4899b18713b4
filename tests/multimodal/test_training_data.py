"""Conversations as numbered batches: nothing lost, an order of each epoch's own, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from multimodal.dataset import Conversations
from multimodal.documents.llava_json import Skipped
from rmt.errors import InputError
from rmt.pretrained import of_minilm

TOKENS = 4


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    made = of_minilm(AutoTokenizer.from_pretrained)
    made.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return made


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    """Seven conversations; number n is about n % 3 images of shade n."""
    records = []
    for n in range(7):
        names = [f"{n}-{k}.png" for k in range(n % 3)]
        for name in names:
            Image.fromarray(np.full((8, 8, 3), n, np.uint8)).save(tmp_path / name)
        asks = "".join("<image>\n" for _ in names) + f"Which number is this, said the {'very ' * n}old man?"
        said = [{"from": "human", "value": asks}, {"from": "gpt", "value": f"It is {n}."}]
        records.append({"id": str(n), "conversations": said, **({"image": names} if names else {})})
    path = tmp_path / "chats.json"
    path.write_text(json.dumps(records))
    return path


def pixels(images: list[Image.Image]) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).float()


def opened(path: Path, tokenizer: Any, **fields: Any) -> Conversations:
    return Conversations.open(path, tokenizer, tokens_per_image=TOKENS, pixels=pixels, batch_size=3, **fields)


def heard(batch: dict[str, Any], tokenizer: Any) -> list[int]:
    """The number of each conversation, from what is learned of it."""
    rows = [row[row >= 0].tolist() for row in batch["labels"]]
    return [int("".join(c for c in tokenizer.decode(row) if c.isdigit())) for row in rows]


def test_an_epoch_has_each_conversation_once_and_its_images_in_order(chats: Path, tokenizer: Any) -> None:
    data, image = opened(chats, tokenizer), tokenizer.convert_tokens_to_ids("<image>")
    assert len(data) == 3
    seen = []
    for number in range(3):
        batch = data.batch(number)
        numbers = heard(batch, tokenizer)
        seen += numbers
        counts = (batch["input_ids"] == image).sum(dim=1)
        assert counts.tolist() == [TOKENS * (n % 3) for n in numbers]
        assert not bool((batch["labels"] == image).any())
        shades = [n for n in numbers for _ in range(n % 3)]
        assert [int(p[0, 0, 0]) for p in batch.get("pixel_values", torch.zeros(0, 3, 8, 8))] == shades
    assert sorted(seen) == list(range(7))


def test_batches_repeat_and_epochs_differ(chats: Path, tokenizer: Any) -> None:
    one, two = opened(chats, tokenizer, seed=3), opened(chats, tokenizer, seed=3)
    for number in (4, 0):  # in any order
        a, b = one.batch(number), two.batch(number)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)
    epochs = [[heard(one.batch(3 * e + n), tokenizer) for n in range(3)] for e in range(2)]
    assert epochs[0] != epochs[1]
    assert sorted(n for numbers in epochs[1] for n in numbers) == list(range(7))


def test_bad_conversations_are_an_error_or_counted(chats: Path, tokenizer: Any) -> None:
    (chats.parent / "1-0.png").unlink()
    with pytest.raises(InputError, match="index 1"):
        opened(chats, tokenizer)
    skip = Skipped()
    assert len(opened(chats, tokenizer, skip=skip).samples) == 6
    assert skip.count == 1


def test_broken_images_are_left_out_when_their_batch_is_made(chats: Path, tokenizer: Any) -> None:
    for name in ("1-0.png", "5-1.png"):
        path = chats.parent / name
        path.write_bytes(path.read_bytes()[:50])  # its header is whole
    with pytest.raises(InputError, match=r"index [15].*png: expected"):
        [opened(chats, tokenizer).batch(number) for number in range(3)]
    skip = Skipped()
    data = opened(chats, tokenizer, skip=skip)
    with pytest.warns(UserWarning, match="bad conversation is left out"):
        batches = [data.batch(number) for number in range(3)]
    assert {n for batch in batches for n in heard(batch, tokenizer)} == {0, 2, 3, 4, 6}
    assert skip.count >= 2
    # Of one conversation each: a bad one is replaced by the next, the same in another process.
    one, two = (opened(chats, tokenizer, skip=Skipped()) for _ in range(2))
    alone = [heard(replace(one, batch_size=1).batch(number), tokenizer) for number in range(7)]
    assert alone == [heard(replace(two, batch_size=1).batch(number), tokenizer) for number in range(7)]
    assert {n for numbers in alone for n in numbers} == {0, 2, 3, 4, 6}
    bad = tuple(sample for sample in one.samples if sample.id in "15")
    with pytest.raises(InputError, match="at least one whole conversation"):
        replace(one, samples=bad).batch(0)


def test_a_file_without_conversations_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "none.json"
    path.write_text("[]")
    with pytest.raises(InputError, match="expected at least one conversation"):
        opened(path, tokenizer)


def test_a_model_learns_conversations_over_many_segments(chats: Path, tokenizer: Any) -> None:
    from multimodal import LlavaRMT
    from multimodal.training import stage
    from tests.multimodal.llava_kit import SIDE, tiny_llava

    image = tokenizer.convert_tokens_to_ids("<image>")
    llava = tiny_llava(vocab_size=len(tokenizer))
    llava.config.image_token_index = image
    model = LlavaRMT.from_backbone(llava, segment_size=12, num_memory_tokens=2, recurrence="checkpointed").train()

    def large(images: list[Image.Image]) -> torch.Tensor:
        return torch.nn.functional.interpolate(pixels(images) / 255, size=(SIDE, SIDE))

    data = Conversations.open(chats, tokenizer, tokens_per_image=TOKENS, pixels=large, batch_size=7)
    optimizer = torch.optim.AdamW(stage(model, 2, lr=1e-2))
    losses = []
    for number in range(6):
        out = model(**data.batch(number))
        assert out.memory.meta.segments_read >= 3
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append(float(out.loss.detach()))
    assert losses[-1] < losses[0] - 1
