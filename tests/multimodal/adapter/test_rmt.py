"""Adapters under recurrent models: reading by every executor, checkpoints, generation, and LoRA or NF4 beside them."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model

from efficiency.qlora import quantize_model
from efficiency.smoothquant import smooth_quantize
from multimodal.adapter import AdapterConfig, attach, trainable, trainable_parameters
from rmt import RMTForCausalLM, RMTForSequenceClassification
from rmt.executors import Captured, Compiled, Packed, Sequential, Speculative, Wavefront, writer
from rmt.executors.captured import direct_call
from rmt.executors.lean import LeanEncoder
from rmt.executors.narrow import Writer
from tests.multimodal.adapter.kit import naive, stirred
from tests.rmt import families
from tests.rmt.test_associative import awake, close
from tests.rmt.tiny import causal, classifier, content, gradients, largest_gap

SMALL = AdapterConfig(adapter_len=3, adapter_layers=1)
EVERY = AdapterConfig(adapter_len=3, adapter_layers=2)
SECOND = AdapterConfig("v2", adapter_len=3, adapter_layers=1)
GATED = {"memory_update": "gated", "gate_threshold": 0.1}


def slow(model, ids):
    """The memory after a document, segment by segment, by the forward of the cell."""
    state = dict(model.initial_memory(len(ids)).tensors)
    with torch.inference_mode():
        for segment in model.segments(ids, None):
            state = model.cell(model.core, segment, state).state
    return state


def check(model, executor, reads=None):
    ids = content(1, 22)
    with torch.inference_mode():
        got = executor.read(reads or model, model.segments(ids, None), dict(model.initial_memory(1).tensors))
    expected = slow(model, ids)
    for name in expected:
        assert close(got[name], expected[name])
    return expected


@pytest.mark.parametrize("config", [SMALL, SECOND], ids=["v1", "v2"])
@pytest.mark.parametrize("kind", [causal, classifier])
@pytest.mark.parametrize(
    "executor",
    [
        Sequential(),
        Speculative(8),
        Speculative(8, part=1),
        Packed(4),
        Captured(8, record=direct_call, least=1),
    ],
    ids=lambda e: type(e).__name__,
)
def test_executors_read_with_the_adapter(kind, executor, config):
    plain, model = kind(**GATED).eval(), kind(**GATED).eval()
    stirred(model, config)
    after = check(model, executor, writer(model))
    assert (after["tokens"] - slow(plain, content(1, 22))["tokens"]).abs().max() > 1e-3


@pytest.mark.slow
def test_a_compiled_step_has_the_adapter(unchecked):
    model = stirred(classifier().eval().requires_grad_(False), SMALL).requires_grad_(False)
    check(model, Compiled(Sequential(), least=1, backend="eager"), writer(model))


@pytest.mark.parametrize("config", [SMALL, EVERY, SECOND], ids=["top", "every", "v2"])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("kind", [causal, classifier])
def test_wavefront_reads_with_the_adapter(kind, batched, config):
    model = awake(kind(memory="associative", num_memory_tokens=2, associative_key_size=16)).eval()
    model.set_attn_implementation("eager")
    plain = slow(model, content(1, 22))
    stirred(model, config)
    after = check(model, Wavefront(batched=batched))
    assert (after["associations"] - plain["associations"]).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_layers_written_out_give_way_to_prompts_only(kind):
    """What is written out would not know of prompts; of scale and bias it is told by the modules, or gives way."""

    def made():
        inner = families.build(kind)
        model = RMTForSequenceClassification.from_backbone(
            inner, segment_size=7, num_memory_tokens=3, **families.SPECIAL
        )
        return model.eval()

    assert isinstance(writer(made()).core, LeanEncoder)
    for config in (SMALL, SECOND, AdapterConfig(adapter_len=2, adapter_layers=2)):
        model = stirred(made(), config)
        assert writer(model) is model
    with_scale = made()
    attach(with_scale, SECOND)
    assert not isinstance(writer(with_scale), Writer)


@pytest.mark.parametrize("order", ["segments", "layers", "wavefront"])
def test_orders_of_training_agree(order):
    found = []
    for some in ("segments", order):
        torch.manual_seed(0)
        model = awake(causal(memory="associative", num_memory_tokens=2, associative_key_size=16, order=some))
        model.set_attn_implementation("eager")
        stirred(model, EVERY)
        model(input_ids=content(2, 11), labels=content(2, 11)).loss.backward()
        found.append(gradients(model))
    assert largest_gap(*found) < 1e-4
    assert found[0]["backbone.model.layers.0.self_attn.adapter.prompts"].abs().sum() > 0


def test_gradients_equal_those_by_hand_and_checkpoints_change_none():
    """Two segments of a document; the second is predicted with what the first wrote."""
    model, found = stirred(causal(num_memory_tokens=2), EVERY), []
    ids = content(1, 8)

    def by_hand():
        words, memory, total = model.get_input_embeddings()(ids), model.cell.memory[None], 0.0
        for start in (0, 4):
            hidden = naive(model.core, torch.cat([memory, words[:, start : start + 4], memory], dim=1))
            memory, logits = hidden[:, -2:], model.lm_logits(hidden[:, 2:6])
            for column in range(4):
                if start + column < 7:
                    wanted = ids[0, start + column + 1]
                    total = total - logits[0, column].log_softmax(dim=-1)[wanted] / 7
        return total

    for loss in (
        by_hand,
        lambda: model(input_ids=ids, labels=ids).loss,
        lambda: (model.gradient_checkpointing_enable(), model(input_ids=ids, labels=ids).loss)[1],
    ):
        model.zero_grad()
        loss().backward()
        found.append(gradients(model))
    assert largest_gap(found[0], found[1]) < 2e-4
    assert largest_gap(found[1], found[2]) < 1e-6
    moved = {name for name, g in found[1].items() if bool(g.abs().sum() > 0)}
    assert moved == {
        f"backbone.model.layers.{n}.self_attn.adapter.{p}" for n in (0, 1) for p in ("prompts", "gate")
    } | {"cell.memory"}


@pytest.mark.parametrize("memory", ["tokens", "associative"])
def test_generation_is_the_forward_over_all_tokens(memory):
    fields = {} if memory == "tokens" else {"associative_key_size": 16}
    model = stirred(causal(memory=memory, **fields), EVERY).eval()
    out = model.generate(content(2, 6), max_new_tokens=9, do_sample=False, eos_token_id=None)
    with torch.no_grad():
        logits = model(input_ids=out).logits
        plain = causal(memory=memory, **fields).eval()(input_ids=out).logits
    assert torch.equal(out[:, 6:], logits.argmax(dim=-1)[:, 5:-1])
    assert (plain - logits).abs().max() > 0.1


@pytest.mark.parametrize("first", ["adapter", "lora"])
def test_beside_lora(first):
    model = families.build("llama").float()
    lora = LoraConfig(r=2, target_modules=["q_proj", "k_proj"], init_lora_weights=False)
    if first == "adapter":
        attach(model, SECOND)
        model = get_peft_model(model, lora)
        trainable(model, "all")
    else:
        model = get_peft_model(model, lora)
        attach(model, SMALL, freeze=False)
    model(input_ids=content(2, 5) % 61, labels=content(2, 5) % 61).loss.backward()
    learned = {name for name, p in model.named_parameters() if p.grad is not None}
    known = ("lora_", "adapter", "norm")
    assert all(any(k in name for k in known) for name in learned)
    assert {k for k in known[:2] if any(k in name for name in learned)} == {"lora_", "adapter"}
    assert len(trainable_parameters(model)) == sum(
        "lora_" not in n for n, p in model.named_parameters() if p.requires_grad
    )


def test_over_a_base_of_four_bits():
    model = families.build("llama", hidden_size=64, head_dim=32)
    inner = RMTForCausalLM.from_backbone(model, segment_size=4, num_memory_tokens=2)
    quantize_model(inner.backbone)
    before = inner(input_ids=content(2, 9) % 61).logits
    attach(inner, SMALL)
    assert torch.equal(inner(input_ids=content(2, 9) % 61).logits, before)
    torch.nn.init.constant_(trainable_parameters(inner)["layers.1.gate"], 0.5)
    inner(input_ids=content(2, 9) % 61, labels=content(2, 9) % 61).loss.backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in trainable_parameters(inner).values())
    with pytest.raises(ValueError, match="NF4Linear"):
        attach(quantized(), SECOND)


def test_smoothing_under_prompts_is_refused():
    """They are no output of the norm that smoothing folds its scales into."""
    model = stirred(causal().eval(), SMALL)
    before = model(input_ids=content(1, 6)).logits
    with pytest.raises(ValueError, match="LLaMA-Adapter's prompts"):
        smooth_quantize(model, [{"input_ids": content(1, 6)}], progress=False)
    assert torch.equal(model(input_ids=content(1, 6)).logits, before)


def quantized():
    model = families.build("llama", hidden_size=64, head_dim=32)
    quantize_model(model)
    return model
