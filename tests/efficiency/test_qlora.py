"""LoRA over 4-bit layers against the same over dequantised weights, and files against bitsandbytes' own."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from efficiency.errors import InputError
from rmt.models import RMTForCausalLM
from rmt.reader import Reader
from tests.rmt.tiny import causal, classifier, content, gradients, largest_gap, llama_config

bnb = pytest.importorskip("bitsandbytes")

from efficiency import nf4  # noqa: E402
from efficiency.paged import paged_adamw  # noqa: E402
from efficiency.qlora import NF4Linear, nf4_layers, quantize_model, stored_bytes  # noqa: E402
from efficiency.weight_cache import WeightCache  # noqa: E402
from tests.efficiency.composition_kit import dequantised  # noqa: E402

SETTINGS: dict[str, Any] = {"r": 4, "target_modules": "all-linear", "init_lora_weights": False}
ALL = {"skip": (), "compute_dtype": None}


class Recurrent(nn.Module):
    """Two linear layers that are run once a segment, the state of one segment going into the next."""

    def __init__(self, checkpointed: bool = False) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32, bias=False)
        self.checkpointed = checkpointed

    def step(self, x: Tensor, state: Tensor) -> Tensor:
        return self.down(torch.tanh(self.up(x + state)))

    def forward(self, xs: Tensor) -> Tensor:
        state = torch.zeros_like(xs[0])
        for x in xs:
            if self.checkpointed:
                state = checkpoint(self.step, x, state, use_reentrant=False)
            else:
                state = self.step(x, state)
        return state


def adapted(model: nn.Module) -> Any:
    torch.manual_seed(1)
    return get_peft_model(model, LoraConfig(**SETTINGS)).train()


def pair(base: nn.Module) -> tuple[Any, Any]:
    """LoRA over ``base``, and the same over its dequantised twin."""
    twin = adapted(dequantised(base))
    return adapted(base), twin


def trained(model: Any, xs: Tensor) -> dict[str, Tensor]:
    """Gradients of the adapters and of the input."""
    model.zero_grad()
    xs = xs.clone().requires_grad_()
    model(xs).square().sum().backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert all(g is not None and g.abs().max() > 0 for g in found.values())
    return found | {"input": xs.grad}


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("budget", [None, 0, 64 * 32 * 4, "no cache"])
@pytest.mark.parametrize("evaluation", [torch.no_grad, torch.inference_mode])
def test_gradients_are_those_over_the_dequantised_weight(checkpointed, budget, evaluation):
    """Before and after an evaluation pass, which cut gradients off in bitsandbytes' layer on CPU."""
    cache = None if budget == "no cache" else WeightCache(budget)
    base = quantize_model(Recurrent(checkpointed), **ALL, cache=cache)
    ours, theirs = pair(base)
    xs = torch.randn(4, 5, 32)
    wanted = trained(theirs, xs)
    assert largest_gap(trained(ours, xs), wanted) <= 1e-6
    ours.eval()
    with evaluation():
        assert torch.allclose(ours(xs), theirs(xs), atol=1e-6)
    ours.train()
    assert largest_gap(trained(ours, xs), wanted) <= 1e-6


def test_the_trap_is_one():
    """The same with bitsandbytes' forward: where this no longer fails, the warning in the docs is out of date."""
    if not bnb.functional.has_avx512bf16():
        pytest.skip("bitsandbytes repacks on CPUs with AVX512-BF16 only")
    layer = bnb.nn.Linear4bit(64, 64, False, torch.bfloat16, quant_type="nf4").to("cpu")
    layer.eval()
    with torch.no_grad():
        layer(torch.randn(2, 64))
    x = torch.randn(2, 64, requires_grad=True)
    with pytest.warns(UserWarning, match="autograd kernel was not registered"):
        layer.train()(x).sum().backward()
    assert x.grad is None
    with pytest.raises(InputError, match="repacked"):
        nf4.dequantize(layer.weight)


def test_autograd_keeps_a_reference_only():
    kept: list[Tensor] = []
    layer = next(layer for _, layer in nf4_layers(quantize_model(Recurrent(), **ALL, cache=WeightCache())))
    x = torch.randn(5, 32, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = layer(x)
    assert kept == []
    y.sum().backward()
    assert torch.allclose(x.grad, layer.dequantised().sum(dim=0).expand(5, -1), atol=1e-6)


def test_a_weight_is_dequantised_once(monkeypatch):
    calls = []
    monkeypatch.setattr("efficiency.qlora.dequantize", lambda w, dtype: calls.append(w) or nf4.dequantize(w, dtype))
    model = adapted(quantize_model(Recurrent(checkpointed=True), **ALL, cache=WeightCache()))
    for _ in range(3):
        trained(model, torch.randn(8, 5, 32))
    assert len(calls) == 2
    plain = adapted(quantize_model(Recurrent(checkpointed=True), **ALL))
    trained(plain, torch.randn(8, 5, 32))
    assert len(calls) > 2 * 8 * 2


@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16])
def test_formats(x_dtype):
    layer = quantize_model(nn.Sequential(nn.Linear(32, 16))).get_submodule("0")
    x = torch.randn(3, 2, 32, dtype=x_dtype, requires_grad=True)
    wanted = nn.functional.linear(x.bfloat16(), layer.dequantised(torch.bfloat16), layer.bias.bfloat16())
    y = layer(x)
    assert y.dtype == x_dtype
    assert torch.equal(y, wanted.to(x_dtype))
    y.sum().backward()
    assert x.grad.dtype == x_dtype
    assert layer.bias.grad.dtype == torch.float32
    assert torch.equal(layer.bias.grad, torch.full((16,), 6.0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
        assert torch.equal(layer(x), wanted)


def test_same_output_as_bitsandbytes():
    theirs = bnb.nn.Linear4bit(64, 48, True, torch.float32, quant_type="nf4").to("cpu").train()
    x = torch.randn(5, 64, requires_grad=True)
    wanted = theirs(x)
    wanted.square().sum().backward()
    grad, x.grad = x.grad, None
    ours = quantize_model(nn.Sequential(copy.deepcopy(theirs)), compute_dtype=torch.float32)
    assert isinstance(ours[0], NF4Linear)
    assert ours[0].weight.module is None, "a copy would keep the layer it was copied from"
    ours(x).square().sum().backward()
    assert torch.allclose(ours(x), wanted, atol=1e-6)
    assert torch.allclose(x.grad, grad, atol=1e-6)


def test_what_stays_in_16_bit():
    model = quantize_model(classifier(memory_update="gated"))
    names = {name for name, _ in nf4_layers(model)}
    assert names == {n for n in dict(model.named_modules()) if n.endswith(("query", "key", "value", "dense"))}
    assert model.config.quantization_config.llm_int8_skip_modules == [
        "cell.slot_gate",
        "cell.channel_gate",
        "classifier",
    ]
    names = {name for name, _ in nf4_layers(quantize_model(causal(), skip=("*.q_proj", "cell")))}
    assert "backbone.lm_head" in names
    assert not any("q_proj" in name for name in names)
    # A weight that is an embedding too is not taken from it.
    tied = quantize_model(LlamaForCausalLM(llama_config(tie_word_embeddings=True)), skip=())
    assert type(tied.lm_head) is nn.Linear
    assert tied.lm_head.weight is tied.model.embed_tokens.weight


def test_footprint():
    model = quantize_model(nn.Sequential(nn.Linear(1024, 1024), nn.Linear(1024, 512)))
    stored, half = stored_bytes(model)
    assert half == 2 * (1024 * 1024 + 1024 * 512)
    assert 16 * stored / half <= 4.145
    assert sum(p.nbytes for p in model.parameters() if p.dtype == torch.uint8) == half // 4


@pytest.mark.parametrize("fields", [{}, {"recurrence": "checkpointed"}, {"memory": "associative", "order": "layers"}])
def test_a_recurrent_model_under_plain_peft(fields):
    base = quantize_model(causal(**fields), compute_dtype=None, cache=WeightCache())
    ours, theirs = pair(base)
    ids = content(2, 16)
    for model in (ours, theirs):
        model(input_ids=ids, labels=ids).loss.backward()
    wanted = gradients(theirs)
    assert {name: p.shape for name, p in wanted.items() if "lora" in name}
    gap = max((p.grad - wanted[name]).abs().max() for name, p in ours.named_parameters() if p.requires_grad)
    assert gap <= 1e-6


def test_plain_peft_saves_loads_and_merges(tmp_path):
    base = quantize_model(LlamaForCausalLM(llama_config()), compute_dtype=None)
    model = adapted(copy.deepcopy(base)).eval()
    ids = content(2, 8)
    wanted = model(ids).logits
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path)).eval()
    assert torch.equal(again(ids).logits, wanted)
    up = again.base_model.model.model.layers[0].mlp.up_proj
    both = nf4.dequantize(up.base_layer.weight) + up.get_delta_weight("default")
    merged = again.merge_and_unload()
    layer = merged.model.layers[0].mlp.up_proj
    assert isinstance(layer, NF4Linear)
    assert torch.equal(layer.dequantised(), nf4.dequantize(nf4.quantize(both)))


def test_cached_numbers_follow_a_merge():
    base = quantize_model(Recurrent(), **ALL, cache=WeightCache())
    model, xs = adapted(base).eval(), torch.randn(2, 5, 32)
    model(xs)
    model.merge_adapter()
    assert torch.allclose(model(xs), dequantised(base)(xs), atol=1e-6)


def test_quantised_before_it_became_a_part():
    """PEFT then sees an ordinary linear layer: it trains, and refuses to merge where it cannot."""
    whole = nn.Sequential(quantize_model(Recurrent(), **ALL))
    (model, twin), xs = pair(whole), torch.randn(3, 5, 32)
    assert largest_gap(trained(model, xs), trained(twin, xs)) <= 1e-6
    with pytest.raises(RuntimeError):
        copy.deepcopy(model).merge_and_unload()
    # Told of it, PEFT knows what to do.
    model = adapted(quantize_model(model.unload()))
    assert isinstance(model.merge_and_unload()[0].up, NF4Linear)


def load_4bit(folder, **kwargs):
    return AutoModelForCausalLM.from_pretrained(folder, **kwargs)


def test_hub_folders_come_in_and_go_out(tmp_path):
    """One made by transformers and bitsandbytes into our layers, and ours back into theirs."""
    LlamaForCausalLM(llama_config()).to(torch.bfloat16).save_pretrained(tmp_path / "whole")
    how = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    load_4bit(tmp_path / "whole", quantization_config=how).save_pretrained(tmp_path / "theirs")
    theirs = load_4bit(tmp_path / "theirs")
    wanted = {name: t.clone() for name, t in theirs.state_dict().items()}
    assert "model.layers.0.mlp.up_proj.weight.quant_state.bitsandbytes__nf4" in wanted
    loaded = quantize_model(theirs)
    ours = quantize_model(load_4bit(tmp_path / "whole")).eval()
    ids = content(2, 8)
    assert len(list(nf4_layers(loaded))) == 14
    assert torch.equal(loaded(ids).logits, ours(ids).logits)

    ours.save_pretrained(tmp_path / "ours")
    config = json.loads((tmp_path / "ours" / "config.json").read_text())["quantization_config"]
    assert (config["quant_method"], config["bnb_4bit_quant_type"]) == ("bitsandbytes", "nf4")
    again = load_4bit(tmp_path / "ours")
    assert type(again.model.layers[0].mlp.up_proj) is bnb.nn.Linear4bit
    assert again.state_dict().keys() == wanted.keys()
    assert all(torch.equal(t, wanted[name]) for name, t in again.state_dict().items())
    fresh = quantize_model(LlamaForCausalLM(llama_config()))
    fresh.load_state_dict(wanted)
    assert torch.equal(fresh.model.layers[1].mlp.up_proj.dequantised(), ours.model.layers[1].mlp.up_proj.dequantised())


def test_a_hub_folder_under_a_recurrent_model(tmp_path):
    quantize_model(LlamaForCausalLM(llama_config())).save_pretrained(tmp_path / "hub")
    model = RMTForCausalLM.from_backbone(str(tmp_path / "hub"), segment_size=4, num_memory_tokens=3)
    assert type(model.backbone.model.layers[0].mlp.up_proj) is bnb.nn.Linear4bit
    quantize_model(model, compute_dtype=None).eval().save_pretrained(tmp_path / "ours")
    again = quantize_model(RMTForCausalLM.from_pretrained(tmp_path / "ours"), compute_dtype=None)
    ids = content(2, 12)
    assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)


def test_one_layer_of_budget_is_enough_layer_by_layer():
    """A real recurrent model, trained layer by layer: each weight is dequantised once in either direction."""
    cache = WeightCache(4 * (4 * 32 * 32 + 3 * 32 * 48))
    base = quantize_model(causal(memory="associative", order="layers"), compute_dtype=None, cache=cache)
    model, ids = adapted(base), content(2, 32)
    for _ in range(2):
        before = cache.misses
        model(input_ids=ids, labels=ids).loss.backward()
    assert cache.misses - before <= 2 * 14
    assert cache.hits > 0


def test_gradients_of_gradients():
    layer = quantize_model(nn.Sequential(nn.Linear(8, 4)), compute_dtype=None)[0]
    twin = dequantised(nn.Sequential(layer))[0]
    found = []
    for each in (layer, twin):
        x = torch.linspace(-1, 1, 24).view(3, 8).requires_grad_()
        (first,) = torch.autograd.grad(each(x).pow(3).sum(), x, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), x)[0])
    assert torch.allclose(*found, atol=1e-5)


@pytest.mark.parametrize("make", [causal, classifier])
def test_a_recurrent_model_is_saved_and_loaded(tmp_path, make):
    model = quantize_model(make(), compute_dtype=None).eval()
    model.save_pretrained(tmp_path)
    again = quantize_model(type(model).from_pretrained(tmp_path), compute_dtype=None)
    ids = content(2, 12)
    assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)


def test_copies_and_bad_state_dicts():
    model = quantize_model(Recurrent(), **ALL, cache=WeightCache())
    twin, xs = copy.deepcopy(model), torch.randn(2, 5, 32)
    assert torch.equal(twin(xs), model(xs))
    assert twin.up.cache is twin.down.cache is not model.up.cache
    assert twin.up.weight is not model.up.weight
    assert twin.up.weight.module is None
    whole = Recurrent().state_dict()
    with pytest.raises(RuntimeError, match=r"up.weight: 4-bit weight: expected all its tensors.*quantize_model"):
        model.load_state_dict(whole)
    with pytest.raises(RuntimeError, match=r"Missing key.*down.weight"):
        model.load_state_dict({name: t for name, t in twin.state_dict().items() if "down" not in name})
    other = quantize_model(nn.ModuleDict({"up": nn.Linear(32, 32), "down": nn.Linear(64, 32, bias=False)}), **ALL)
    with pytest.raises(RuntimeError, match=r"up.bias: expected torch.Size"):
        model.load_state_dict(other.state_dict())
    with pytest.raises(InputError, match="bare"):
        functional_call(model.up, {"weight": torch.zeros(1024, 1, dtype=torch.uint8)}, (torch.zeros(32),))


def test_adapters_come_after_quantising():
    """Else they would be quantised as any layer, and not train."""
    model = adapted(Recurrent())
    with pytest.raises(InputError, match=r"before adapters, got one with some at base_model.model.up.*quantise first"):
        quantize_model(model, **ALL)
    assert not any(True for _ in nf4_layers(model))


def test_bad_models():
    with pytest.raises(InputError, match="got none in Sequential"):
        quantize_model(nn.Sequential(nn.ReLU()))
    with pytest.raises(InputError, match="up: weight: expected float32"):
        quantize_model(Recurrent().double())
    with pytest.raises(InputError, match="not quantised yet"):
        quantize_model(nn.Sequential(bnb.nn.Linear4bit(8, 8)))


@pytest.mark.parametrize(("executor", "dtype"), [("sequential", "float32"), ("auto", "float32"), ("auto", "bfloat16")])
def test_a_reader_with_its_fast_executors(executor, dtype):
    """Executors that take a layer's weights apart leave quantised ones alone."""
    model = quantize_model(classifier(), compute_dtype=None).eval()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a")))
    ours, theirs = (
        Reader(each, tokenizer, dtype=dtype, executor=executor).read(content(1, 64)[0]).tensors["tokens"]
        for each in (model, dequantised(model))
    )
    assert torch.allclose(ours, theirs, atol=1e-5 if dtype == "float32" else 0.1)


def test_paging_needs_a_gpu():
    with pytest.raises(InputError, match=r"cpu; paging .* use torch.optim.AdamW"):
        paged_adamw(adapted(quantize_model(Recurrent(), **ALL)).parameters(), lr=1e-3)
    with pytest.raises(InputError, match="got none"):
        paged_adamw([{"params": [nn.Parameter(torch.zeros(1), requires_grad=False)]}])
