"""Adapters as files, and to and from PEFT's adaption prompt beside a live PEFT model."""

from __future__ import annotations

import json

import pytest
import torch
from peft import AdaptionPromptConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

from multimodal.adapter import AdapterConfig, adapter_config, adapter_parameters, attach, detach, trainable_parameters
from multimodal.adapter.files import CONFIG, WEIGHTS, load_adapter, save_adapter
from multimodal.adapter.peft import from_peft, load_peft, save_peft, to_peft
from rmt import RMTForCausalLM
from rmt.errors import InputError
from tests.multimodal.adapter.kit import stirred
from tests.rmt import families

SMALL = AdapterConfig(adapter_len=3, adapter_layers=1)
SECOND = AdapterConfig("v2", adapter_len=3, adapter_layers=1)
IDS = torch.tensor([[5, 9, 11, 30, 7], [8, 8, 41, 3, 60]])
# PEFT needs heads that make up the hidden size; grouped queries in one of the two.
SHAPES = {"llama": {"num_key_value_heads": 2}, "mistral": {"num_key_value_heads": 1}}


def base(kind="llama", **changes):
    torch.manual_seed(2)
    return families.build(kind, **(SHAPES.get(kind, {}) | changes))


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("config", [SMALL, SECOND], ids=["v1", "v2"])
def test_a_file_is_small_and_gives_the_adapter_back(config, tmp_path):
    model = stirred(base(), config)
    save_adapter(model, tmp_path)
    again = base()
    load_adapter(again, tmp_path)
    assert adapter_config(again) == config
    assert torch.equal(logits(again), logits(model))
    assert trainable_parameters(again).keys() == adapter_parameters(model).keys()
    assert {p.name for p in tmp_path.iterdir()} == {CONFIG, WEIGHTS}
    save_adapter(again, tmp_path / "two")
    assert (tmp_path / "two" / WEIGHTS).read_bytes() == (tmp_path / WEIGHTS).read_bytes()
    load_adapter(again, tmp_path)  # over one of the same shape


def test_an_adapter_goes_under_a_memory(tmp_path):
    save_adapter(stirred(base(), SMALL), tmp_path)
    model = RMTForCausalLM.from_backbone(base(), segment_size=8, num_memory_tokens=0)
    load_adapter(model, tmp_path)
    torch.testing.assert_close(logits(model), logits(stirred(base(), SMALL)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: load_adapter(base(hidden_size=32), folder), "hidden_size 16 .the model has 32"),
        (lambda folder: load_adapter(base("mistral"), folder), "model_type llama"),
        (lambda folder: load_adapter(base(num_key_value_heads=1), folder), None),
        (lambda folder: load_adapter(stirred(base(), SECOND), folder), "without another adapter"),
        (lambda folder: load_peft(base(), folder), "ADAPTION_PROMPT"),
        (lambda folder: load_adapter(base(), folder / "missing"), "FileNotFoundError"),
    ],
)
def test_what_does_not_fit_is_refused(spoil, said, tmp_path):
    save_adapter(stirred(base(), SMALL), tmp_path)
    if said is None:  # prompts are of the hidden size: other groups of queries make no difference
        spoil(tmp_path)
        return
    with pytest.raises(InputError, match=said):
        spoil(tmp_path)


def test_broken_files_are_refused(tmp_path):
    save_adapter(stirred(base(), SMALL), tmp_path)
    whole = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(whole[:-9])
    with pytest.raises(InputError, match="whole weights"):
        load_adapter(base(), tmp_path)
    (tmp_path / WEIGHTS).write_bytes(whole)
    said = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(said | {"adapter": said["adapter"] | {"adapter_len": 4}}))
    with pytest.raises(InputError, match=r"of shape .4, 16., got .3, 16."):
        load_adapter(base(), tmp_path)
    for part in ("adapter", "base_model"):
        for spoilt in ({k: v for k, v in said.items() if k != part}, said | {part: None}):
            (tmp_path / CONFIG).write_text(json.dumps(spoilt))
            with pytest.raises(InputError, match="adapter and base_model"):
                load_adapter(base(), tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps(said | {"format": "other"}))
    with pytest.raises(InputError, match="'other'"):
        load_adapter(base(), tmp_path)


@pytest.mark.parametrize("config", [SMALL, SECOND], ids=["v1", "v2"])
def test_what_is_refused_leaves_the_model_as_it_was(config, tmp_path):
    """Nothing attached, nothing frozen: the right one can be put there afterwards."""
    save_adapter(stirred(base(), config), tmp_path)
    said = (tmp_path / CONFIG).read_text()
    (tmp_path / CONFIG).write_text(said.replace('"adapter_len": 3', '"adapter_len": 4'))
    model, whole = base(), logits(base())
    model.lm_head.requires_grad_(False)
    for _ in range(2):
        with pytest.raises(InputError, match="of shape"):
            load_adapter(model, tmp_path)
    with pytest.raises(InputError, match="of shape"):
        from_peft(model, {"adapter_len": 3, "adapter_layers": 1}, {})
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == {"lm_head.weight"}
    assert model.state_dict().keys() == base().state_dict().keys()
    assert {type(m) for m in model.modules()} == {type(m) for m in base().modules()}
    assert torch.equal(logits(model), whole)
    (tmp_path / CONFIG).write_text(said)
    load_adapter(model, tmp_path)
    assert torch.equal(logits(model), logits(stirred(base(), config)))


@pytest.mark.parametrize("config", [SMALL, SECOND], ids=["v1", "v2"])
def test_an_adapter_is_taken_off_again(config):
    model = stirred(RMTForCausalLM.from_backbone(base(), segment_size=8, num_memory_tokens=2), config)
    detach(model)
    plain = RMTForCausalLM.from_backbone(base(), segment_size=8, num_memory_tokens=2)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(logits(model), logits(plain))
    with pytest.raises(InputError, match="got none"):
        detach(model)
    attach(model, config)


@pytest.mark.parametrize("kind", sorted(SHAPES))
def test_from_peft_and_back(kind, tmp_path):
    live = get_peft_model(base(kind), AdaptionPromptConfig(adapter_len=3, adapter_layers=2, task_type="CAUSAL_LM"))
    for name, parameter in live.named_parameters():
        if "adaption_gate" in name:
            torch.nn.init.constant_(parameter, -0.6)
    live.save_pretrained(tmp_path / "theirs")
    expected = logits(live)
    assert (expected - logits(base(kind))).abs().max() > 0.01
    ours = base(kind)
    load_peft(ours, tmp_path / "theirs")
    torch.testing.assert_close(logits(ours), expected, rtol=1e-5, atol=1e-5)
    from_live = base(kind)
    from_peft(from_live, live.peft_config["default"], get_peft_model_state_dict(live))
    assert torch.equal(logits(from_live), logits(ours))
    save_peft(ours, tmp_path / "back")
    again = PeftModel.from_pretrained(base(kind), tmp_path / "back")
    torch.testing.assert_close(logits(again), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", sorted(SHAPES))
def test_to_a_live_peft_model_with_its_gradients(kind):
    ours = base(kind)
    attach(ours, AdapterConfig(adapter_len=3, adapter_layers=2))
    for name, parameter in adapter_parameters(ours).items():
        if name.endswith("gate"):
            torch.nn.init.constant_(parameter, 0.8)
    fields, tensors = to_peft(ours)
    live = get_peft_model(base(kind), AdaptionPromptConfig(task_type="CAUSAL_LM", **fields))
    set_peft_model_state_dict(live, tensors)
    torch.testing.assert_close(logits(live), logits(ours), rtol=1e-5, atol=1e-5)
    for model in (ours, live):
        model(input_ids=IDS, labels=IDS).loss.backward()
    theirs = {
        n[n.index("layers.") :]: p.grad for n, p in live.named_parameters() if "adaption" in n and p.grad is not None
    }
    for layer in (0, 1):
        gate, prompts = (adapter_parameters(ours)[f"layers.{layer}.{n}"].grad for n in ("gate", "prompts"))
        own = f"layers.{layer}.self_attn.adaption_"
        torch.testing.assert_close(prompts, theirs[own + "prompt"][0], rtol=1e-4, atol=1e-6)
        # The gate of PEFT's is tanh of all of ours.
        slope = 1 - torch.tensor(0.8).tanh().square()
        torch.testing.assert_close(gate.sum(), theirs[own + "gate"][0] * slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("convert", "said"),
    [
        (lambda: to_peft(stirred(base(), SECOND)), "variant 'v1'"),
        (lambda: to_peft(stirred(base(), SMALL)), "same gate for all heads"),
        (lambda: to_peft(stirred(base("qwen3"), SMALL)), "llama, mistral, got 'qwen3'"),
        (lambda: from_peft(base(head_dim=4), {"adapter_len": 3, "adapter_layers": 1}, {}), "make up the hidden size"),
        (lambda: from_peft(base(attention_bias=True), {"adapter_len": 3, "adapter_layers": 1}, {}), "add twice"),
        (lambda: to_peft(base()), "got none"),
    ],
)
def test_where_the_maths_differs_it_is_refused(convert, said):
    with pytest.raises(InputError, match=said):
        convert()


def test_a_configuration_of_peft_without_a_number_is_refused(unchecked):
    with pytest.raises(InputError, match="adapter_layers to be a positive integer, got None"):
        from_peft(base(), {"adapter_len": 3}, {})


def test_a_gate_that_no_tanh_gives_is_refused():
    live = get_peft_model(base(), AdaptionPromptConfig(adapter_len=3, adapter_layers=1, task_type="CAUSAL_LM"))
    weights = {n: torch.full_like(t, 1.5) if "gate" in n else t for n, t in get_peft_model_state_dict(live).items()}
    with pytest.raises(InputError, match="below 1 in size"):
        from_peft(base(), live.peft_config["default"], weights)
