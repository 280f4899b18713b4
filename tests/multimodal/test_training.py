"""Stages of training: what learns in a step and what does not, bit for bit; with adapters, 4 bits and LOMO as well."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from multimodal import LlavaRMT
from multimodal.training import part_of, quantise, rate, stage, with_lora
from rmt.errors import InputError
from tests.multimodal.llava_kit import prompt, tiny_llava


def recurrent(**fields: Any) -> LlavaRMT:
    given = {"segment_size": 24, "num_memory_tokens": 2, "memory_update": "gated", **fields}
    return LlavaRMT.from_backbone(tiny_llava(), **given).train()


def batch(model: Any) -> dict[str, Any]:
    inner = model.base_model.model if hasattr(model, "peft_config") else model
    ids, mask, pixels = prompt(inner.backbone, [2, 1], length=60)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "pixel_values": pixels,
        "labels": ids.masked_fill(mask == 0, -100),
    }


def step(model: Any, optimizer: Any, times: int = 1) -> list[float]:
    losses = []
    for _ in range(times):
        loss = model(**batch(model)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def changed(before: dict[str, torch.Tensor], model: Any) -> set[str]:
    return {part_of(name) for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)}


@pytest.mark.parametrize("recurrence", ["plain", "checkpointed"])
@pytest.mark.parametrize(
    ("number", "vision", "parts"),
    [
        (1, False, {"projector"}),
        (1, True, {"projector", "vision"}),
        (2, False, {"projector", "language", "memory"}),
        (2, True, {"projector", "language", "memory", "vision"}),
    ],
)
def test_a_step_changes_what_the_stage_names_and_nothing_else(
    number: int, vision: bool, parts: set[str], recurrence: str
) -> None:
    model = recurrent(recurrence=recurrence)
    stage(model, 3 - number, vision=True)  # whatever was set before
    groups = stage(model, number, vision=vision, lr=1e-2)
    assert {group["name"] for group in groups} == parts
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    step(model, torch.optim.SGD(groups, momentum=0.9))
    assert changed(before, model) == parts
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (part_of(name) in parts), name


@pytest.mark.parametrize("recurrence", ["plain", "checkpointed"])
def test_a_batch_without_images_teaches_the_first_stage_nothing(recurrence: str) -> None:
    model = recurrent(recurrence=recurrence)
    optimizer = torch.optim.SGD(stage(model, 1, lr=1.0))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    loss = model(input_ids=torch.arange(1, 50)[None], labels=torch.arange(1, 50)[None]).loss
    loss.backward()
    optimizer.step()
    assert changed(before, model) == set()
    assert not model.eval()(input_ids=torch.arange(1, 50)[None], labels=torch.arange(1, 50)[None]).loss.requires_grad


def test_rates_are_llavas_where_none_is_given() -> None:
    model = recurrent()
    assert (rate(model, 1), rate(model, 2)) == (1e-3, 2e-5)
    model.config.projector = "linear"
    assert rate(model, 1) == 2e-3
    rates = {group["name"]: group["lr"] for group in stage(model, 2, lr=1.0, rates={"memory": 10.0})}
    assert rates == {"projector": 1.0, "language": 1.0, "memory": 10.0}


def test_bad_stages_are_refused() -> None:
    model = recurrent()
    with pytest.raises(InputError, match=r"^stage: expected one of 1, 2, got 3"):
        stage(model, 3)
    with pytest.raises(InputError, match=r"^rates: expected some of projector.*got tower"):
        stage(model, 2, rates={"tower": 1.0})
    with pytest.raises(InputError, match="expected a model with a projector"):
        stage(torch.nn.Sequential(), 1)


def test_lora_trains_adapters_projector_and_cell_and_answers_the_same_when_loaded(tmp_path: Any) -> None:
    from peft import PeftModel

    model = with_lora(recurrent(), r=2)
    groups = stage(model, 2, lr=5e-3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses = step(model, torch.optim.AdamW(groups), times=6)
    assert losses[-1] < losses[0]
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)}
    assert all("lora_" in name or "modules_to_save" in name for name in moved)
    assert {part_of(name) for name in moved} == {"projector", "language", "memory"}
    assert not any("lora_" in name for name, _ in model.named_parameters() if part_of(name) in ("vision", "projector"))

    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(recurrent(), tmp_path).eval()
    model.eval()
    assert torch.equal(model(**batch(model)).loss, again(**batch(again)).loss)
    whole = again.merge_and_unload().eval()
    assert torch.allclose(model(**batch(model)).loss, whole(**batch(whole)).loss, atol=1e-5)


def test_the_first_stage_leaves_adapters_alone() -> None:
    model = with_lora(recurrent(), r=2)
    stage(model, 1)
    learn = [name for name, p in model.named_parameters() if p.requires_grad]
    assert learn
    assert all("multi_modal_projector.modules_to_save" in name for name in learn)


def test_adapters_over_four_bits_leave_tower_and_projector_whole() -> None:
    pytest.importorskip("bitsandbytes")
    from efficiency.qlora import nf4_layers

    model = with_lora(quantise(recurrent(), bf16=False), r=2)
    names = [name for name, _ in nf4_layers(model)]
    assert len(names) == 2 * 7  # of two layers
    assert all("language_model" in name for name in names)
    groups = stage(model, 2, lr=5e-3)
    losses = step(model, torch.optim.AdamW(groups), times=6)
    assert losses[-1] < losses[0]


def test_four_bits_without_adapters_cannot_learn() -> None:
    pytest.importorskip("bitsandbytes")
    with pytest.raises(InputError, match="expected adapters over 4-bit weights"):
        stage(quantise(recurrent(), bf16=False), 2)


@pytest.mark.parametrize("recurrence", ["plain", "checkpointed"])
def test_lomo_takes_the_step_of_sgd_through_many_segments(recurrence: str) -> None:
    from efficiency.lomo import Lomo

    plain, freed = recurrent(recurrence=recurrence), recurrent(recurrence=recurrence)
    one, two = stage(plain, 2), stage(freed, 2)
    step(plain, torch.optim.SGD([p for g in one for p in g["params"]], lr=0.1))
    trained = [p for g in two for p in g["params"]]
    optimizer = Lomo(trained, lr=0.1, defer=freed, clip_norm=None)
    optimizer.zero_grad()
    freed(**batch(freed)).loss.backward()
    optimizer.step()
    for (name, a), (_, b) in zip(plain.named_parameters(), freed.named_parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5), name
    start = recurrent()
    assert changed(start.state_dict(), freed) == {"projector", "language", "memory"}
