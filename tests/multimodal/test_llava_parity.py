"""LlavaRMT without memory and in one segment is transformers' LLaVA, for all that its checkpoints may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)

from multimodal import LlavaRMT, LlavaRMTConfig
from rmt.errors import InputError
from tests.multimodal.llava_kit import IMAGE, SIDE, WORDS, prompt, tiny_llava

VISION: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "image_size": SIDE, "patch_size": 8,
}  # fmt: skip
TEXT: dict[str, Any] = {
    "vocab_size": WORDS + 4, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12, "max_position_embeddings": 512,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": 0,
}  # fmt: skip


def llava_of(text: str = "llama", tower: str = "clip", **fields: Any) -> LlavaForConditionalGeneration:
    """A LLaVA of any parts; weights large enough that a wrong position shows."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(**VISION) if tower == "clip" else SiglipVisionConfig(**VISION)
    language = AutoConfig.for_model(text, **TEXT)
    default = {"vision_feature_select_strategy": "default" if tower == "clip" else "full", "image_seq_length": 4}
    config = LlavaConfig(vision_config=vision, text_config=language, image_token_index=IMAGE, **(default | fields))
    model = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.15)
    return model


def plain(llava: LlavaForConditionalGeneration) -> LlavaRMT:
    return LlavaRMT.from_backbone(llava, num_memory_tokens=0, segment_size=200)


def equal(llava: LlavaForConditionalGeneration, ids: Any, mask: Any, pixels: Any, atol: float = 1e-5) -> None:
    with torch.no_grad():
        expected = llava(input_ids=ids, attention_mask=mask, pixel_values=pixels).logits
        got = plain(llava)(input_ids=ids, attention_mask=mask, pixel_values=pixels).logits
    real = mask.bool()
    size = float(expected[real].abs().max())
    assert size > 0.1
    torch.testing.assert_close(got[real], expected[real], atol=atol * max(1.0, size), rtol=0)


@pytest.mark.parametrize("text", ["llama", "mistral", "qwen2", "qwen3", "gemma", "gpt_neox"])
def test_families(text: str) -> None:
    llava = llava_of(text)
    equal(llava, *prompt(llava, [2, 1]))


@pytest.mark.parametrize("tower", ["clip", "siglip"])
@pytest.mark.parametrize("layer", [-1, -2, 3, [-2, -1], [0, 1, 3]])
def test_layers(tower: str, layer: int | list[int]) -> None:
    llava = llava_of(tower=tower, vision_feature_layer=layer)
    equal(llava, *prompt(llava, [1, 2]))
    model = plain(llava)
    assert model.vision_features(prompt(llava, [1])[2]).shape == (1, 4, model.config.vision_width)


def test_all_positions_of_clip() -> None:
    llava = llava_of(vision_feature_select_strategy="full")
    assert plain(llava).config.tokens_per_image == 5
    ids, _, pixels = prompt(llava, [1])
    at = int((ids[0] == IMAGE).nonzero()[0])
    ids = torch.cat([ids[:, :at], torch.tensor([[IMAGE]]), ids[:, at:]], dim=1)
    equal(llava, ids, torch.ones_like(ids), pixels)


def test_bfloat16() -> None:
    llava = llava_of().to(torch.bfloat16)
    equal(llava, *prompt(llava, [2, 1]), atol=0.02)  # eight bits; sums come in another order
    model = LlavaRMT.from_backbone(llava, segment_size=12, num_memory_tokens=2).to(torch.bfloat16)
    ids, mask, pixels = prompt(llava, [2, 1])
    out = model(input_ids=ids, attention_mask=mask, pixel_values=pixels)
    assert out.logits.dtype == torch.bfloat16
    assert bool(out.logits.isfinite().all())


def test_tied_embeddings(tmp_path: Path) -> None:
    llava = llava_of(tie_word_embeddings=True)
    llava.tie_weights()
    equal(llava, *prompt(llava, [1, 1]))
    model = plain(llava)
    model.save_pretrained(tmp_path)
    again = LlavaRMT.from_pretrained(tmp_path)
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    ids, mask, pixels = prompt(llava, [1, 1])
    given = {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}
    assert torch.equal(model(**given).logits, again.eval()(**given).logits)


@pytest.mark.parametrize("how", [{}, {"num_beams": 3}])
def test_generates_what_transformers_does(how: dict[str, Any]) -> None:
    llava = llava_of()
    ids, mask, pixels = prompt(llava, [2, 1], pad="left")
    given = {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels, "max_new_tokens": 10, "do_sample": False}
    expected = llava.generate(**given, **how)
    assert torch.equal(plain(llava).generate(**given, **how), expected)
    assert len(expected[:, ids.shape[1] :].unique()) > 3


def processor() -> LlavaProcessor:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {f"w{i}": i for i in range(WORDS)} | {"<image>": IMAGE, "<unk>": IMAGE + 1, "<pad>": IMAGE + 2}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", pad_token="<pad>", additional_special_tokens=["<image>"]
    )
    size = {"height": SIDE, "width": SIDE}
    pixels = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=size)
    return LlavaProcessor(
        pixels, tokenizer, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )


def test_a_folder_of_transformers_loads_unchanged(tmp_path: Path) -> None:
    from PIL import Image

    llava = llava_of()
    llava.save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    theirs = LlavaForConditionalGeneration.from_pretrained(tmp_path).eval()
    reader = LlavaProcessor.from_pretrained(tmp_path)
    images = [Image.new("RGB", (30, 20), color) for color in ("red", "blue")]
    given = reader(images=images, text="w1 <image> w2 w3 <image> w4", return_tensors="pt")
    assert int((given["input_ids"] == IMAGE).sum()) == 8
    model = LlavaRMT.from_backbone(str(tmp_path), num_memory_tokens=0, segment_size=200)
    assert not model.training
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[name], tensor), name
    given = {name: given[name] for name in ("input_ids", "attention_mask", "pixel_values")}
    with torch.no_grad():
        torch.testing.assert_close(model(**given).logits, theirs(**given).logits, atol=1e-5, rtol=1e-5)
    how = {"max_new_tokens": 8, "do_sample": False}
    assert torch.equal(model.generate(**given, **how), theirs.generate(**given, **how))


def test_the_published_shape_is_built_on_the_meta_device() -> None:
    text = AutoConfig.for_model("llama", vocab_size=32064)  # 7B
    with torch.device("meta"):
        model = LlavaRMT(
            LlavaRMTConfig(llava_config=LlavaConfig(text_config=text), segment_size=1024, num_memory_tokens=16)
        )
    assert model.config.tokens_per_image == 576
    assert model.config.patches == 24 * 24
    projector = sum(p.numel() for p in model.backbone.model.multi_modal_projector.parameters())
    assert projector == (1024 + 1) * 4096 + (4096 + 1) * 4096
    assert 7.0e9 < sum(p.numel() for p in model.parameters()) < 7.1e9


@pytest.mark.parametrize(
    ("vision", "fields", "match"),
    [
        ({"image_size": 20}, {}, "image_size that is a multiple of patch_size"),
        ({"image_size": [16, 24]}, {}, "an image_size of at least one patch_size"),
        ({}, {"vision_feature_layer": 7}, "vision_feature_layer from -4 to 3"),
        ({}, {"vision_feature_layer": [-2, -5]}, "vision_feature_layer from -4 to 3"),
    ],
)
def test_shapes_that_are_not_supported_are_refused(vision: dict[str, Any], fields: dict[str, Any], match: str) -> None:
    llava = tiny_llava().config
    for name, value in vision.items():
        llava.vision_config.__dict__[name] = value  # past the check of transformers, which some releases lack
    for name, value in fields.items():
        llava.__dict__[name] = value
    with pytest.raises(InputError, match=match):
        LlavaRMTConfig(llava_config=llava)


def test_other_models_are_refused(tmp_path: Path) -> None:
    siglip = tiny_llava("siglip").config
    siglip.vision_feature_select_strategy = "default"
    with pytest.raises(InputError, match="vision_feature_select_strategy='full'"):
        LlavaRMTConfig(llava_config=siglip)
    AutoConfig.for_model("llava_next").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="expected a LLaVA model, got model_type 'llava_next'"):
        LlavaRMT.from_backbone(str(tmp_path))
