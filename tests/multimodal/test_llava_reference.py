"""LlavaRMT equals the twin written by hand: logits, loss, memory and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from multimodal import LlavaRMT, reference
from tests.multimodal.llava_kit import IMAGE, SIDE, WORDS, tiny_llava

# Logits are of size 5 to 10; associative memory gives quotients of sums, which float32 takes in another order.
CLOSE = {"atol": 5e-4, "rtol": 1e-4}
TOKENS = {"memory": "tokens"}
KINDS: dict[str, dict[str, Any]] = {
    "tokens": TOKENS,
    "gated": TOKENS | {"memory_update": "gated", "gate_threshold": 0.4},
    "associative": {"memory": "associative", "associative_key_size": 8},
}


def build(kind: str, tower: str = "clip", **fields: Any) -> LlavaRMT:
    """In evaluation mode, where gradients flow too; gates and associations such that they matter."""
    given: dict[str, Any] = {"segment_size": 10, "num_memory_tokens": 2, **KINDS[kind], **fields}
    model = LlavaRMT.from_backbone(tiny_llava(tower), **given).eval()
    torch.manual_seed(7)
    for name, parameter in model.cell.named_parameters():
        if name != "memory" or kind == "associative":
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def document(images: int, words: int = 6, seed: int = 0) -> list[reference.Piece]:
    """Words, images, and at odd places an image with a label of two words in front."""
    draw = torch.Generator().manual_seed(seed)

    def word() -> int:
        return int(torch.randint(1, WORDS, (1,), generator=draw))

    pieces: list[reference.Piece] = [word() for _ in range(words)]
    for number in range(images):
        pixels = torch.randn(3, SIDE, SIDE, generator=draw)
        pieces += [(word(), word(), pixels) if number % 2 else pixels, *(word() for _ in range(words))]
    return pieces


def batch_of(documents: list[list[reference.Piece]]) -> dict[str, Any]:
    """As arguments of a forward, padded on the right, labels glued to their images."""
    rows, glues, pixels = [], [], []
    for pieces in documents:
        ids: list[int] = []
        glue: list[int] = []
        for number, piece in enumerate(pieces):
            parts = piece if isinstance(piece, tuple) else (piece,)
            for part in parts:
                ids += [part] if isinstance(part, int) else [IMAGE] * 4
                pixels += [part] if isinstance(part, Tensor) else []
            glue += [number + 1 if isinstance(piece, tuple) else 0] * (len(ids) - len(glue))
        rows.append(ids)
        glues.append(glue)
    width = max(map(len, rows))
    return {
        "input_ids": torch.tensor([ids + [0] * (width - len(ids)) for ids in rows]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in rows]),
        "glue": torch.tensor([glue + [0] * (width - len(glue)) for glue in glues]),
        "pixel_values": torch.stack(pixels) if pixels else None,
    }


def same_memory(got: Any, row: int, twin: Any) -> None:
    tensors = twin if isinstance(twin, dict) else {"tokens": twin}
    assert got.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        size = max(1.0, float(tensor.detach().abs().max()))
        torch.testing.assert_close(got.tensors[name][row] / size, tensor / size, atol=1e-4, rtol=0)


@pytest.mark.parametrize("tower", ["clip", "siglip"])
@pytest.mark.parametrize("kind", KINDS)
def test_outputs(kind: str, tower: str) -> None:
    model = build(kind, tower)
    documents = [document(3), document(0, words=9, seed=1), document(1, seed=2)]
    given = batch_of(documents)
    with torch.no_grad():
        out = model(**given)
        for row, pieces in enumerate(documents):
            twin = reference.read(model, pieces)
            real = given["attention_mask"][row].bool()
            torch.testing.assert_close(out.logits[row][real], twin.logits, **CLOSE)
            same_memory(out.memory, row, twin.memory)
            if row == 0:
                assert len(twin.segments) > 3
                assert any(length < 10 for length in twin.segments[:-1])  # some had no room for an image


@pytest.mark.parametrize("recurrence", ["plain", "checkpointed"])
@pytest.mark.parametrize("depth", [None, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind: str, depth: int | None, recurrence: str) -> None:
    model = build(kind, recurrence=recurrence, bptt_depth=depth, freeze_vision=False)
    pieces = document(3)
    expected = reference.loss(model, pieces, depth=depth)
    expected.backward()
    wanted = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    given = batch_of([pieces])
    got = model(**given, labels=given["input_ids"]).loss
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    got.backward()
    compare(model, wanted)
    for part in ("vision_tower.encoder", "multi_modal_projector", "language_model", "cell."):
        assert any(part in name and float(g.abs().max()) > 0 for name, g in wanted.items()), part


def compare(model: LlavaRMT, wanted: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        expected = wanted.get(name, torch.zeros_like(parameter))
        size = max(1e-2, float(expected.abs().max()))
        torch.testing.assert_close(
            gradient / size, expected / size, atol=5e-4, rtol=0, msg=lambda m, n=name: f"{n} {m}"
        )


@pytest.mark.parametrize("order", ["layers", "wavefront"])
def test_other_orders(order: str) -> None:
    model = build("associative", order=order)
    pieces = document(2)
    given = batch_of([pieces])
    expected = reference.loss(model, pieces)
    expected.backward()
    wanted = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for _ in range(2):  # the second call finds what the first one made
        model.zero_grad()
        got = model(**given, labels=given["input_ids"]).loss
        got.backward()
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    compare(model, wanted)


def test_a_stack_of_layers_is_made_once() -> None:
    """A view of each call stands for the same weights, which are not to be copied again and again."""
    model = build("associative", order="wavefront")
    given = batch_of([document(1)])
    model(**given)
    places = [p.data_ptr() for p in model.core.layers.parameters()]
    model(**given)
    assert places == [p.data_ptr() for p in model.core.layers.parameters()]


@pytest.mark.parametrize("kind", KINDS)
def test_questions_with_and_without_images(kind: str) -> None:
    model = build(kind)
    documents = [document(2), document(1, seed=3)]
    asked = [[document(1, words=1, seed=4)], [document(0, words=4, seed=5)]]
    given = batch_of(documents)
    questions = batch_of([question for row in asked for question in row])
    ids, mask = questions["input_ids"][:, None], questions["attention_mask"][:, None]
    out = model(
        **given, question_ids=ids, question_mask=mask, question_targets=ids.masked_fill(mask == 0, -100),
        question_pixel_values=questions["pixel_values"],
    )  # fmt: skip
    total, count = torch.zeros(()), 0
    for row, pieces in enumerate(documents):
        memory = reference.read(model, pieces).memory
        twin = reference.read(model, asked[row][0], memory)
        real = mask[row, 0].bool()
        torch.testing.assert_close(out.logits[row, 0][real], twin.logits, **CLOSE)
        words = sum(word >= 0 for word in twin.words[1:])
        total, count = total + reference.loss(model, asked[row][0], memory) * words, count + words
    torch.testing.assert_close(out.loss, total / count, atol=1e-5, rtol=1e-5)


def test_glue_of_a_document_is_not_that_of_questions() -> None:
    """Questions may by chance be of the shape of the documents; only these have labels."""
    model = build("tokens")
    pieces = document(1, words=4)
    given = batch_of([pieces])
    glue = torch.full_like(given["input_ids"], 1)[:, :10]
    ids = given["input_ids"][:, :10]
    question = torch.randint(1, WORDS, (1, 1, 10))
    out = model(input_ids=ids, glue=glue, pixel_values=given["pixel_values"], question_ids=question)
    model.config.segment_size = 10
    twin = reference.read(model, [tuple(pieces[:7])])
    answer = reference.read(model, question[0, 0].tolist(), twin.memory)
    torch.testing.assert_close(out.logits[0, 0], answer.logits, **CLOSE)


def test_features_in_place_of_pixels_and_fewer_logits() -> None:
    model = build("tokens")
    given = batch_of([document(2), document(1, seed=3)])
    pixels = given.pop("pixel_values")
    with torch.no_grad():
        whole = model(**given, pixel_values=pixels)
        features = model(**given, vision_features=model.vision_features(pixels), logits_to_keep=3)
    for row in range(2):
        real = given["attention_mask"][row].bool()
        torch.testing.assert_close(features.logits[row], whole.logits[row][real][-3:], **CLOSE)


def test_another_segment_size_for_one_call() -> None:
    model = build("tokens")
    pieces = document(2)
    out = model(**batch_of([pieces]), segment_size=7)
    model.config.segment_size = 7
    torch.testing.assert_close(out.logits[0], reference.read(model, pieces).logits, **CLOSE)
