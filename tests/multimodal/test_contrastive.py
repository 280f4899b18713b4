"""Losses against loops over pairs, outputs and gradients, and against transformers where it has them."""

from __future__ import annotations

import math

import pytest
import torch

from multimodal.contrastive import Scale, clip_loss, siglip_loss
from multimodal.encoders import patch_features
from rmt.errors import InputError
from tests.multimodal.towers import images as some_images
from tests.multimodal.towers import tower, whole


def unit(x):
    return x / x.pow(2).sum().sqrt()


def naive_clip(images, texts, log_scale, same):
    scale, count, total = min(log_scale.exp(), torch.tensor(100.0)), len(images), 0.0
    z = [[scale * (unit(x) * unit(y)).sum() for y in texts] for x in images]
    for i in range(count):
        right = [j for j in range(count) if same[i] == same[j]]
        row = sum(z[i][j].exp() for j in range(count))
        column = sum(z[j][i].exp() for j in range(count))
        total = total - sum((z[i][j].exp() / row).log() for j in right) / len(right)
        total = total - sum((z[j][i].exp() / column).log() for j in right) / len(right)
    return total / count / 2


def naive_siglip(images, texts, log_scale, bias, same):
    total = 0.0
    for i, x in enumerate(images):
        for j, y in enumerate(texts):
            z = 1.0 if same[i] == same[j] else -1.0
            total = total + (1 / (1 + (z * (-log_scale.exp() * (unit(x) * unit(y)).sum() - bias)).exp())).log()
    return -total / len(images)


def agree(ours, naive, *inputs):
    """The loss and the gradient of each input; the naive side in float64, as it has no logarithm of a sum."""
    found = []
    for function, dtype in ((ours, torch.float32), (naive, torch.float64)):
        leaves = [x.to(dtype, copy=True).requires_grad_() for x in inputs]
        loss = function(*leaves)
        loss.backward()
        found.append([loss.detach().float(), *[x.grad.float() for x in leaves]])
    assert all(g.abs().max() > 0 for g in found[1])
    for got, expected in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("same", [None, [3, 1, 3, 0, 1, 3]])
@pytest.mark.parametrize("scale", [1.0, 14.3, 60.0])
def test_clip_s_loss_is_a_loop_over_pairs(same, scale):
    numbers = None if same is None else torch.tensor(same)
    agree(
        lambda x, y, s: clip_loss(x, y, s, numbers),
        lambda x, y, s: naive_clip(x, y, s, same or list(range(6))),
        3 * torch.randn(6, 8),
        torch.randn(6, 8),
        torch.tensor(math.log(scale)),
    )


@pytest.mark.parametrize("same", [None, [3, 1, 3, 0, 1, 3]])
@pytest.mark.parametrize(("scale", "bias"), [(10.0, -10.0), (3.0, 1.0)])
def test_siglip_s_loss_is_a_loop_over_pairs(same, scale, bias):
    numbers = None if same is None else torch.tensor(same)
    agree(
        lambda x, y, s, b: siglip_loss(x, y, s, b, numbers),
        lambda x, y, s, b: naive_siglip(x, y, s, b, same or list(range(6))),
        3 * torch.randn(6, 8),
        torch.randn(6, 8),
        torch.tensor(math.log(scale)),
        torch.tensor(bias),
    )


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_both_losses_are_transformers(kind):
    model = whole(kind).eval()
    out = model(input_ids=torch.randint(3, 50, (4, 6)), pixel_values=some_images(4), return_loss=True)
    if kind == "clip":
        got = clip_loss(out.image_embeds, out.text_embeds, model.logit_scale)
    else:
        got = siglip_loss(out.image_embeds, out.text_embeds, model.logit_scale.squeeze(), model.logit_bias.squeeze())
    torch.testing.assert_close(got, out.loss)


def test_the_scale_stops_at_100_and_can_come_back():
    x, y = torch.randn(4, 8), torch.randn(4, 8)
    scale = Scale()
    assert scale.log_scale.exp().item() == pytest.approx(1 / 0.07)
    with torch.no_grad():
        scale.log_scale.fill_(math.log(100.0) + 1)
    assert scale(x, y) == clip_loss(x, y, torch.tensor(math.log(100.0)))
    scale(x, y).backward()
    assert scale.log_scale.grad == 0  # stuck, but for
    scale.clip_()
    assert scale.log_scale.exp().item() == pytest.approx(100.0, rel=1e-5)
    scale.log_scale.grad = None
    scale(x, y).backward()
    assert scale.log_scale.grad > 0  # these embeddings are wrong, so less is better
    below = Scale()
    before = below.log_scale.item()
    below.clip_()
    assert below.log_scale.item() == before


def test_siglip_s_scale_has_a_bias_and_no_bound():
    scale = Scale("siglip")
    assert (scale.log_scale.exp().item(), scale.bias.item()) == pytest.approx((10.0, -10.0))
    with torch.no_grad():
        scale.log_scale.fill_(6.0)
    scale.clip_()
    assert scale.log_scale == 6
    x, y = torch.randn(4, 8), torch.randn(4, 8)
    assert scale(x, y) == siglip_loss(x, y, scale.log_scale, scale.bias)
    with pytest.raises(InputError, match="kind: expected 'clip' or 'siglip', got 'cosine'"):
        Scale("cosine")


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_half_precision_is_left_to_the_towers(kind):
    x, y, scale = torch.randn(6, 8).bfloat16(), torch.randn(6, 8).bfloat16(), Scale(kind)
    expected = scale(x.float(), y.float())
    assert torch.equal(scale(x, y), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(scale(x, y), expected)
    with pytest.raises(InputError, match="at least one image with its text"):
        scale(x[:0], y[:0])


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_tower_learns_which_image_is_which(kind):
    """Six images, four things to say: after some steps each image is nearest to what is said of it."""
    pixels, said = some_images(6), torch.tensor([0, 1, 2, 3, 0, 1])
    net, words, scale = tower().train(), torch.nn.Embedding(4, 16), Scale(kind)
    optimizer = torch.optim.AdamW([*net.parameters(), *words.parameters(), *scale.parameters()], lr=3e-3)
    losses = []
    for _ in range(40):
        loss = scale(patch_features(net, pixels, -1).mean(dim=1), words(said), said)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scale.clip_()
        losses.append(loss.item())
    with torch.no_grad():
        seen = torch.nn.functional.normalize(patch_features(net, pixels, -1).mean(dim=1), dim=-1)
        nearest = (seen @ torch.nn.functional.normalize(words.weight, dim=-1).T).argmax(dim=1)
    assert torch.equal(nearest, said)
    assert losses[-1] < losses[0] * 0.7
