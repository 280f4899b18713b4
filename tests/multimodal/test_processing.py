"""LlavaRMTProcessor: LlavaProcessor's output where patches count, our projector's number of tokens elsewhere."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers import (
    AutoProcessor,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaProcessor,
    PreTrainedConfig,
    SiglipVisionConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from multimodal.processing import LlavaRMTProcessor, register
from rmt.errors import InputError
from tests.multimodal.toys import IMAGES_FIRST, tokenizer

SIDE, PATCH = 8, 4
PATCHES = (SIDE // PATCH) ** 2
IMAGES = [np.full((10, 12, 3), value, np.uint8) for value in (0, 90, 250)]
TEXTS = ["USER: <image>\nWhat? ASSISTANT:", "no image", "<image> and <image> differ"]


def clip(side: int = SIDE) -> Any:
    return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def llava(image_processor: Any = None, **kwargs: Any) -> LlavaProcessor:
    kwargs = {
        "patch_size": PATCH,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    } | kwargs
    return LlavaProcessor(image_processor or clip(), tokenizer("gpt2"), chat_template=IMAGES_FIRST, **kwargs)


def config(tokens: int = PATCHES, vision: Any = None, **kwargs: Any) -> Any:
    vision = vision or CLIPVisionConfig(image_size=SIDE, patch_size=PATCH)
    image = tokenizer("gpt2").convert_tokens_to_ids("<image>")
    whole = LlavaConfig(vision_config=vision, image_token_index=image, **kwargs)
    return SimpleNamespace(llava_config=whole, image_token_id=image, tokens_per_image=tokens)


def same(left: Any, right: Any) -> None:
    assert left.keys() == right.keys()
    for key in left:
        for one, other in zip(left[key], right[key], strict=True):  # rows need not be of one length
            assert np.array_equal(np.asarray(one), np.asarray(other)), key


@pytest.mark.parametrize("text", [TEXTS, TEXTS[0]])
def test_equals_its_parent_for_patches(text):
    images = IMAGES if isinstance(text, list) else IMAGES[:1]
    theirs = llava()(images=images, text=text, padding=True)
    for ours in (LlavaRMTProcessor.for_model(config(), llava()), plain()):
        same(ours(images=images, text=text, padding=True), theirs)
    assert ours._get_num_multimodal_tokens([(10, 12)])["num_image_tokens"] == [PATCHES]


def plain() -> LlavaRMTProcessor:
    """Without a number of its own."""
    of = llava()
    return LlavaRMTProcessor(
        of.image_processor, of.tokenizer, patch_size=PATCH, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=IMAGES_FIRST,
    )  # fmt: skip


def test_equals_its_parent_for_siglip():
    vision = SiglipVisionConfig(image_size=SIDE, patch_size=PATCH)
    processor = llava(
        SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}),
        vision_feature_select_strategy="full", num_additional_image_tokens=0,
    )  # fmt: skip
    ours = LlavaRMTProcessor.for_model(config(vision=vision, vision_feature_select_strategy="full"), processor)
    same(ours(images=IMAGES, text=TEXTS, padding=True), processor(images=IMAGES, text=TEXTS, padding=True))


@pytest.mark.parametrize("tokens", [1, 7])
def test_counts_what_the_projector_leaves(tokens):
    ours = LlavaRMTProcessor.for_model(config(tokens), llava())
    out = ours(images=IMAGES, text=TEXTS)
    assert [row.count(ours.image_token_id) for row in out["input_ids"]] == [tokens, 0, 2 * tokens]
    expected = ours.tokenizer(TEXTS[0].replace("<image>", "<image>" * tokens))["input_ids"]
    assert out["input_ids"][0] == expected
    assert ours._get_num_multimodal_tokens([(10, 12), (3, 3)])["num_image_tokens"] == [tokens] * 2
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    text = ours.apply_chat_template(messages, add_generation_prompt=True)
    assert text == "USER: <image>\nWhat? ASSISTANT:"


def test_saved_and_loaded(tmp_path):
    ours = LlavaRMTProcessor.for_model(config(7), llava())
    ours.save_pretrained(tmp_path / "ours")
    again = LlavaRMTProcessor.from_pretrained(tmp_path / "ours")
    assert isinstance(again, LlavaRMTProcessor)
    assert again.tokens_per_image == 7
    assert again.chat_template == IMAGES_FIRST
    same(again(images=IMAGES, text=TEXTS), ours(images=IMAGES, text=TEXTS))


def test_what_transformers_saved_loads_unchanged(tmp_path):
    theirs = llava()
    theirs.save_pretrained(tmp_path)
    ours = LlavaRMTProcessor.from_pretrained(tmp_path)
    assert isinstance(ours, LlavaRMTProcessor)
    assert ours.tokens_per_image is None
    same(ours(images=IMAGES, text=TEXTS), theirs(images=IMAGES, text=TEXTS))
    assert type(AutoProcessor.from_pretrained(tmp_path)) is LlavaProcessor


def test_registered_with_auto_processor(tmp_path):
    class ToyConfig(PreTrainedConfig):
        model_type = "toy_llava_rmt"

    register(ToyConfig)
    register(ToyConfig)  # again does no harm
    LlavaRMTProcessor.for_model(config(7), llava()).save_pretrained(tmp_path)
    found = AutoProcessor.from_pretrained(tmp_path)
    assert type(found) is LlavaRMTProcessor
    assert found.tokens_per_image == 7


def test_images_and_tokens_must_match():
    ours = LlavaRMTProcessor.for_model(config(2), llava())
    nested = [[IMAGES[0]], [], IMAGES[1:]]
    same(ours(images=nested, text=TEXTS), ours(images=IMAGES, text=TEXTS))
    with pytest.raises(InputError, match=r"\[1, 0, 2\], got \[0, 1, 2\]"):
        ours(images=[[], [IMAGES[0]], IMAGES[1:]], text=TEXTS)
    with pytest.raises(InputError, match="expected 3, one for each <image> in 3 texts, got 2"):
        ours(images=IMAGES[:2], text=TEXTS)
    with pytest.raises(InputError, match="got 0"):
        ours(text=TEXTS)
    with pytest.raises(InputError, match=r"expected 0.*got 1"):
        ours(images=IMAGES[0], text="none")


def test_what_does_not_fit_the_model():
    with pytest.raises(InputError, match="8 × 8 pixels"):
        LlavaRMTProcessor.for_model(config(), llava(clip(16)))
    other = config()
    other.image_token_id += 1
    with pytest.raises(InputError, match="to be token"):
        LlavaRMTProcessor.for_model(other, llava())
    with pytest.raises(InputError, match="positive"):
        LlavaRMTProcessor(clip(), tokenizer("gpt2"), tokens_per_image=0)
