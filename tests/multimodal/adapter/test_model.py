"""A recurrent decoder whose segments have pictures, beside a twin by hand; questions, generation, files."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from multimodal.adapter import AdapterConfig, adapter_parameters, parameter_groups, trainable, trainable_parameters
from multimodal.adapter.files import load_adapter, save_adapter
from multimodal.adapter.model import LlamaAdapterRMT
from multimodal.adapter.vision import PART
from rmt.backbone import CACHE
from rmt.errors import InputError
from rmt.executors import Sequential, Speculative, Wavefront, writer
from tests.multimodal.adapter.kit import naive
from tests.rmt.tiny import content, gradients, largest_gap, llama_config

FIRST = AdapterConfig(adapter_len=3, adapter_layers=2)
SECOND = AdapterConfig("v2", adapter_len=3, adapter_layers=1, visual_layers=1)
WIDTH, FEATURES = 4, 5
TOWER = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
TOWERS = {"clip": (CLIPVisionModel, CLIPVisionConfig), "siglip": (SiglipVisionModel, SiglipVisionConfig)}


def made(adapter=FIRST, seed=0, **fields):
    torch.manual_seed(seed)
    inner = LlamaForCausalLM(llama_config(num_attention_heads=4, num_key_value_heads=2))
    if "vision" not in fields:
        fields["image_features"] = FEATURES
    fields = {"segment_size": WIDTH, "num_memory_tokens": 2, "adapter": adapter} | fields
    model = LlamaAdapterRMT.from_backbone(inner, **fields)
    with torch.no_grad():
        for name, parameter in adapter_parameters(model).items():
            if name.endswith(("gate", "scale", "bias")):
                parameter.add_(torch.randn(parameter.shape) * 0.5)
    if fields.get("memory") == "associative":
        torch.nn.init.normal_(model.cell.value, std=0.3)
    return model


def images(adapter, count):
    generator = torch.Generator().manual_seed(7)
    return torch.randn(count, 1 if adapter.variant == "v1" else 3, FEATURES, generator=generator)


def by_hand(model, ids, features, places):
    """Loss of a batch of equal documents, memory tokens replaced at each segment."""
    prompts = model.visual(features)
    words, memory, total = model.get_input_embeddings()(ids), model.cell.memory.expand(len(ids), -1, -1), 0.0
    count = memory.shape[1]
    for number, start in enumerate(range(0, ids.shape[1], WIDTH)):
        text = words[:, start : start + WIDTH]
        of = [[i for i, (r, s) in enumerate(places) if (r, s) == (row, number)] for row in range(len(ids))]
        picture = torch.stack([prompts[some].mean(dim=0) if some else torch.zeros_like(prompts[0]) for some in of])
        laid = torch.cat([memory, text, memory], dim=1)
        hidden = naive(model.core, laid, picture, [bool(some) for some in of])
        memory, logits = hidden[:, -count:], model.lm_logits(hidden[:, count:-count])
        for row in range(len(ids)):
            for column in range(start, min(start + WIDTH, ids.shape[1] - 1)):
                wanted = ids[row, column + 1]
                total = total - logits[row, column - start].log_softmax(dim=-1)[wanted]
    return total / (len(ids) * (ids.shape[1] - 1)), memory


@pytest.mark.parametrize("adapter", [FIRST, SECOND], ids=["v1", "v2"])
def test_outputs_and_gradients_are_those_by_hand(adapter):
    """Two rows of three segments: one image, two images, none; checkpointed or not."""
    model, ids = made(adapter), content(2, 10)
    places = [(0, 0), (1, 2), (0, 1), (0, 1)]
    features, where = images(adapter, 4), torch.tensor(places)
    found = []
    expected, memory = by_hand(model, ids, features, places)
    expected.backward()
    found.append(gradients(model))
    for checkpointed in (False, True):
        model.zero_grad()
        if checkpointed:
            model.gradient_checkpointing_enable()
        out = model(input_ids=ids, labels=ids, image_features=features, image_segments=where)
        torch.testing.assert_close(out.loss, expected.detach(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(out.memory.tensors["tokens"], memory.detach(), rtol=1e-4, atol=1e-4)
        out.loss.backward()
        found.append(gradients(model))
    assert largest_gap(found[0], found[1]) < 1e-3 * max(float(g.abs().max()) for g in found[0].values())
    assert largest_gap(found[1], found[2]) < 1e-6
    for name, parameter in trainable_parameters(model).items():
        assert bool(parameter.grad.abs().sum() > 0), name
    assert list(out.memory.tensors) == ["tokens"]


@pytest.mark.parametrize("recurrence", ["plain", "checkpointed"])
def test_associative_memory_sees_too(recurrence):
    """Checkpoints within checkpoints compute segments again, their pictures with them."""
    fields = {"memory": "associative", "associative_key_size": 16}
    found = []
    for some in ("plain", recurrence):
        model, ids = made(**fields, recurrence=some), content(1, 6 * WIDTH)
        where = torch.tensor([[0, 0], [0, 2], [0, 5]])
        model(input_ids=ids, labels=ids, image_features=images(FIRST, 3), image_segments=where).loss.backward()
        found.append(gradients(model))
    assert largest_gap(*found) < 1e-5
    assert float(found[0]["visual.linear.weight"].abs().sum()) > 0


def test_an_image_reaches_later_segments_through_the_memory_only():
    """What the image says is in the memory, in no segment before it, and questions read it from there."""
    model, ids = made().eval(), content(1, 3 * WIDTH)
    where = torch.tensor([[0, 1]])
    question = content(1, 3, seed=4)[:, None]
    with torch.no_grad():
        seen = model(input_ids=ids, image_features=images(FIRST, 1), image_segments=where)
        other = model(input_ids=ids, image_features=-images(FIRST, 1), image_segments=where)
        none = model(input_ids=ids)
        asked = [model(input_ids=ids, image_features=f * images(FIRST, 1), image_segments=where, question_ids=question)
                 for f in (1, -1)]  # fmt: skip
        alone = model(input_ids=question[:, 0], memory=seen.memory)
    assert torch.equal(seen.logits[:, :WIDTH], other.logits[:, :WIDTH])
    assert torch.equal(seen.logits[:, :WIDTH], none.logits[:, :WIDTH])
    for start in (WIDTH, 2 * WIDTH):
        assert (seen.logits - other.logits)[:, start : start + WIDTH].abs().max() > 1e-3
    assert (asked[0].logits - asked[1].logits).abs().max() > 1e-3
    torch.testing.assert_close(asked[0].logits[:, 0], alone.logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("adapter", [FIRST, SECOND], ids=["v1", "v2"])
@pytest.mark.parametrize("memory", ["tokens", "associative"])
def test_generation_is_the_forward_over_all_tokens(memory, adapter):
    """Across segment borders, with rows of different lengths; one picture a row, seen in all of it."""
    model = made(adapter, memory=memory, **({} if memory == "tokens" else {"associative_key_size": 16})).eval()
    features, ids = images(adapter, 2), content(2, 6)
    mask = torch.tensor([[1] * 6, [0] * 3 + [1] * 3])
    out = model.generate(
        ids,
        attention_mask=mask,
        image_features=features,
        max_new_tokens=9,
        do_sample=False,
        eos_token_id=None,
        return_dict_in_generate=True,
    )
    whole = torch.cat([mask, torch.ones(2, 9, dtype=torch.long)], dim=1)
    with torch.no_grad():
        read = model(input_ids=out.sequences, attention_mask=whole, image_features=features)
        blind = model(input_ids=out.sequences, attention_mask=whole)
    assert torch.equal(out.sequences[:, 6:], read.logits.argmax(dim=-1)[:, 5:-1])
    assert (read.logits - blind.logits).abs().max() > 0.01
    after = model.memory_of(out)
    assert set(after.tensors) == set(read.memory.tensors)
    for name, tensor in after.tensors.items():
        torch.testing.assert_close(tensor, read.memory.tensors[name], rtol=1e-3, atol=5e-4)


def test_beams_and_samples_see_what_their_row_sees():
    model, features, ids = made().eval(), images(FIRST, 2), content(2, 6)
    mask = torch.ones_like(ids)
    told = {"max_new_tokens": 7, "do_sample": False, "eos_token_id": None, "num_beams": 2, "pad_token_id": 0}
    both = model.generate(ids, attention_mask=mask, image_features=features, **told)
    for row in (0, 1):
        one = slice(row, row + 1)
        alone = model.generate(ids[one], attention_mask=mask[one], image_features=features[one], **told)
        assert torch.equal(both[one], alone)


@pytest.mark.parametrize("adapter", [FIRST, SECOND], ids=["v1", "v2"])
@pytest.mark.parametrize("kind", sorted(TOWERS))
def test_pixels_through_a_tower_and_a_checkpoint(kind, adapter, tmp_path):
    tower, config = TOWERS[kind]
    torch.manual_seed(5)
    model = made(adapter, vision=tower(config(**TOWER)), vision_layers=[-3, -2, -1]).eval()
    pixels, ids = torch.randn(2, 3, 8, 8), content(2, 9)
    where = torch.tensor([[0, 0], [1, 1]])
    given = {"input_ids": ids, "image_segments": where}
    with torch.no_grad():
        states = model.vision(pixel_values=pixels, output_hidden_states=True).hidden_states[1:]
        features = torch.cat(states, dim=-1)
        if adapter.variant == "v1":
            features = features[:, :1] if kind == "clip" else features.mean(dim=1, keepdim=True)
        elif kind == "clip":
            features = features[:, 1:]
        seen = model(pixel_values=pixels, **given).logits
        torch.testing.assert_close(model(image_features=features, **given).logits, seen, rtol=1e-5, atol=1e-5)
        model.save_pretrained(tmp_path)
        again = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert type(again) is LlamaAdapterRMT
        torch.testing.assert_close(again.eval()(pixel_values=pixels, **given).logits, seen, rtol=1e-4, atol=1e-5)
    trains = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {n for n, p in again.named_parameters() if p.requires_grad} == trains
    assert not any(n.startswith("vision.") for n in trains)


@pytest.mark.parametrize(
    ("executor", "fields"),
    [
        (Sequential(), {}),
        (Speculative(4), {"memory_update": "gated", "gate_threshold": 0.1}),
        (Wavefront(batched=True), {"memory": "associative", "associative_key_size": 16}),
    ],
    ids=["sequential", "speculative", "wavefront"],
)
def test_executors_go_on_from_what_was_seen(executor, fields):
    """A document with an image by a forward, and the text behind it by an executor, as a reader does."""
    model = made(**fields).eval()
    model.set_attn_implementation("eager")
    ids = content(1, 6 * WIDTH)
    where, image = torch.tensor([[0, 1]]), images(FIRST, 1)
    with torch.inference_mode():
        first = model(input_ids=ids[:, : 2 * WIDTH], image_features=image, image_segments=where).memory
        rest = model.segments(ids[:, 2 * WIDTH :], None)
        got = executor.read(writer(model), rest, model.state_of(first, 1))
        whole = model(input_ids=ids, image_features=image, image_segments=where).memory
    for name, tensor in whole.tensors.items():
        torch.testing.assert_close(got[name], tensor, rtol=1e-3, atol=1e-4 * float(tensor.abs().max()))


def told(**more):
    return {
        "max_new_tokens": 5,
        "do_sample": False,
        "eos_token_id": None,
        "pad_token_id": 0,
        "return_dict_in_generate": True,
    } | more


def test_generation_goes_on_from_a_cache_that_has_a_picture():
    """Its picture is seen in what follows, no second one is taken without a word, and its memory is a memory alone."""
    model, image = made().eval(), images(FIRST, 1)
    first = model.generate(content(1, 6), image_features=image, **told())
    held = {CACHE: getattr(first, CACHE)}
    on = model.generate(first.sequences, **held, **told()).sequences
    with torch.no_grad():
        read = model(input_ids=on, image_features=image)
        assert torch.equal(on[:, 6:], read.logits.argmax(dim=-1)[:, 5:-1])
        with pytest.raises(InputError, match="begin a new cache"):
            model.generate(first.sequences, image_features=-image, **held, **told())
        after = held[CACHE].flush(model)
        expected = model(input_ids=first.sequences[:, :-1], image_features=image).memory
    assert list(after.tensors) == ["tokens"]
    torch.testing.assert_close(after.tensors["tokens"], expected.tensors["tokens"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("adapter", [FIRST, SECOND], ids=["v1", "v2"])
def test_where_processes_train_each_parameter_has_a_gradient_without_an_image(adapter, monkeypatch):
    """DistributedDataParallel waits for it."""
    model, ids = made(adapter).train(), content(2, 9)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    monkeypatch.undo()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    torch.testing.assert_close(loss, model(input_ids=ids, labels=ids).loss)


@pytest.mark.parametrize("adapter", [FIRST, SECOND], ids=["v1", "v2"])
@pytest.mark.parametrize("kind", sorted(TOWERS))
def test_a_tower_sees_many_images_in_parts(kind, adapter):
    """Memory stays that of a part, whatever number of images a document has."""
    tower, config = TOWERS[kind]
    model, seen = made(adapter, vision=tower(config(**TOWER)), vision_layers=[-2, -1]).eval(), []
    model.vision.register_forward_pre_hook(
        lambda _, __, given: seen.append(len(given["pixel_values"])), with_kwargs=True
    )
    pixels = torch.randn(2 * PART + 3, 3, 8, 8)
    with torch.no_grad():
        whole = model.image_prompts(pixels, None)
        assert seen == [PART, PART, 3]
        torch.testing.assert_close(whole[PART + 1], model.image_prompts(pixels[PART + 1 : PART + 2], None)[0])


def test_the_package_knows_the_model_by_name():
    """So that a folder of it is loaded by transformers' Auto classes wherever the package is imported."""
    code = "import multimodal, transformers; print(transformers.AutoConfig.for_model('rmt_llama_adapter').model_type)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "rmt_llama_adapter", done.stderr


def test_places_may_be_a_list():
    model, ids, image = made().eval(), content(1, 6), images(FIRST, 1)
    with torch.no_grad():
        expected = model(input_ids=ids, image_features=image, image_segments=torch.tensor([[0, 1]])).logits
        assert torch.equal(model(input_ids=ids, image_features=image, image_segments=[[0, 1]]).logits, expected)


def test_groups_are_disjoint_and_switch():
    model = made(SECOND)
    groups = parameter_groups(model)
    assert not groups["images"].keys() & groups["text"].keys()
    for kind in ("images", "text"):
        trainable(model, kind)
        assert trainable_parameters(model).keys() == groups[kind].keys()
        model.zero_grad()
        where = torch.tensor([[0, 0], [1, 1]])
        given = {"image_features": images(SECOND, 2), "image_segments": where}
        model(input_ids=content(2, 8), labels=content(2, 8), **given).loss.backward()
        learned = {id(p) for p in adapter_parameters(model).values() if p.grad is not None}
        assert learned == {id(p) for p in groups[kind].values()}
    assert any("visual.linear" in n for n in groups["images"])
    trainable(model, "none")
    assert not trainable_parameters(model)
    with pytest.raises(InputError, match="'image'"):
        trainable(model, "image")


def test_the_projection_of_pictures_is_in_the_file(tmp_path):
    model = made()
    save_adapter(model, tmp_path)
    given = {"input_ids": content(1, 6), "image_features": images(FIRST, 1)}
    other = made(seed=0)
    with torch.no_grad():
        for parameter in adapter_parameters(other).values():
            parameter.zero_()
    load_adapter(other, tmp_path)
    torch.testing.assert_close(other(**given).logits, model(**given).logits)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"image_segments": [[0, 0]]}, "expected images with it"),
        ({"images": 1}, "each of 1 images, got None"),
        ({"images": 2, "image_segments": [[0, 0]]}, "each of 2 images"),
        ({"images": 1, "image_segments": [[2, 0]]}, "rows from 0 to 1"),
        ({"images": 1, "image_segments": [[1, 2]]}, "segments from 0 to 1 in row 1, got 2"),
        ({"images": 1, "image_segments": [[0, 0]], "use_cache": True}, "None with a cache"),
        ({"images": 1, "image_segments": [[0.0, 0.0]]}, "whole numbers"),
        ({"image_features": torch.zeros(2, 9)}, "got .2, 9."),
        ({"pixel_values": torch.zeros(2, 3, 8, 8)}, "model that sees"),
        ({"pixel_values": torch.zeros(2, 3, 8, 8), "image_features": torch.zeros(2, FEATURES)}, "got both"),
    ],
)
def test_bad_input_is_one_clear_error(given, said):
    given = dict(given)
    if "images" in given:
        given["image_features"] = images(FIRST, given.pop("images"))
    if "image_segments" in given:
        given["image_segments"] = torch.tensor(given["image_segments"])
    with pytest.raises(InputError, match=said):
        made()(input_ids=content(2, 6), **given)


def test_what_cannot_show_pictures_is_refused():
    model = made(memory="associative", associative_key_size=16, order="layers")
    where = torch.tensor([[0, 0]])
    with pytest.raises(InputError, match="order='segments'"):
        model(input_ids=content(1, 6), image_features=images(FIRST, 1), image_segments=where)
    with pytest.raises(InputError, match="visual_layers of 1 or more"):
        made(AdapterConfig("v2", adapter_len=3, adapter_layers=1))
    with pytest.raises(InputError, match="None with a vision tower"):
        made(vision=CLIPVisionModel(CLIPVisionConfig(**TOWER)), image_features=3)
    with pytest.raises(InputError, match="-3 to -1"):
        made(vision=CLIPVisionModel(CLIPVisionConfig(**TOWER)), vision_layers=[-4])
