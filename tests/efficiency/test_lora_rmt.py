"""Every recurrent model trains with PEFT and fused layers: memory and head whole, and saved beside the adapters."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from efficiency.lora import fuse, layers, unfused
from rmt import RMTForQuestionAnswering
from tests.rmt.tiny import CLS, SEP, bert_config, causal, classifier, content

BATCH, SEGMENTS, SIZE = 2, 4, 4
HEADS = {"classifier": "classifier", "spans": "qa_outputs", "causal": "lm_head"}
# In float64, so that sums in another order leave no doubt; a wrong scale or mask would be 1e-1.
CLOSE = 1e-9


def spans(**fields: Any) -> RMTForQuestionAnswering:
    from transformers import BertModel

    torch.manual_seed(0)
    backbone = BertModel(bert_config(), add_pooling_layer=False)
    fields = {"segment_size": SIZE, "num_memory_tokens": 3, "cls_token_id": CLS, "sep_token_id": SEP} | fields
    return RMTForQuestionAnswering.from_backbone(backbone, **fields)


def fresh(kind: str, memory: str, **fields: Any) -> Any:
    if memory == "associative":
        fields |= {"associative_key_size": 4}
    return {"classifier": classifier, "spans": spans, "causal": causal}[kind](memory=memory, **fields)


def adapted(kind: str, memory: str, *, dropout: float = 0.0, **fields: Any) -> Any:
    config = LoraConfig(r=4, target_modules="all-linear", lora_dropout=dropout, modules_to_save=["cell", HEADS[kind]])
    if kind != "causal":
        config.exclude_modules = [HEADS[kind]]
    model = get_peft_model(fresh(kind, memory, **fields), config).double().train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or name.endswith("cell.modules_to_save.default.value"):
                nn.init.normal_(parameter, std=0.1)
    return model


def batch(kind: str) -> dict[str, Tensor]:
    ids = content(BATCH, SEGMENTS * SIZE)
    labels = {
        "classifier": {"labels": torch.tensor([1, 4])},
        "spans": {"start_positions": torch.tensor([2, 9]), "end_positions": torch.tensor([3, 14])},
        "causal": {"labels": ids},
    }
    return {"input_ids": ids, **labels[kind]}


def step_of(model: Any, kind: str) -> dict[str, Tensor]:
    """Loss, memory and all gradients that there are."""
    model.zero_grad()
    out = model(**batch(kind))
    out.loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return found | {"loss": out.loss.detach()} | {f"memory {n}": t.detach() for n, t in out.memory.tensors.items()}


def gap(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest error, relative to the tensor's norm; gradients that are zero but for rounding count as zero."""
    assert one.keys() == other.keys()
    least = 1e-6 * max(float(tensor.norm()) for tensor in other.values())
    return max(float((one[name] - other[name]).norm() / other[name].norm().clamp(min=least)) for name in other)


every = pytest.mark.parametrize("memory", ["tokens", "associative"])
kinds = pytest.mark.parametrize("kind", list(HEADS))


@kinds
@every
@pytest.mark.parametrize("recurrence", ["plain", "checkpointed"])
def test_fused_against_peft(kind, memory, recurrence):
    theirs = adapted(kind, memory, recurrence=recurrence)
    ours = copy.deepcopy(theirs)
    assert fuse(ours) == len(list(layers(ours))) > 10
    assert not unfused(ours)
    expected = step_of(theirs, kind)
    assert gap(step_of(ours, kind), expected) <= CLOSE
    trained = {name for name, p in ours.named_parameters() if p.requires_grad}
    assert {"lora_A" in n for n in expected} == {True, False}
    assert any(".cell." in name for name in expected)
    assert any(HEADS[kind] in name and "lora" not in name for name in expected)
    assert not [n for n, p in ours.named_parameters() if n not in trained and p.grad is not None]


@kinds
@every
def test_checkpoints_see_the_same_dropout(kind, memory):
    """One mask a step for all segments, so the order in which they are computed again is of no matter."""
    found = []
    for recurrence in ("plain", "checkpointed"):
        model = adapted(kind, memory, dropout=0.3, recurrence=recurrence)
        fuse(model)
        found.append(step_of(model, kind))
    assert gap(found[1], found[0]) <= CLOSE
    other = adapted(kind, memory, dropout=0.3)
    fuse(other, seed=1)
    assert gap(step_of(other, kind), found[0]) > 1e-3, "dropout does nothing"


@pytest.mark.parametrize("order", ["layers", "wavefront"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_other_orders_of_layers_and_segments(order, dropout):
    """A batch of layers is computed as PEFT does, which has no masks of ours: with dropout layers run one by one."""
    found = []
    for each in ("segments", order):
        model = adapted("causal", "associative", dropout=dropout, order=each)
        fuse(model)
        found.append(step_of(model, "causal"))
    assert gap(found[1], found[0]) <= 1e-5  # some of what the orders do otherwise is float32 in any model


@kinds
@every
def test_training_lowers_the_loss_and_is_saved(kind, memory, tmp_path):
    model = adapted(kind, memory, dropout=0.05, recurrence="checkpointed")
    fuse(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(8):
        losses.append(float(model(**batch(kind)).loss.detach()))
        optimizer.zero_grad()
        model(**batch(kind)).loss.backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad or torch.equal(parameter, before[name]), name

    model.eval().save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(fresh(kind, memory).double(), tmp_path).eval()
    with torch.no_grad():
        expected = model(**batch(kind))
        plain = loaded(**batch(kind))
        assert fuse(loaded)
        fused = loaded(**batch(kind))
        merged = model.merge_and_unload()(**batch(kind))
    assert torch.allclose(fused.loss, expected.loss, rtol=1e-6, atol=0)
    for name, tensor in expected.memory.tensors.items():
        for other in (fused, plain, merged):
            assert torch.allclose(other.memory.tensors[name], tensor, atol=1e-6, rtol=1e-6)
