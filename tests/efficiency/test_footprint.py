"""What a step will take, against what it takes; and what 70 billion parameters would, without any of them."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import LlamaConfig, LlamaForCausalLM

from efficiency import footprint
from efficiency.errors import InputError
from efficiency.footprint import NF4_BITS, OPTIMIZERS, Live, estimate, fake, give_fake, measure, part_of
from efficiency.lomo import AdaLomo, Lomo
from efficiency.lomo.size import UPDATE

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 200,
    "max_position_embeddings": 64,
}
TOKENS = 48


def build(**fields) -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(**{**SMALL, **fields})).train()


def loss_of(model):
    vocabulary = model.config.vocab_size
    # A mask of four dimensions is taken as it is: to look whether it is all ones would ask for values.
    mask = torch.ones(1, 1, TOKENS, TOKENS, dtype=torch.bool)

    def loss():
        ids = torch.zeros(1, TOKENS, dtype=torch.long)
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return F.cross_entropy(logits.view(-1, vocabulary).float(), ids.view(-1))

    return loss


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("trained", ["all", "one layer"])
def test_the_estimate_is_the_measurement(tied, trained):
    def made():
        model = build(tie_word_embeddings=tied)
        if trained == "one layer":
            model.requires_grad_(False)
            model.model.layers[1].requires_grad_(True)
        return model

    with fake():
        model = made()
        expected = estimate(model, loss_of(model))
    model = made()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    got = measure(model, optimizer, loss_of(model))
    for kind in ("parameters", "gradients"):
        assert got.of(kind) == expected.of(kind)
    steps = 4 * sum(p.requires_grad for p in model.parameters())  # AdamW counts steps, a number a parameter
    assert got.of("optimizer") == expected.of("optimizer") + steps
    assert got.of("activations") == pytest.approx(expected.of("activations"), rel=0.02)
    assert got.peak == pytest.approx(expected.peak, rel=0.02)
    assert got.total == pytest.approx(expected.total, rel=0.02)
    numbers = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert expected.of("gradients") == 4 * numbers
    assert expected.of("optimizer") == 8 * numbers
    assert set(got.parts) == set(expected.parts)
    assert {"model.layers", "model.embed_tokens"} < set(got.parts)
    assert got.parts["model.layers"].activations > 0.5 * got.of("activations")


def test_segments_are_all_alive_or_one_at_a_time():
    model = build()
    one, all_of_them, kept = (
        estimate(model, loss_of(model), **how)
        for how in ({}, {"times": 5}, {"times": 5, "kept": 1, "memory_bytes": 10})
    )
    saved = one.of("activations")
    assert all_of_them.of("activations") == 5 * saved
    assert all_of_them.peak - one.peak == 4 * saved
    assert kept.of("activations") == saved + 50
    assert kept.parts["memories"].activations == 50
    assert kept.peak == one.peak + 50
    assert all(p.grad is None for p in model.parameters())


def squared(layer, x):
    return layer(x).square()


def test_a_checkpoint_saves_its_input_and_peaks_within():
    """Against counting by hand: a chain of linear layers and squares."""
    layers = nn.ModuleList([nn.Linear(8, 8, bias=False) for _ in range(4)])

    start = torch.ones(2, 8, requires_grad=True)

    def loss(how):
        x = start
        for layer in layers:
            step = partial(squared, layer)
            x = checkpoint(step, x, use_reentrant=False) if how else step(x)
        return x.sum()

    sizes = {}
    for how in (False, True):
        with Live(layers) as live:
            total = loss(how)
            saved = live.live
            total.backward()
        sizes[how] = (saved, live.peak)
    row = 2 * 8 * 4
    # Plain: each product (the square's input) and each square but the last (the next product's input); the sum.
    assert sizes[False][0] == 7 * row + 4
    assert sizes[True][0] == 3 * row + 4
    assert sizes[True][1] <= 5 * row + 4
    assert live.parts.total() == live.live


def test_optimizers_by_their_own_state():
    model = build()
    of = {name: estimate(model, loss_of(model), optimizer=name) for name in OPTIMIZERS}
    assert of["sgd"].of("optimizer") == of["lomo"].of("optimizer") == 0
    assert of["sgd"].of("gradients") == of["adamw"].of("gradients")
    assert 0 < of["adalomo"].of("optimizer") < 0.1 * of["adamw"].of("optimizer")
    with pytest.raises(InputError, match="expected one of adamw"):
        estimate(model, loss_of(model), optimizer="adam")


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("make", [Lomo, AdaLomo])
@pytest.mark.parametrize("times", [1, 3, 8])
def test_deferred_gradients_are_what_is_kept_of_them(make, times, tied):
    shape = {"hidden_size": 256, "intermediate_size": 512, "vocab_size": 1000, "tie_word_embeddings": tied}
    with fake():
        model = build(**shape)
        expected = estimate(model, loss_of(model), optimizer=make.__name__.lower(), times=times)
    model = build(**shape)
    once = loss_of(model)
    got = measure(model, make(model.parameters(), lr=1e-3, defer=model), lambda: sum(once() for _ in range(times)))
    for name, part in expected.parts.items():
        if name != UPDATE:
            assert part.gradients == got.parts[name].gradients
    # What updates take besides depends on which rows of an embedding come together: all, in these ids.
    assert got.of("gradients") == pytest.approx(expected.of("gradients"), rel=0.07)
    assert got.of("optimizer") == expected.of("optimizer")
    share = expected.of("gradients") / estimate(model, once).of("gradients")
    assert {1: 0.25, 3: 0.75, 8: 0.9}[times] < share < {1: 0.5, 3: 1.1, 8: 1.2}[times]


def test_factors_are_counted_in_the_dtype_of_autocast():
    model = build(hidden_size=256, intermediate_size=512)

    def gradients(dtype):
        once = loss_of(model)

        def loss():
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                return once()

        kept = estimate(model, loss, optimizer="lomo").parts["model.layers"].gradients
        opt = Lomo(model.parameters(), lr=1e-3, defer=model)
        got = measure(model, opt, loss).parts["model.layers"].gradients
        opt.close()
        return kept, got

    (wide, wide_got), (half, half_got) = gradients(torch.float32), gradients(torch.bfloat16)
    assert wide == wide_got
    assert half == half_got
    assert half < 0.6 * wide


def test_a_way_to_free_gradients_that_is_none():
    model = build()
    with pytest.raises(InputError, match="expected one of deferred, early, layers, got 'late'"):
        estimate(model, loss_of(model), optimizer="lomo", freeing="late")


def in_nf4(name, parameter):
    return NF4_BITS if parameter.dim() == 2 and "layers" in name else None


def test_seventy_billion_parameters_take_no_memory():
    config = {
        "hidden_size": 8192,
        "intermediate_size": 28_672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
    }
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with fake():
            model = build(**config).requires_grad_(False)
            model.model.layers[0].input_layernorm.requires_grad_(True)
            whole = estimate(model, loss_of(model))
            small = estimate(
                model, loss_of(model), bits=lambda name, p: NF4_BITS if p.dim() == 2 and "layers" in name else None
            )
    finally:
        torch.set_default_dtype(before)
    assert whole.of("parameters") == pytest.approx(70_553_706_496 * 2, rel=1e-6)
    assert whole.of("gradients") == 2 * 8192
    linear = 80 * (2 * 8192 * 8192 + 2 * 1024 * 8192 + 3 * 8192 * 28_672)
    saved = whole.of("parameters") - small.of("parameters")
    assert saved == pytest.approx(linear * (2 - NF4_BITS / 8), rel=1e-6)


def test_a_model_with_adapters_is_made_on_the_meta_device():
    config = LoraConfig(r=4, target_modules="all-linear")
    with torch.device("meta"):
        model = get_peft_model(build(tie_word_embeddings=True), config, low_cpu_mem_usage=True)
    with fake():
        give_fake(model)
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
        expected = estimate(model, loss_of(model))
    model = get_peft_model(build(tie_word_embeddings=True), config)
    got = measure(model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3), loss_of(model))
    for kind in ("parameters", "gradients"):
        assert got.of(kind) == expected.of(kind)
    assert got.peak == pytest.approx(expected.peak, rel=0.02)
    assert expected.of("gradients") < 0.2 * expected.of("parameters")


def test_parts():
    assert part_of("model.layers.31.mlp.up_proj.weight") == "model.layers"
    assert part_of("model.layers.3") == "model.layers"
    assert part_of("model.embed_tokens.weight") == "model.embed_tokens"
    assert part_of("lm_head") == "lm_head"
    assert part_of("base_model.model.backbone.encoder.layer.0.out.lora_A.default.weight") == "backbone.encoder.layer"
    assert part_of("") == ""


def test_the_table_adds_up():
    model = build()
    found = estimate(model, loss_of(model), times=3)
    lines = found.table().splitlines()
    assert lines[0].split() == [*footprint.KINDS, "total"]
    numbers = [[float(x.replace(",", "")) for x in line.split()[-5:]] for line in lines[1:-1]]
    *parts, every = numbers
    for column in range(5):
        assert sum(row[column] for row in parts) == pytest.approx(every[column], abs=0.06 * len(parts))
    assert f"{found.total / 1e6:,.1f} MB" in lines[-1]
    assert len({len(line) for line in lines[:-1]}) == 1
