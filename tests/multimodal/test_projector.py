"""Projectors against twins that go through images, tokens and patches one by one."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from multimodal import projector
from multimodal.encoders import freeze, patch_features
from multimodal.projector import KINDS, Linear, Pooled, Resampler, build, initialise, new_projector, tokens_per_image
from rmt.errors import InputError
from tests.multimodal.towers import images, llava, llava_config

PATCHES = 16


def made(kind, **changes):
    """A projector of 4 x 4 patches, pooled to 2 x 2 or resampled to 3, with parameters of all sizes."""
    net = new_projector(kind, llava_config(**changes), pool=2, queries=3)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p), alpha=0.1)
    return net


def mlp(net, x):
    return net.linear_2.weight @ F.gelu(net.linear_1.weight @ x + net.linear_1.bias) + net.linear_2.bias


def naive_pooled(net, features):
    side = math.isqrt(features.shape[1])
    found = []
    for image in features:
        for row in range(0, side, net.pool):
            for column in range(0, side, net.pool):
                near = [
                    image[r * side + c]
                    for r in range(row, min(row + net.pool, side))
                    for c in range(column, min(column + net.pool, side))
                ]
                found.append(mlp(net, sum(near) / len(near)))
    return torch.stack(found).unflatten(0, (len(features), -1))


def norm(layer, x):
    return (x - x.mean()) / (x.var(unbiased=False) + layer.eps).sqrt() * layer.weight + layer.bias


def naive_resampler(net, features):
    found = []
    for image in features:
        x = list(net.queries.weight)
        for block in net.blocks:
            asking = [norm(block.query_norm, one) for one in x]
            seen = [norm(block.feature_norm, patch) for patch in image] + asking
            keys, values = [block.key.weight @ s for s in seen], [block.value.weight @ s for s in seen]
            size = len(x[0]) // block.heads
            for i, one in enumerate(asking):
                query, heads = block.query.weight @ one, []
                for part in (slice(h * size, (h + 1) * size) for h in range(block.heads)):
                    weights = torch.stack([query[part] @ key[part] / size**0.5 for key in keys]).softmax(0)
                    heads.append(sum(w * value[part] for w, value in zip(weights, values, strict=True)))
                x[i] = x[i] + block.out.weight @ torch.cat(heads)
                x[i] = x[i] + block.mlp_out.weight @ F.gelu(block.mlp_in.weight @ norm(block.mlp_norm, x[i]))
        found.append(torch.stack([net.output.weight @ norm(net.norm, one) + net.output.bias for one in x]))
    return torch.stack(found)


NAIVE = {
    "linear": lambda net, f: torch.stack(
        [torch.stack([net.linear.weight @ p + net.linear.bias for p in i]) for i in f]
    ),
    "mlp": lambda net, f: torch.stack([torch.stack([mlp(net, patch) for patch in image]) for image in f]),
    "pooled": naive_pooled,
    "resampler": naive_resampler,
}


def agree(net, naive, features):
    """Outputs and all gradients of both, to what float64 rounds."""
    net, sides = net.double(), []
    for function in (net, lambda x: naive(net, x)):
        net.zero_grad()
        x = features.double().requires_grad_()
        out = function(x)
        out.pow(3).sum().backward()
        sides.append([out, x.grad, *[p.grad.clone() for p in net.parameters()]])
    assert len(sides[0]) > 3
    assert all(g.abs().max() > 0 for g in sides[0])
    for got, expected in zip(*sides, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_gradients_are_a_naive_twin_s(kind):
    net, features = made(kind), torch.randn(2, PATCHES, 16)
    assert net(features).shape == (2, tokens_per_image(kind, PATCHES, 2, 3), 24)
    agree(net, NAIVE[kind], features)


def test_a_resampler_has_heads_of_64_channels():
    config = llava_config(vision_feature_layer=[-2] * 12)  # 192 wide
    net = Resampler(config, 2, depth=1)
    assert [block.heads for block in net.blocks] == [3]
    net.reset_parameters(1.0)
    agree(net, naive_resampler, torch.randn(1, 3, 192))


def test_mlp_is_transformers_own_and_pooled_takes_its_weights():
    model = llava(vision_feature_layer=[-2, 1])
    net = new_projector("mlp", model.config)
    assert type(net) is LlavaMultiModalProjector is type(model.multi_modal_projector)
    net.load_state_dict(model.multi_modal_projector.state_dict())
    pixels = images()
    features = patch_features(freeze(model.vision_tower), pixels, [-2, 1])
    expected = torch.stack(model.get_image_features(pixel_values=pixels).pooler_output)
    assert torch.equal(net(features), expected)
    pooled = new_projector("pooled", model.config, pool=1)
    pooled.load_state_dict(model.multi_modal_projector.state_dict())
    assert torch.allclose(pooled(features), expected, atol=1e-6)


def test_every_kind_stands_in_transformers_place():
    for kind in KINDS:
        model = llava()
        model.multi_modal_projector = made(kind)
        count = tokens_per_image(kind, PATCHES, 2, 3)
        ids = torch.tensor([[5] + [49] * count + [6]]).repeat(2, 1)
        out = model(input_ids=ids, pixel_values=images(2))
        assert out.last_hidden_state.shape == (2, count + 2, 24)
        assert all(
            f"multi_modal_projector.{name}" in model.state_dict() for name in model.multi_modal_projector.state_dict()
        )


def test_pooling_knows_the_grid():
    net, features = made("pooled"), torch.randn(1, PATCHES, 16)
    order = torch.arange(PATCHES).view(4, 4)
    within = order.clone()
    within[:2, :2] = within[:2, :2].flip(0, 1)  # patches of the first square change places: nothing to see
    assert torch.allclose(net(features[:, within.flatten()]), net(features), atol=1e-6)
    # Squares change places: so do embeddings.
    assert torch.allclose(net(features[:, order.flip(0).flatten()]), net(features)[:, [2, 3, 0, 1]], atol=1e-6)
    # As a row of patches, without a grid, it would be another thing.
    assert not torch.allclose(net(features)[:, 0], mlp(net, features[0, :4].mean(0)), atol=1e-3)


def test_a_resampler_does_not_know_the_order_of_patches():
    net, features = made("resampler"), torch.randn(2, PATCHES, 16)
    assert torch.allclose(net(features[:, torch.randperm(PATCHES)]), net(features), atol=1e-5)
    assert not torch.allclose(net(features[:, :-1]), net(features), atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_images_do_not_see_each_other(kind):
    net, features = made(kind), torch.randn(3, PATCHES, 16)
    assert torch.allclose(net(features)[1:2], net(features[1:2]), atol=1e-6)


def test_a_grid_that_a_pool_does_not_divide_is_padded_only_when_asked():
    assert tokens_per_image("pooled", 16, 3, pad=True) == 4
    net = Pooled(llava_config(), 3, pad=True)
    net.reset_parameters(1.0)
    assert net(torch.randn(1, 16, 16)).shape == (1, 4, 24)
    agree(net, naive_pooled, torch.randn(2, 16, 16))
    with pytest.raises(InputError, match=r"divisor of the grid's side of 4 patches, got 3; take one of \[2, 4\]"):
        Pooled(llava_config(), 3)(torch.randn(1, 16, 16))


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_start_at_the_size_of_words(kind):
    config = llava_config(vision_feature_layer=[-2] * 16)  # wide enough for a mean
    config.text_config.hidden_size = 512
    net = new_projector(kind, config, pool=1, queries=16)
    for std in (0.02, 0.5):
        if std != 0.02:  # what the configuration says is the start
            initialise(net, std)
        out = net(torch.randn(4, PATCHES, 256)).detach()
        assert float(out.std()) == pytest.approx(std, rel=0.1)
        assert out.mean().abs() < std / 10


def test_initialising_leaves_what_a_checkpoint_brought():
    for kind in KINDS:
        net = made(kind)
        before = {name: p.clone() for name, p in net.named_parameters()}
        kept = next(iter(before))
        net.get_parameter(kept)._is_hf_initialized = True
        initialise(net, 0.02, initialization)
        for name, p in net.named_parameters():
            assert torch.equal(p, before[name]) == (name == kept), name


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_and_autocast(kind):
    net, features = made(kind), torch.randn(2, PATCHES, 16)
    expected = net(features)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = net(features.bfloat16())
        mixed.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in net.parameters())
    half = net.bfloat16()(features.bfloat16())
    assert half.dtype == torch.bfloat16
    for got in (mixed, half):  # 8 bits of mantissa through a few layers
        assert (got.float() - expected).abs().max() < 0.06 * expected.abs().max()


def test_build_reads_a_configuration():
    config = SimpleNamespace(projector="pooled", projector_pool=4, projector_queries=5, llava_config=llava_config())
    assert build(config).pool == 4
    config.projector = "resampler"
    assert build(config).queries.num_embeddings == 5
    config.projector = "linear"
    assert isinstance(build(config), Linear)
    config.projector = "mlp"
    assert isinstance(build(config), nn.Module)
    assert new_projector("pooled", llava_config("siglip")).pool == 2
    assert {kind for kind in KINDS if f"``{kind}``" in projector.__doc__} == set(KINDS)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: new_projector("mpl", llava_config()), "expected one of mlp, linear, pooled, resampler, got 'mpl'"),
        (lambda: new_projector("pooled", llava_config(), pool=3), "divisor of the grid's side of 4 patches, got 3"),
        (lambda: new_projector("pooled", llava_config(), pool=0), "got 0; take one of"),
        (lambda: new_projector("pooled", llava_config(), pool=5, pad=True), "got 5; take one of"),
        (lambda: new_projector("resampler", llava_config(), queries=0), "projector_queries: expected 1 or more, got 0"),
        (
            lambda: new_projector("pooled", llava_config(vision_feature_select_strategy="full")),
            "square grid, got 17 of them; set vision_feature_select_strategy to 'default'",
        ),
        (lambda: made("pooled")(torch.randn(1, 15, 16)), "square grid, got 15"),
    ],
)
def test_bad_input_is_one_clear_error(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
