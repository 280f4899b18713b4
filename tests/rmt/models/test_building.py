"""From backbones, folders and configurations, to folders and back; what cannot be built says so in one line."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    BertConfig,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5EncoderModel,
)

from rmt import (
    InputError,
    RMTConfig,
    RMTForCausalLM,
    RMTForQuestionAnswering,
    RMTForSequenceClassification,
)
from tests.rmt.tiny import bert_config, causal, classifier, content

SPECIAL = {"cls_token_id": 1, "sep_token_id": 2}
SETTINGS = {"segment_size": 7, "num_memory_tokens": 3, "memory_update": "gated", "gate_threshold": 0.25}
KITS = {
    RMTForSequenceClassification: ("bert", AutoModelForSequenceClassification),
    RMTForQuestionAnswering: ("deberta-v2", AutoModelForQuestionAnswering),
    RMTForCausalLM: ("llama", AutoModelForCausalLM),
}


def make(kit, tiny, **changes):
    kind = KITS[kit][0]
    special = {} if kit is RMTForCausalLM else SPECIAL
    return kit.from_backbone(tiny(kind), **(SETTINGS | special | changes)).eval()


def numbers(model):
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        out = model(input_ids=ids)
    return out.logits if hasattr(out, "logits") else out.start_logits, out.memory.tensors["tokens"]


@pytest.mark.parametrize("kit", KITS)
def test_save_and_load(kit, tiny, tmp_path):
    model = make(kit, tiny)
    model.save_pretrained(tmp_path)
    assert {"config.json", "model.safetensors"} <= {p.name for p in tmp_path.iterdir()}
    assert isinstance(AutoConfig.from_pretrained(tmp_path), RMTConfig)
    for back in (kit.from_pretrained(tmp_path), KITS[kit][1].from_pretrained(tmp_path)):
        assert type(back) is kit
        assert back.config.gate_threshold == 0.25
        assert back.fingerprint() == model.fingerprint()
        for got, wanted in zip(numbers(back.eval()), numbers(model), strict=True):
            assert torch.equal(got, wanted)


@pytest.mark.parametrize("kit", KITS)
def test_from_folder_of_a_backbone(kit, tiny, tmp_path):
    backbone = tiny(KITS[kit][0])
    backbone.save_pretrained(tmp_path)
    special = {} if kit is RMTForCausalLM else SPECIAL
    model = kit.from_backbone(str(tmp_path), **SETTINGS, **special)
    given = backbone.state_dict()
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(given[name], tensor), name
    assert all("pooler" in name for name in given.keys() - model.backbone.state_dict().keys())


@pytest.mark.parametrize("kit", KITS)
def test_mode(kit, tiny, tmp_path):
    """As transformers has it: what was loaded is in eval mode; what was given stays in the mode it is in."""
    special = {} if kit is RMTForCausalLM else SPECIAL
    backbone = tiny(KITS[kit][0])
    backbone.save_pretrained(tmp_path)
    for given, training in ((str(tmp_path), False), (backbone, False), (backbone, True)):
        model = kit.from_backbone(given if isinstance(given, str) else given.train(training), **SETTINGS, **special)
        assert {m.training for m in model.modules()} == {training}


def test_from_backbone_leaves_weights_alone(tiny):
    backbone = tiny("llama")
    before = {name: t.clone() for name, t in backbone.state_dict().items()}
    model = RMTForCausalLM.from_backbone(backbone, **SETTINGS)
    assert model.backbone is backbone
    assert all(torch.equal(t, before[name]) for name, t in model.backbone.state_dict().items())


@pytest.mark.parametrize("kit", KITS)
def test_fresh_from_configuration(kit, tiny):
    config = make(kit, tiny).config
    for model in (kit(config), KITS[kit][1].from_config(config)):
        assert type(model) is kit
        assert all(bool(p.isfinite().all()) for p in model.parameters())
        assert float(model.cell.memory.detach().std()) > 0
        assert all(bool(t.isfinite().all()) for t in numbers(model.eval()))


def test_head_of_a_model_is_dropped(tiny):
    from transformers import BertForMaskedLM

    config = tiny("bert").config
    model = RMTForSequenceClassification.from_backbone(BertForMaskedLM(config), **SETTINGS, **SPECIAL)
    assert not [name for name, _ in model.named_parameters() if "pooler" in name or "cls.predictions" in name]


@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_stay_tied(tied, tiny, tmp_path):
    model = RMTForCausalLM.from_backbone(tiny("llama", tie_word_embeddings=tied), **SETTINGS).eval()
    model.save_pretrained(tmp_path)
    with safe_open(str(tmp_path / "model.safetensors"), framework="pt") as file:
        assert any("lm_head" in name for name in file.keys()) is not tied  # noqa: SIM118
    back = RMTForCausalLM.from_pretrained(tmp_path).eval()
    assert (back.get_output_embeddings().weight is back.get_input_embeddings().weight) is tied
    for got, wanted in zip(numbers(back), numbers(model), strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("kit", KITS)
def test_bfloat16(kit, tiny, tmp_path):
    model = make(kit, tiny)
    model.save_pretrained(tmp_path)
    half = kit.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    got, memory = numbers(half)
    assert memory.dtype is torch.float32  # what is carried over many segments is not rounded at each
    assert (got.float() - numbers(model)[0]).abs().max() < 0.1 * numbers(model)[0].abs().max()
    assert half.fingerprint() == model.fingerprint()


def test_softcapping(tiny):
    model = RMTForCausalLM.from_backbone(tiny("llama"), **SETTINGS).eval()
    plain, _ = numbers(model)
    model.config.backbone_config.final_logit_softcapping = 0.5
    capped, _ = numbers(model)
    torch.testing.assert_close(capped, 0.5 * torch.tanh(plain / 0.5))


def test_unknown_family_says_what_a_backbone_must_offer():
    backbone = T5EncoderModel(T5Config(d_model=8, d_ff=8, num_layers=1, num_heads=1, d_kv=8, vocab_size=9))
    with pytest.raises(InputError, match=r"known family .*got model_type 't5'.*inputs_embeds") as caught:
        RMTForSequenceClassification.from_backbone(backbone)
    assert "\n" not in str(caught.value)


def test_wrong_layout(tiny):
    with pytest.raises(InputError, match=r"expected a backbone with the encoder layout .*got 'llama'"):
        RMTForSequenceClassification.from_backbone(tiny("llama"), **SPECIAL)
    with pytest.raises(InputError, match=r"expected a backbone with the decoder layout .*got 'bert'"):
        RMTForCausalLM.from_backbone(tiny("bert"))


def test_decoder_without_head(tiny):
    with pytest.raises(InputError, match="causal language model with a head, got LlamaModel"):
        RMTForCausalLM.from_backbone(tiny("llama").model)


@pytest.mark.parametrize(
    ("kind", "most"),
    [("bert", 64 - 3 - 3), ("roberta", 66 - 2 - 3 - 3), ("distilbert", 64 - 3 - 3), ("gpt2", 64 - 6)],
)
def test_segment_beyond_positions(kind, most, tiny):
    kit = RMTForCausalLM if kind == "gpt2" else RMTForSequenceClassification
    special = {} if kind == "gpt2" else SPECIAL
    model = kit.from_backbone(tiny(kind), segment_size=most, num_memory_tokens=3, **special).eval()
    with torch.no_grad():
        model(input_ids=torch.randint(3, 61, (1, most)))
    with pytest.raises(InputError, match=rf"segment_size: expected at most {most} tokens .*got {most + 1}"):
        kit.from_backbone(tiny(kind), segment_size=most + 1, num_memory_tokens=3, **special)


def test_segment_beyond_a_sliding_window(tiny):
    with pytest.raises(InputError, match="expected at most 10 tokens"):
        RMTForCausalLM.from_backbone(tiny("mistral", sliding_window=16), segment_size=11, num_memory_tokens=3)


def test_no_special_tokens(tiny):
    with pytest.raises(InputError, match="pass cls_token_id= and sep_token_id="):
        RMTForSequenceClassification.from_backbone(tiny("bert"), segment_size=7)


def test_no_such_folder(tmp_path):
    with pytest.raises(InputError, match="expected a model on the hub or in a folder") as caught:
        RMTForCausalLM.from_backbone(str(tmp_path / "nothing"))
    assert "\n" not in str(caught.value)


def test_configuration_without_backbone():
    with pytest.raises(InputError, match="expected backbone_config, got None"):
        RMTForCausalLM(RMTConfig())


def test_backbones_own_configuration_is_kept():
    config = RMTConfig(backbone_config=BertConfig(hidden_size=24, num_attention_heads=2).to_dict())
    assert (type(config.backbone_config), config.hidden_size) == (BertConfig, 24)


def test_generation_settings_come_along(tiny):
    backbone = LlamaForCausalLM(LlamaConfig(**tiny("llama").config.to_dict()))
    backbone.generation_config.top_k = 7
    assert RMTForCausalLM.from_backbone(backbone, segment_size=7).generation_config.top_k == 7


@pytest.mark.parametrize("make", [classifier, causal])
def test_arguments_that_would_change_nothing_are_refused(make):
    model, ids = make(), content(1, 6)
    expected = model(input_ids=ids).memory.tensors["tokens"]
    got = model(input_ids=ids, token_type_ids=torch.zeros_like(ids), output_attentions=None).memory.tensors["tokens"]
    assert torch.equal(got, expected)
    with pytest.raises(InputError, match="memmory"):
        model(input_ids=ids, memmory=model.initial_memory())
    with pytest.raises(InputError, match="output_hidden_states"):
        model(input_ids=ids, output_hidden_states=True)


def test_an_encoder_needs_its_opening_and_closing_tokens():
    with pytest.raises(InputError, match="cls_token_id"):
        RMTForSequenceClassification(RMTConfig(backbone_config=bert_config(), segment_size=4, num_memory_tokens=2))
