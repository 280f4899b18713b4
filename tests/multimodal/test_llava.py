"""LlavaRMT against transformers' LLaVA: outputs, gradients, decoding, and rows that do not know of each other."""

from __future__ import annotations

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from multimodal import LlavaRMT
from rmt.errors import InputError
from tests.multimodal.llava_kit import IMAGE, prompt, tiny_llava


def recurrent(llava: LlavaForConditionalGeneration, **fields: object) -> LlavaRMT:
    given: dict[str, object] = {"segment_size": 24, "num_memory_tokens": 2, **fields}
    return LlavaRMT.from_backbone(llava, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("tower", ["clip", "siglip"])
@pytest.mark.parametrize("images", [[1], [2, 1], [0, 3]])
def test_equals_transformers_without_memory(tower: str, images: list[int]) -> None:
    llava = tiny_llava(tower)
    ids, mask, pixels = prompt(llava, images)
    expected = llava(input_ids=ids, attention_mask=mask, pixel_values=pixels).logits
    model = recurrent(llava, num_memory_tokens=0, segment_size=200)
    got = model(input_ids=ids, attention_mask=mask, pixel_values=pixels).logits
    assert torch.allclose(got[mask.bool()], expected[mask.bool()], atol=1e-5)
    assert float(expected[mask.bool()].abs().max()) > 0.05


def test_gradients_equal_transformers_without_memory() -> None:
    llava = tiny_llava("clip")
    ids, mask, pixels = prompt(llava, [1, 2])
    labels = ids.masked_fill((ids == IMAGE) | ~mask.bool(), -100)
    llava(input_ids=ids, attention_mask=mask, pixel_values=pixels, labels=labels).loss.backward()
    wanted = {n: p.grad.clone() for n, p in llava.named_parameters() if p.grad is not None}
    llava.zero_grad()
    model = recurrent(llava, num_memory_tokens=0, segment_size=200, freeze_vision=False)
    model(
        input_ids=ids, attention_mask=mask, pixel_values=pixels, labels=ids.masked_fill(~mask.bool(), -100)
    ).loss.backward()
    got = {n.removeprefix("backbone."): p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert any("vision_tower" in n for n in got)
    for name, gradient in wanted.items():
        assert torch.allclose(got[name], gradient, atol=1e-5), name


@pytest.mark.parametrize("memory", ["tokens", "associative"])
def test_rows_are_independent(memory: str) -> None:
    llava = tiny_llava("clip")
    model = recurrent(llava, memory=memory).eval()
    ids, mask, pixels = prompt(llava, [2, 0, 1], length=60)
    together = model(input_ids=ids, attention_mask=mask, pixel_values=pixels)
    first = 0
    for row, count in enumerate([2, 0, 1]):
        mine = pixels[first : first + count] if count else None
        first += count
        alone = model(input_ids=ids[row : row + 1], attention_mask=mask[row : row + 1], pixel_values=mine)
        real = mask[row].bool()
        assert torch.allclose(together.logits[row][real], alone.logits[0][real], atol=1e-5)
        for name, tensor in alone.memory.tensors.items():
            assert torch.allclose(together.memory.tensors[name][row], tensor[0], atol=1e-5), name


@pytest.mark.parametrize("recurrence", ["plain", "checkpointed"])
@pytest.mark.parametrize("memory", ["tokens", "associative"])
def test_gradients_reach_the_projector_through_memory(memory: str, recurrence: str) -> None:
    llava = tiny_llava("clip")
    model = recurrent(llava, memory=memory, recurrence=recurrence).train()
    if memory == "associative":
        for p in model.cell.parameters():
            p.data.normal_(0, 0.2)
    ids, mask, pixels = prompt(llava, [1], length=80)
    labels = ids.masked_fill(torch.arange(ids.shape[1]) < ids.shape[1] - 4, -100)
    model(input_ids=ids, attention_mask=mask, pixel_values=pixels, labels=labels).loss.backward()
    gradient = llava.model.multi_modal_projector.linear_1.weight.grad
    assert gradient is not None
    assert float(gradient.abs().max()) > 0
    assert all(p.grad is None for p in llava.model.vision_tower.parameters())


def test_decoding_equals_teacher_forcing_across_borders() -> None:
    llava = tiny_llava("clip")
    model = recurrent(llava).eval()
    ids, mask, pixels = prompt(llava, [2, 1], length=50, pad="left")
    out = model.generate(
        input_ids=ids, attention_mask=mask, pixel_values=pixels, max_new_tokens=40, do_sample=False,
        return_dict_in_generate=True, output_logits=True, suppress_tokens=[IMAGE],
    )  # fmt: skip
    whole = torch.cat([mask, torch.ones(2, 40, dtype=mask.dtype)], dim=1)
    forced = model(input_ids=out.sequences, attention_mask=whole, pixel_values=pixels, logits_to_keep=41)
    stepwise = torch.stack(out.logits, dim=1)
    assert torch.allclose(stepwise, forced.logits[:, :-1], atol=1e-4)
    memory = model.memory_of(out)
    for name, tensor in forced.memory.tensors.items():
        assert torch.allclose(memory.tensors[name], tensor, atol=1e-4), name


def test_beams_take_the_images_of_their_row() -> None:
    llava = tiny_llava("clip")
    model = recurrent(llava).eval()
    ids, mask, pixels = prompt(llava, [2, 1], length=50, pad="left")
    both = model.generate(input_ids=ids, attention_mask=mask, pixel_values=pixels, max_new_tokens=6, num_beams=3)
    alone = model.generate(
        input_ids=ids[1:], attention_mask=mask[1:], pixel_values=pixels[2:], max_new_tokens=6, num_beams=3
    )
    assert torch.equal(both[1:, ids.shape[1] :], alone[:, ids.shape[1] :])


def test_round_trip(tmp_path: object) -> None:
    model = recurrent(tiny_llava("siglip")).eval()
    model.save_pretrained(tmp_path)
    again = LlavaRMT.from_pretrained(tmp_path).eval()
    ids, mask, pixels = prompt(model.backbone, [1, 2], length=50)
    assert torch.equal(
        model(input_ids=ids, attention_mask=mask, pixel_values=pixels).logits,
        again(input_ids=ids, attention_mask=mask, pixel_values=pixels).logits,
    )
    assert again.fingerprint() == model.fingerprint()


def test_images_that_do_not_match_are_named_by_row() -> None:
    llava = tiny_llava("clip")
    model = recurrent(llava)
    ids, mask, pixels = prompt(llava, [1, 1])
    with pytest.raises(InputError, match=r"expected 2 images \(\[1, 1\] in the rows of input_ids\), got 1"):
        model(input_ids=ids, attention_mask=mask, pixel_values=pixels[:1])
    torn = ids.clone()
    torn[0, (ids[0] == IMAGE).nonzero()[0]] = 5
    with pytest.raises(InputError, match="row 0: 3"):
        model(input_ids=torn, attention_mask=mask, pixel_values=pixels)
    with pytest.raises(InputError, match="segment_size: expected at least 4"):
        model(input_ids=ids, attention_mask=mask, pixel_values=pixels, segment_size=3)


@pytest.mark.parametrize("projector", ["linear", "pooled", "resampler"])
def test_other_projectors_are_saved_and_read_the_same(projector: str, tmp_path: object) -> None:
    llava = tiny_llava("clip")
    model = recurrent(llava, projector=projector, projector_queries=3).eval()
    tokens = {"linear": 4, "pooled": 1, "resampler": 3}[projector]
    assert model.config.tokens_per_image == tokens
    ids = torch.randint(1, 50, (2, 40))
    ids[0, 5 : 5 + tokens] = ids[1, 20 : 20 + tokens] = IMAGE
    pixels = torch.randn(2, 3, 16, 16)
    model.save_pretrained(tmp_path)
    again = LlavaRMT.from_pretrained(tmp_path).eval()
    assert torch.equal(
        model(input_ids=ids, pixel_values=pixels).logits, again(input_ids=ids, pixel_values=pixels).logits
    )
    other = model(input_ids=ids, pixel_values=pixels.flip(0)).logits
    assert not torch.allclose(model(input_ids=ids, pixel_values=pixels).logits, other)


def test_a_memory_knows_how_its_model_saw() -> None:
    """The weights of both projectors are the same, and both make one token of four patches or of none."""
    weights = tiny_llava("clip").state_dict()
    names = set()
    for projector, layer in (("mlp", -2), ("mlp", -1), ("pooled", -2)):
        llava = tiny_llava("clip")
        llava.config.vision_feature_layer = layer
        torch.manual_seed(0)
        model = recurrent(llava, projector=projector)
        model.backbone.load_state_dict(weights)
        model.cell.memory.data.fill_(0.1)
        names.add(model.fingerprint())
    assert len(names) == 3
