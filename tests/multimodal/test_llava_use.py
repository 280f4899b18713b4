"""LlavaRMT in training and in the tools around it: Trainer, PEFT, shards, copies, new words, constant space."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, distributed
from transformers import AutoModelForImageTextToText, Trainer, TrainingArguments

from efficiency.footprint import Live
from multimodal import LlavaRMT, splice
from rmt.errors import InputError
from rmt.executors import EXECUTORS, choose
from tests.multimodal.llava_kit import IMAGE, SIDE, WORDS, prompt, tiny_llava


def build(**fields: Any) -> LlavaRMT:
    given: dict[str, Any] = {"segment_size": 11, "num_memory_tokens": 2, **fields}
    return LlavaRMT.from_backbone(tiny_llava(), **given)


def given(model: Any, images: list[int] | None = None, length: int = 14, **how: Any) -> dict[str, Tensor]:
    ids, mask, pixels = prompt(model, images or [2, 1], length=length, **how)
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}


def album(images: int) -> dict[str, Tensor]:
    """One image and four words a segment of eight."""
    ids = torch.tensor([[*[IMAGE] * 4, 5, 6, 7, 8] * images])
    return {"input_ids": ids, "labels": ids, "pixel_values": torch.randn(images, 3, SIDE, SIDE)}


@pytest.mark.parametrize("memory", ["tokens", "associative"])
def test_space_of_training_does_not_grow_with_images(memory: str) -> None:
    """Features and activations of a segment die with it, those of a tower that is trained too."""

    def peak(recurrence: str, images: int) -> int:
        model = build(memory=memory, segment_size=8, recurrence=recurrence, freeze_vision=False).train()
        batch = album(images)
        for _ in range(2):  # the first backward also makes gradients
            with Live() as storages:
                model(**batch).loss.backward()
        return int(storages.peak)

    few, many = peak("checkpointed", 4), peak("checkpointed", 16)
    assert many < 1.15 * few
    assert peak("plain", 16) > 3 * many


def test_one_step_of_trainer(tmp_path: Path) -> None:
    model = build(num_memory_tokens=2)
    assert model.accepts_loss_kwargs is False
    rows = [{k: v[0] if k != "pixel_values" else v for k, v in album(2).items()} for _ in range(4)]

    def collate(features: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        stacked = {k: torch.stack([f[k] for f in features]) for k in ("input_ids", "labels")}
        return stacked | {"pixel_values": torch.cat([f["pixel_values"] for f in features])}

    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=2, report_to=[], use_cpu=True,
        gradient_checkpointing=True, learning_rate=1e-2, save_strategy="no",
    )  # fmt: skip
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate).train()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert any("multi_modal_projector" in n for n in moved)
    assert any(n.startswith("cell.") for n in moved)
    assert not any("vision_tower" in n for n in moved)
    assert model.is_gradient_checkpointing


def test_shards_and_auto_classes(tmp_path: Path) -> None:
    model = build(freeze_vision=False)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert isinstance(again, LlavaRMT)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert any(p.requires_grad for p in again.backbone.model.vision_tower.parameters())
    batch = given(model.backbone)
    assert torch.equal(model.eval()(**batch).logits, again.eval()(**batch).logits)


@pytest.mark.parametrize("old", [False, True])
def test_files_have_the_names_that_trainer_looks_for(old: bool, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = build()
    model.save_pretrained(tmp_path, **({"save_original_format": True} if old else {}))
    names = set(load_file(tmp_path / "model.safetensors"))
    assert (names == set(model.state_dict())) is not old
    again = LlavaRMT.from_pretrained(tmp_path)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    loaded = LlavaRMT.from_backbone(tiny_llava(seed=5), segment_size=11)  # another has been loaded by other names
    loaded.save_pretrained(tmp_path / "more")
    assert set(load_file(tmp_path / "more" / "model.safetensors")) == set(loaded.state_dict())


def test_a_tower_is_frozen_as_configured(tmp_path: Path) -> None:
    model = build()
    tower = model.backbone.model.vision_tower
    model.train()
    assert not tower.training
    assert not any(p.requires_grad for p in tower.parameters())
    model.vision(frozen=False)
    assert model.train().backbone.model.vision_tower.training
    model.save_pretrained(tmp_path)
    assert all(p.requires_grad for p in LlavaRMT.from_pretrained(tmp_path).backbone.model.vision_tower.parameters())
    model.vision(frozen=True)
    model.save_pretrained(tmp_path)
    assert not any(p.requires_grad for p in LlavaRMT.from_pretrained(tmp_path).backbone.model.vision_tower.parameters())


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_and_dtype(attention: str) -> None:
    model = build().eval()
    batch = given(model.backbone)
    expected = model(**batch).logits
    model.set_attn_implementation(attention)
    torch.testing.assert_close(model(**batch).logits, expected, atol=1e-4, rtol=1e-4)
    half = model.to(torch.bfloat16)
    assert half.dtype == torch.bfloat16
    got = half(**batch).logits.float()
    assert float((got - expected).abs().max()) < 0.1 * float(expected.abs().max())


def test_a_copy_is_a_model_of_its_own() -> None:
    model = build().eval()
    batch = given(model.backbone)
    expected = model(**batch).logits
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(twin(**batch).logits, expected)


def test_a_call_leaves_no_trace() -> None:
    model = build().train()
    modules, state = dict(model.named_modules()), set(vars(model))
    model(**album(2)).loss.backward()
    model.eval().generate(**given(model.backbone), max_new_tokens=3, suppress_tokens=[IMAGE])
    assert dict(model.named_modules()) == modules
    assert set(vars(model)) == state
    assert all(t.shape == model.state_dict()[n].shape for n, t in model.state_dict().items())


def test_new_words_move_virtual_ids() -> None:
    """They begin where words end, wherever that is."""
    model = build().eval()
    batch = given(model.backbone)
    expected = model(**batch).logits
    model.resize_token_embeddings(WORDS + 11)
    assert model.config.vocab_size == model.config.llava_config.text_config.vocab_size == WORDS + 11
    got = model(**batch).logits
    assert got.shape[-1] == WORDS + 11
    torch.testing.assert_close(got[..., : WORDS + 4], expected, atol=1e-5, rtol=1e-5)
    new = batch["input_ids"].clone()
    new[0, 0] = WORDS + 9 if new[0, 0] != IMAGE else IMAGE
    assert not torch.allclose(model(**batch | {"input_ids": new}).logits, got)


def test_lora(tmp_path: Path) -> None:
    model = build()
    config = LoraConfig(r=2, target_modules=r".*language_model.*(q_proj|v_proj)", task_type="CAUSAL_LM")
    tuned = get_peft_model(model, config)
    batch = album(2)
    out = tuned(**batch)
    out.loss.backward()
    trained = {n for n, p in tuned.named_parameters() if p.grad is not None}
    assert trained
    assert all("lora_" in name for name in trained)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    tuned.eval()
    prompts = given(model.backbone, pad="left")
    got = tuned.generate(**prompts, max_new_tokens=14, do_sample=False, suppress_tokens=[IMAGE])
    logits = tuned(**prompts).logits
    merged = tuned.merge_and_unload()
    torch.testing.assert_close(merged(**prompts).logits, logits, atol=1e-4, rtol=1e-4)
    assert torch.equal(merged.generate(**prompts, max_new_tokens=14, do_sample=False, suppress_tokens=[IMAGE]), got)


def test_words_whose_embedding_is_tuned() -> None:
    """PEFT may wrap the very module that a view puts images into."""
    tuned = get_peft_model(build(), LoraConfig(r=2, target_modules=["embed_tokens"], task_type="CAUSAL_LM"))
    tuned(**album(2)).loss.backward()
    assert all(p.grad is not None for n, p in tuned.named_parameters() if "lora_" in n)


def test_every_parameter_hangs_on_a_loss_where_processes_train_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with a batch without images, and those of a tower's last layer, whose features nobody takes."""
    model = build(freeze_vision=False, memory_update="gated").train()
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    ids = torch.randint(1, WORDS, (2, 9))
    for batch in ({"input_ids": ids, "labels": ids}, album(2)):
        model.zero_grad()
        model(**batch).loss.backward()
        assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    monkeypatch.setattr(distributed, "is_initialized", lambda: False)
    model.zero_grad()
    model(input_ids=ids, labels=ids).loss.backward()
    assert model.backbone.model.multi_modal_projector.linear_1.weight.grad is None


@pytest.mark.parametrize("memory", ["tokens", "gated", "associative"])
@pytest.mark.parametrize("name", [name for name in EXECUTORS if name != "compiled"])
def test_executors_read_images(name: str, memory: str) -> None:
    how = {"memory_update": "gated"} if memory == "gated" else {"memory": memory}
    model = build(**how).eval()
    try:
        executor, _ = choose(model.config, name)
    except InputError:
        return  # not for this memory, or not for this machine
    ids, mask, pixels = prompt(model.backbone, [4], length=40)
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask, pixel_values=pixels).memory
        numbered = splice.number(
            ids, mask, image_token=IMAGE, tokens=4, vocabulary=model.config.vocab_size, images=len(pixels)
        )
        rows = model.encode(pixels).flatten(0, 1)
        view = model.seeing(lambda wanted: rows[wanted])
        state = executor.read(view, view.segments(numbered, mask), model.state_of(None, 1))
    for key, tensor in expected.tensors.items():
        torch.testing.assert_close(state[key], tensor, atol=1e-4, rtol=1e-3)


def refused(model: LlavaRMT, match: str, **arguments: Any) -> None:
    with pytest.raises(InputError, match=match):
        model(**arguments)


def test_malformed_input_is_refused() -> None:
    model = build().eval()
    batch = given(model.backbone)
    ids, mask, pixels = batch.values()
    refused(model, "pixel_values: expected 3 images", input_ids=ids, attention_mask=mask)
    refused(model, "pixel_values: expected 0 images", input_ids=ids.clamp(max=5), pixel_values=pixels)
    refused(model, "in one form", **batch, vision_features=model.vision_features(pixels))
    floats = r"expected floats of shape \(images, 3, 16, 16\)"
    refused(model, floats, input_ids=ids, pixel_values=pixels[..., :8])
    refused(model, floats, input_ids=ids, pixel_values=pixels[None])
    refused(model, floats, input_ids=ids, pixel_values=(pixels * 255).to(torch.uint8))
    refused(model, r"vision_features: .* \(images, 4, 32\)", input_ids=ids, vision_features=torch.randn(3, 5, 32))
    refused(
        model, "attention_mask: expected the shape", input_ids=ids, attention_mask=mask[:, :-1], pixel_values=pixels
    )
    long = torch.cat([mask, mask], dim=1)
    refused(model, "attention_mask: expected the shape", input_ids=ids, attention_mask=long, pixel_values=pixels)
    refused(model, "labels: expected the shape", **batch, labels=ids[:, :-1])
    refused(model, "glue: expected the shape", **batch, glue=ids[:, :-1])
    refused(model, "none in rows .1.", input_ids=torch.tensor([[5], [5]]), attention_mask=torch.tensor([[1], [0]]))
    refused(model, "forward: expected arguments that it documents, got image_sizes", **batch, image_sizes=[[16, 16]])
    refused(model, "question_pixel_values: expected question_ids", **batch, question_pixel_values=pixels)
    asked = torch.tensor([[[5, *[IMAGE] * 4]], [[5, 6, 7, 8, 9]]])
    refused(model, "question_pixel_values: expected 1 images", **batch, question_ids=asked)
    wrong = {"question_ids": asked, "question_pixel_values": pixels[:1, :, :8]}
    refused(model, "question_pixel_values: expected floats", **batch, **wrong)
    shape = {"question_ids": asked, "question_pixel_values": pixels[:1], "question_mask": torch.ones(2, 1, 4)}
    refused(model, "question_mask: expected the shape of question_ids", **batch, **shape)
    refused(model, "segment_size", **batch, segment_size=3)
    refused(model, "expected no labels and no questions", **batch, labels=ids, use_cache=True)
    refused(model, "expected ids from 0 to 63", input_ids=ids.masked_fill(ids == IMAGE, 64))


def test_an_image_without_pixels_in_a_second_turn_is_refused() -> None:
    model = build().eval()
    more = torch.tensor([[5, *[IMAGE] * 4]] * 2)
    out = model(**given(model.backbone), use_cache=True)
    held = out.get("cache", out.get("past_key_values"))
    refused(model, "pixel_values: expected 2 images", input_ids=more, past_key_values=held, use_cache=True)


def test_a_segment_without_room_for_an_image_is_refused_at_once() -> None:
    with pytest.raises(InputError, match=r"segment_size: expected at least 4, .* got 3"):
        build(segment_size=3)
