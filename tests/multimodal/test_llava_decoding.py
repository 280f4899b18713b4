"""Decoding with images equals teacher forcing: prompts of any form, second turns, beams, and what a cache holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from multimodal import LlavaRMT
from multimodal.pictures import PictureCache
from rmt.backbone import CACHE
from rmt.errors import InputError
from tests.multimodal.llava_kit import IMAGE, SIDE, WORDS, prompt, tiny_llava

CLOSE = {"atol": 1e-4, "rtol": 1e-4}
FREE: dict[str, Any] = {"do_sample": False, "suppress_tokens": [IMAGE], "max_new_tokens": 18}


def build(memory: str = "tokens", **fields: Any) -> LlavaRMT:
    given: dict[str, Any] = {"segment_size": 11, "num_memory_tokens": 2, "memory": memory, **fields}
    model = LlavaRMT.from_backbone(tiny_llava(), **given).eval()
    if memory == "associative":
        torch.manual_seed(1)
        torch.nn.init.normal_(model.cell.value, std=0.3)
    return model


@pytest.fixture(scope="module", params=["tokens", "associative"])
def model(request: pytest.FixtureRequest) -> LlavaRMT:
    return build(request.param)


def same_memory(got: Any, expected: Any) -> None:
    for name, tensor in expected.tensors.items():
        size = max(1.0, float(tensor.abs().max()))
        torch.testing.assert_close(got.tensors[name] / size, tensor / size, **CLOSE)


def taught(model: LlavaRMT, sequences: Tensor, mask: Tensor, pixels: Tensor | None, **how: Any) -> Any:
    whole = torch.cat([mask, mask.new_ones(len(mask), sequences.shape[1] - mask.shape[1])], dim=1)
    with torch.no_grad():
        return model(input_ids=sequences, attention_mask=whole, pixel_values=pixels, **how)


def ending_in_an_image(images: int) -> tuple[Tensor, Tensor, Tensor]:
    """Several images side by side at the end of a prompt, the open segment among them."""
    ids = torch.tensor([[5, 6, 7, *[IMAGE] * 4 * images]])
    return ids, torch.ones_like(ids), torch.randn(images, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("pad", ["left", "right"])
@pytest.mark.parametrize("images", [[2, 0, 1], [4, 3, 1]])
def test_greedy_equals_teacher_forcing(model: LlavaRMT, images: list[int], pad: str) -> None:
    ids, mask, pixels = prompt(model.backbone, images, length=14, pad=pad)
    out = model.generate(
        input_ids=ids, attention_mask=mask, pixel_values=pixels, output_logits=True, return_dict_in_generate=True,
        **FREE,
    )  # fmt: skip
    forced = taught(model, out.sequences, mask, pixels, logits_to_keep=19)
    torch.testing.assert_close(torch.stack(out.logits, dim=1), forced.logits[:, :-1], **CLOSE)
    same_memory(model.memory_of(out), forced.memory)


@pytest.mark.parametrize("images", [1, 2, 3, 5])
@pytest.mark.parametrize("new", [1, 4, 5, 8, 9])
def test_prompts_that_end_in_images(model: LlavaRMT, images: int, new: int) -> None:
    """The open segment may be full of images when its memory is asked for."""
    ids, mask, pixels = ending_in_an_image(images)
    out = model.generate(
        input_ids=ids, attention_mask=mask, pixel_values=pixels, return_dict_in_generate=True,
        **(FREE | {"max_new_tokens": new}),
    )  # fmt: skip
    forced = taught(model, out.sequences, mask, pixels)
    assert torch.equal(out.sequences[:, ids.shape[1] :], no_image(forced.logits[:, ids.shape[1] - 1 : -1]))
    same_memory(model.memory_of(out), forced.memory)


def no_image(logits: Tensor) -> Tensor:
    return logits.index_fill(-1, torch.tensor([IMAGE]), -1e9).argmax(dim=-1)


def test_a_cache_holds_the_images_of_the_open_segment(model: LlavaRMT) -> None:
    for images, held in ((1, 1), (2, 2), (3, 1), (4, 2)):  # 3 + 8 tokens, then two images a segment
        ids, _, pixels = ending_in_an_image(images)
        with torch.no_grad():
            cache = getattr(model(input_ids=ids, pixel_values=pixels, use_cache=True), CACHE)
            assert isinstance(cache, PictureCache)
            assert cache.table is not None
            assert cache.table.shape == (4 * held, 48)
            for _ in range(12):
                out = model(input_ids=torch.tensor([[7]]), use_cache=True, **{CACHE: cache})
                cache = getattr(out, CACHE)
            assert cache.table is None  # their segment has been closed


def test_labels_stay_with_their_images(model: LlavaRMT) -> None:
    """Cut by a cache, batch or decoding as by one forward."""
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12, 13, *[IMAGE] * 4, 14, 15]])
    glue = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0]])
    pixels = ending_in_an_image(1)[2]
    mask = torch.ones_like(ids)
    out = model.generate(
        input_ids=ids, pixel_values=pixels, glue=glue, output_logits=True, return_dict_in_generate=True, **FREE
    )
    wide = torch.cat([glue, glue.new_zeros(1, 18)], dim=1)
    forced = taught(model, out.sequences, mask, pixels, glue=wide)
    torch.testing.assert_close(torch.stack(out.logits, dim=1), forced.logits[:, 14:-1], **CLOSE)
    same_memory(model.memory_of(out), forced.memory)
    other = taught(model, out.sequences, mask, pixels)
    assert float((other.logits - forced.logits)[:, 14:-1].abs().max()) > 1e-3  # glue matters here
    uncached = model.generate(input_ids=ids, pixel_values=pixels, glue=glue, use_cache=False, **FREE)
    assert torch.equal(uncached, out.sequences)
    # In two portions, the second with the label and the image.
    with torch.no_grad():
        first = model(input_ids=ids[:, :4], use_cache=True)
        second = model(
            input_ids=ids[:, 4:],
            glue=glue[:, 4:],
            pixel_values=pixels,
            use_cache=True,
            **{CACHE: getattr(first, CACHE)},
        )
    torch.testing.assert_close(torch.cat([first.logits, second.logits], dim=1), forced.logits[:, :15], **CLOSE)


@pytest.mark.parametrize("cuts", [[10, 9, 11], [6, 24], [1, 1, 8, 20]])
def test_any_portions_give_the_same(model: LlavaRMT, cuts: list[int]) -> None:
    """Images come with the portion that they stand in, whole."""
    words = [int(x) for x in torch.randint(1, WORDS, (30,), generator=torch.Generator().manual_seed(8))]
    ids = torch.tensor([words, words[::-1]])
    at, pixels = 0, []
    for row, starts in ((0, (2, 12, 20)), (1, (11, 26))):
        for start in starts:
            ids[row, start : start + 4] = IMAGE
    portions = ids.split(cuts, dim=1)
    pixels = torch.randn(5, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        whole = model(input_ids=ids, pixel_values=pixels)
        cache, logits = None, []
        for portion in portions:
            marks = torch.zeros_like(ids, dtype=torch.bool)
            marks[:, at : at + portion.shape[1]] = True
            at += portion.shape[1]
            order = ((ids == IMAGE).flatten().cumsum(0) - 1).view_as(ids)[marks & (ids == IMAGE)] // 4
            mine = pixels[order.unique()] if len(order) else None
            out = model(input_ids=portion, pixel_values=mine, use_cache=True, **{CACHE: cache})
            cache = getattr(out, CACHE)
            logits.append(out.logits)
        torch.testing.assert_close(torch.cat(logits, dim=1), whole.logits, **CLOSE)
        same_memory(cache.flush(model), whole.memory)


def test_a_second_turn_with_images(model: LlavaRMT) -> None:
    ids, mask, pixels = prompt(model.backbone, [2, 1], length=14, pad="left")
    first = model.generate(
        input_ids=ids, attention_mask=mask, pixel_values=pixels, return_dict_in_generate=True, **FREE
    )
    asked = torch.tensor([[9, *[IMAGE] * 4, 8, 7], [3, 4, 5, 6, 7, 8, 9]])
    more = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
    both = torch.cat([first.sequences, asked], dim=1)
    seen = torch.cat([mask, mask.new_ones(2, both.shape[1] - mask.shape[1])], dim=1)
    how = {"input_ids": both, "attention_mask": seen} | FREE
    onward = model.generate(pixel_values=more, **{CACHE: getattr(first, CACHE)}, **how)
    whole = torch.cat([pixels[:2], more, pixels[2:]])
    assert torch.equal(onward, model.generate(pixel_values=whole, **how))
    beams = model.generate(pixel_values=whole, **how, num_beams=3)
    again = model.generate(pixel_values=whole, **how, num_beams=3, use_cache=False)
    assert torch.equal(beams, again)
    with pytest.raises(InputError, match="pixel_values: expected 1 images"):
        model.generate(**{CACHE: getattr(first, CACHE)}, **how)


@pytest.mark.parametrize("how", [{"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}, {"do_sample": True}])
def test_without_a_cache_the_same(model: LlavaRMT, how: dict[str, Any]) -> None:
    ids, mask, pixels = prompt(model.backbone, [2, 0, 1], length=14, pad="left")
    plain = {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels, **(FREE | how)}
    torch.manual_seed(3)
    got = model.generate(**plain)
    torch.manual_seed(3)
    assert torch.equal(got, model.generate(**plain, use_cache=False))


def test_returned_sequences_take_the_images_of_their_row(model: LlavaRMT) -> None:
    ids, mask, pixels = prompt(model.backbone, [2, 1], length=14, pad="left")
    sampled = FREE | {"do_sample": True}
    torch.manual_seed(3)
    got = model.generate(input_ids=ids, attention_mask=mask, pixel_values=pixels, num_return_sequences=2, **sampled)
    torch.manual_seed(3)
    twice = pixels[[0, 1, 0, 1, 2, 2]]
    wanted = model.generate(
        input_ids=ids.repeat_interleave(2, 0), attention_mask=mask.repeat_interleave(2, 0), pixel_values=twice,
        **sampled,
    )  # fmt: skip
    assert torch.equal(got, wanted)


def test_memory_and_features_of_another_call(model: LlavaRMT) -> None:
    ids, mask, pixels = prompt(model.backbone, [1, 1], length=14, pad="left")
    with torch.no_grad():
        memory = model(input_ids=ids, attention_mask=mask, pixel_values=pixels).memory
        features = model.vision_features(pixels)
    how = {"input_ids": ids, "attention_mask": mask, **FREE}
    got = model.generate(vision_features=features, memory=memory, **how)
    assert torch.equal(got, model.generate(pixel_values=pixels, memory=memory, **how))
    assert not torch.equal(got, model.generate(pixel_values=pixels, **how))


def test_the_image_token_that_a_model_says_is_a_word() -> None:
    model = build()
    with torch.no_grad():
        model.backbone.lm_head.weight[IMAGE] = model.backbone.lm_head.weight.sum(dim=0)
    ids, mask, pixels = prompt(model.backbone, [1, 0], length=14, pad="left")
    how = {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels, "max_new_tokens": 14, "do_sample": False}
    said = model.generate(**how)
    assert bool((said[:, ids.shape[1] :] == IMAGE).any())
    assert torch.equal(said, model.generate(**how, use_cache=False))


def test_prompts_keep_the_logits_of_their_ends_alone() -> None:
    model = build()
    sizes: list[int] = []
    handle = model.backbone.lm_head.register_forward_hook(lambda _, args, out: sizes.append(out.shape[0]))
    ids, mask, pixels = prompt(model.backbone, [2, 1], length=30, pad="left")
    model.generate(input_ids=ids, attention_mask=mask, pixel_values=pixels, **FREE)
    handle.remove()
    assert max(sizes) <= 2


def test_malformed_prompts_are_refused(model: LlavaRMT) -> None:
    ids, mask, pixels = prompt(model.backbone, [1, 1], length=8, pad="left")
    given = {"input_ids": ids, "attention_mask": mask}
    with pytest.raises(InputError, match="expected the images of the prompts, got none"):
        model.generate(**given, **FREE)
    with pytest.raises(InputError, match="expected 2 images"):
        model.generate(**given, pixel_values=pixels[:1], **FREE)
    with pytest.raises(InputError, match="prefill_chunk_size"):
        model.generate(**given, pixel_values=pixels, prefill_chunk_size=3, **FREE)
    with pytest.raises(InputError, match="glue: expected the shape"):
        model.generate(**given, pixel_values=pixels, glue=torch.zeros(2, 3, dtype=torch.long), **FREE)
