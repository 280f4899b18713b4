"""Adaption prompts beside a twin written out by hand, and what the paper says of them."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from torch.utils.checkpoint import CheckpointError
from transformers import LlamaConfig, LlamaForCausalLM

from multimodal.adapter import (
    AdapterConfig,
    Picture,
    adapter_parameters,
    attach,
    showing,
    trainable_parameters,
)
from multimodal.adapter.adapter import core_of, projections_of
from multimodal.adapter.attention import ATTENTIONS
from multimodal.adapter.v2 import norms_of
from rmt.backbone import CACHE, FAMILIES
from rmt.errors import InputError
from rmt.layers import layers_of
from tests.multimodal.adapter.kit import naive, stirred
from tests.rmt import families
from tests.rmt.tiny import llama_config

SMALL = AdapterConfig(adapter_len=3, adapter_layers=1)


def llama():
    torch.manual_seed(3)
    config = llama_config(num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=3)
    return LlamaForCausalLM(config).eval()


def words(rows=2, width=7):
    return torch.randint(3, 60, (rows, width), generator=torch.Generator().manual_seed(0))


def test_the_published_count_at_7b():
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig())  # 32 layers, hidden size 4096, 32 heads
    attach(model, AdapterConfig())
    assert sum(p.numel() for p in trainable_parameters(model).values()) == 30 * (10 * 4096 + 32) == 1_229_760
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 1_229_760


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", sorted(ATTENTIONS))
def test_identity_at_zero_gate_and_change_beyond(kind, implementation):
    model, ids = families.build(kind, attn_implementation=implementation), words()
    before = model(input_ids=ids)[0]
    attach(model, replace(SMALL, adapter_layers=2))
    assert torch.equal(model(input_ids=ids)[0], before)
    for name, parameter in adapter_parameters(model).items():
        if name.endswith("gate"):
            torch.nn.init.constant_(parameter, 0.7)
    after = model(input_ids=ids)[0]
    assert (after - before).abs().max() > 0.01
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(input_ids=ids)[0], after)


@pytest.mark.parametrize("kind", sorted(ATTENTIONS))
def test_implementations_of_attention_agree(kind):
    model = stirred(families.build(kind), replace(SMALL, adapter_layers=2))
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    outs = []
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        outs.append(model(input_ids=words(), attention_mask=mask)[0])
    assert model.config._attn_implementation == "eager"
    torch.testing.assert_close(outs[0][mask.bool()], outs[1][mask.bool()], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ["v1", "v2"])
def test_outputs_and_gradients_are_those_by_hand(variant):
    config = AdapterConfig(variant, adapter_len=3, adapter_layers=2, visual_layers=int(variant == "v2"))
    model = stirred(llama(), config)
    tokens = torch.randn(2, 1 if variant == "v1" else 4, 32)
    seen = torch.tensor([True, False])
    tokens = (tokens * seen[:, None, None]).requires_grad_()

    def gradients(hidden):
        weight = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(5))
        wanted = [tokens, *trainable_parameters(model).values()]
        return torch.autograd.grad((hidden * weight).sum(), wanted)

    with showing(Picture(tokens, seen)):
        fast = model.model(input_ids=words()).last_hidden_state
    slow = naive(model.model, model.model.embed_tokens(words()), tokens, seen.tolist())
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)
    got, expected = gradients(fast), gradients(slow)
    assert not got[0][1].any(), "a row that sees nothing"
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert all(bool(g.abs().sum() > 0) for g in got)


def test_gradients_flow_as_the_paper_says():
    """At a gate of zero only the gate learns; after its first step the prompts do too."""
    model = llama()
    attach(model, SMALL)
    optimizer = torch.optim.SGD(trainable_parameters(model).values(), lr=0.5)

    def step():
        model.zero_grad()
        model(input_ids=words(), labels=words()).loss.backward()
        sizes = {name.split(".")[-1]: p.grad.abs().max() for name, p in trainable_parameters(model).items()}
        optimizer.step()
        return sizes

    first, second = step(), step()
    assert first["gate"] > 0
    assert first["prompts"] == 0
    assert second["gate"] > 0
    assert second["prompts"] > 0
    assert all(p.grad is None for n, p in model.named_parameters() if "adapter" not in n)


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "gemma"])
def test_cached_decoding_is_the_forward_over_all_tokens(kind):
    model, ids = stirred(families.build(kind), replace(SMALL, adapter_layers=2)), words()
    whole, cache, steps = model(input_ids=ids).logits, None, []
    name = CACHE
    for column in range(ids.shape[1]):
        out = model(input_ids=ids[:, column : column + 1], use_cache=True, **{name: cache})
        cache = getattr(out, name)
        steps.append(out.logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", sorted(ATTENTIONS))
def test_each_family_head_by_head(kind):
    """One attention module by itself: norms of heads, groups of queries, positions of words and none of prompts."""
    model = stirred(families.build(kind), replace(SMALL, adapter_layers=2))
    layer = layers_of(core_of(model), FAMILIES[kind])[1]
    own = layer.get_submodule(projections_of(model).path)
    x, prompts = torch.randn(1, 5, 16), own.adapter.prompts[None]
    if kind in ("bert", "roberta"):
        names, turn, given = ("query", "key", "value"), lambda t: t, {}
    else:
        names, positions = ("q_proj", "k_proj", "v_proj"), core_of(model).rotary_emb(x, torch.arange(5)[None])
        given = {"position_embeddings": positions, "attention_mask": None}

        def turn(t):
            one, two = t.chunk(2, dim=-1)
            return t * positions[0][0] + torch.cat([-two, one], dim=-1) * positions[1][0]

    def heads(t, name, norm=None):
        made = getattr(own, name)(t)[0].unflatten(-1, (-1, 8)).transpose(0, 1)
        return made if getattr(own, norm or "", None) is None else getattr(own, norm)(made)

    queries, keys = turn(heads(x, names[0], "q_norm")), turn(heads(x, names[1], "k_norm"))
    outs = []
    for head, q in enumerate(queries):
        kv = head * len(keys) // len(queries)
        scores = q @ keys[kv].T / 8**0.5
        if names[0] == "q_proj":
            scores = scores.masked_fill(~torch.ones(5, 5).tril().bool(), -torch.inf)
        weights = (q @ heads(prompts, names[1], "k_norm")[kv].T / 8**0.5).softmax(dim=-1)
        out = scores.softmax(dim=-1) @ heads(x, names[2])[kv]
        outs.append(out + own.adapter.gate[head].tanh() * weights @ heads(prompts, names[2])[kv])
    expected = torch.cat(outs, dim=-1)
    expected = own.o_proj(expected) if hasattr(own, "o_proj") else expected
    torch.testing.assert_close(own(hidden_states=x, **given)[0][0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ["v1", "v2"])
def test_checkpoints_of_single_layers_need_the_picture_in_backward(variant):
    config = AdapterConfig(variant, adapter_len=3, adapter_layers=2, visual_layers=int(variant == "v2"))
    model, found = stirred(llama(), config).train(), []
    picture = Picture(torch.randn(1, 1, 32), torch.tensor([True]))
    for checkpointed in (False, True):
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        model.zero_grad()
        with showing(picture):
            model(input_ids=words(1), labels=words(1)).loss.backward()
        found.append({n: p.grad.clone() for n, p in trainable_parameters(model).items()})
    for name in found[0]:
        torch.testing.assert_close(*(some[name] for some in found), rtol=1e-4, atol=1e-6)
    with showing(picture):
        loss = model(input_ids=words(1), labels=words(1)).loss
    with pytest.raises(CheckpointError):
        loss.backward()


def test_a_picture_of_several_images_is_their_mean_and_none_is_none():
    images = torch.randn(3, 1, 32)
    picture = Picture.of(images, torch.tensor([0, 2, 0]), 3)
    assert picture.seen.tolist() == [True, False, True]
    torch.testing.assert_close(picture.tokens[0], (images[0] + images[2]) / 2)
    model = stirred(llama(), SMALL)
    without = model(input_ids=words(3)).logits
    with showing(picture):
        seen = model(input_ids=words(3)).logits
    torch.testing.assert_close(seen[1], without[1], rtol=1e-5, atol=1e-5)
    assert (seen[0] - without[0]).abs().max() > 0.01
    assert torch.equal(model(input_ids=words(3)).logits, without)  # nothing stays behind


def test_bfloat16_and_base_that_is_saved(tmp_path):
    model = llama()
    attach(model, SMALL)
    model.save_pretrained(tmp_path)
    again = LlamaForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again(input_ids=words()).logits, model(input_ids=words()).logits)
    half = stirred(llama().bfloat16(), SMALL)
    out = half(input_ids=words()).logits
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), stirred(llama(), SMALL)(input_ids=words()).logits, rtol=0.1, atol=0.2)


def test_second_version_trains_disjoint_groups_and_counts():
    """By the formula: 2 numbers an output of each linear layer, norms, prompts and gates."""
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig())
    attach(model, AdapterConfig("v2", visual_layers=2))
    linears, norms = 32 * 2 * (5 * 4096 + 2 * 11008), 65 * 4096
    assert (linears, norms) == (2_719_744, 266_240)
    count = sum(p.numel() for p in trainable_parameters(model).values())
    assert count == linears + norms + 1_229_760 + 2 * 32
    assert len(norms_of(model.model)) == 65


def test_scale_and_bias_are_the_papers_with_a_bias_that_is_there():
    """Equation 1 of V2: the new bias is scaled too."""
    model = stirred(families.build("qwen2"), AdapterConfig("v2", adapter_len=3, adapter_layers=1))
    linear, x = model.model.layers[0].self_attn.q_proj, torch.randn(2, 16)
    s, b = linear.adapter_scale, linear.adapter_bias
    assert min(float(t.detach().abs().max()) for t in (s - 1, b, linear.bias)) > 0.01
    torch.testing.assert_close(linear(x), s * (x @ linear.weight.T + linear.bias + b))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: AdapterConfig("v3"), "variant"),
        (lambda: AdapterConfig(adapter_len=0), "adapter_len"),
        (lambda: AdapterConfig(prompt_std=float("inf")), "prompt_std"),
        (lambda: AdapterConfig(visual_layers=1), "visual_layers=0"),
        (lambda: attach(llama(), AdapterConfig()), "at most 3 layers"),
        (lambda: attach(stirred(llama(), SMALL), SMALL), "without one"),
        (lambda: attach(families.build("gpt2"), SMALL), "'gpt2'"),
        (lambda: adapter_parameters(llama()), "got none"),
    ],
)
def test_bad_input_is_one_clear_error(make, said):
    with pytest.raises(InputError, match=said):
        make()


def test_a_configuration_of_other_types_is_refused(unchecked):
    """As a file may bring it."""
    with pytest.raises(InputError, match="prompt_std"):
        AdapterConfig.from_dict({"prompt_std": "1"})
    with pytest.raises(InputError, match="adapter_len"):
        AdapterConfig.from_dict({"adapter_len": None})
    with pytest.raises(InputError, match="a dictionary"):
        AdapterConfig.from_dict([1])


def test_a_picture_that_does_not_fit():
    model = stirred(llama(), SMALL)
    for shape, said in (((3, 1, 32), "each of 2 rows, got 3"), ((2, 4, 32), "one global token")):
        picture = Picture(torch.zeros(shape), torch.ones(shape[0], dtype=torch.bool))
        with pytest.raises(InputError, match=said), showing(picture):
            model(input_ids=words())
