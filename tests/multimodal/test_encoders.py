"""Towers: features are transformers' own to the bit, space does not grow, and bad input is refused in one line."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModel, CLIPConfig, CLIPModel, CLIPTextConfig, SiglipConfig, SiglipModel, SiglipTextConfig

from multimodal import encoders
from multimodal.encoders import freeze, global_features, load_tower, patch_features, patches_of, thaw, trains
from rmt.errors import InputError
from tests.multimodal.towers import images, llava, tower, vision_config


def into_projector(model, pixels):
    """What transformers hands to its projector."""
    seen = []
    handle = model.multi_modal_projector.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.get_image_features(pixel_values=pixels)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("layer", [-2, -1, [0], 1, [-2, 1], [-1, -3, 2]])
@pytest.mark.parametrize("strategy", ["default", "full"])
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_features_are_those_of_transformers_bit_for_bit(kind, strategy, layer):
    model = llava(kind, vision_feature_layer=layer, vision_feature_select_strategy=strategy)
    pixels = images()
    got = patch_features(model.vision_tower, pixels, layer, strategy)
    assert torch.equal(got, into_projector(model, pixels))
    width = 16 * (1 if isinstance(layer, int) else len(layer))
    assert got.shape == (3, patches_of(model.vision_tower.config, strategy), width)


@pytest.mark.parametrize("kind", ["clip", "siglip", "dinov2"])
def test_other_releases_of_transformers_keep_all_states(kind, monkeypatch):
    net, pixels = tower(kind), images()
    expected = net(pixels, output_hidden_states=True).hidden_states
    for by_number in {False, encoders._BY_NUMBER}:
        monkeypatch.setattr(encoders, "_BY_NUMBER", by_number)
        assert torch.equal(patch_features(net, pixels, [1, -1], "full"), torch.cat([expected[1], expected[-1]], -1))


@pytest.mark.parametrize("kind", ["clip", "siglip", "dinov2"])
def test_gradients_are_those_of_transformers(kind):
    net, pixels = thaw(tower(kind)), images()
    weights = torch.randn(3, patches_of(net.config), 16)

    def gradients(features):
        net.zero_grad()
        (features * weights).sum().backward()
        return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}

    expected = gradients(net(pixels, output_hidden_states=True).hidden_states[-2][:, 1:])
    got = gradients(patch_features(net, pixels))
    assert got.keys() == expected.keys()
    assert len(got) > 20
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    split = gradients(patch_features(net, pixels, batch=2))
    assert all(torch.allclose(split[name], expected[name], rtol=1e-4, atol=1e-5) for name in expected)


def test_a_frozen_tower_leaves_no_graph():
    net = tower()
    assert trains(net)
    assert patch_features(net, images()).requires_grad
    assert freeze(net) is net
    assert not trains(net)
    assert not net.training
    assert not patch_features(net, images()).requires_grad
    assert not global_features(net, images(), [1]).requires_grad
    assert patch_features(net, images().requires_grad_()).requires_grad  # a gradient by pixels was asked for
    net.encoder.layers[0].mlp.fc1.weight.requires_grad_(True)  # one is enough
    assert patch_features(net, images()).requires_grad
    with torch.no_grad():
        assert not patch_features(net, images()).requires_grad
    assert thaw(freeze(net)).training
    assert all(p.requires_grad for p in net.parameters())


def test_images_are_seen_a_part_at_a_time():
    net, pixels, seen = freeze(tower()), images(7), []
    net.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    parts = patch_features(net, pixels, batch=3)
    assert seen == [3, 3, 1]
    # Another number of rows may be summed in another order.
    assert torch.allclose(parts, patch_features(net, pixels, batch=None), atol=1e-5)
    assert torch.equal(parts, torch.cat([patch_features(net, p) for p in pixels.split(3)]))
    assert seen[3:] == [7, 3, 3, 1]


def test_an_image_does_not_see_its_neighbours():
    net, pixels = freeze(tower()), images(4)
    other = torch.cat([pixels[:2], images(2)])
    assert torch.equal(patch_features(net, pixels)[:2], patch_features(net, other)[:2])


def test_the_dtype_is_the_tower_s():
    net = freeze(tower().to(torch.bfloat16))
    assert patch_features(net, images()).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert patch_features(freeze(tower()), images()).isfinite().all()


def test_global_features_are_class_tokens_or_means():
    pixels = images()
    for kind in ("clip", "dinov2"):
        net = freeze(tower(kind))
        states = net(pixels, output_hidden_states=True).hidden_states
        got = global_features(net, pixels, [1, 3, -2])
        assert torch.equal(got, torch.cat([states[1][:, 0], states[3][:, 0], states[2][:, 0]], dim=-1))
    net = freeze(tower("siglip"))
    states = net(pixels, output_hidden_states=True).hidden_states
    got = global_features(net, pixels, [-1, 0], batch=2)
    naive = torch.stack([torch.cat([sum(h[i]) / len(h[i]) for h in (states[-1], states[0])]) for i in range(3)])
    assert torch.allclose(got, naive, atol=1e-5)


def test_patches_are_counted_as_the_towers_give_them():
    for kind, strategy, count in [
        ("clip", "default", 16),
        ("clip", "full", 17),
        ("siglip", "default", 15),
        ("siglip", "full", 16),
        ("dinov2", "default", 16),
    ]:
        net = freeze(tower(kind))
        assert patches_of(net.config, strategy) == count
        assert patch_features(net, images(), strategy=strategy).shape[1] == count
    # SigLIP so400m's images are no multiple of its patches: the rest is left out.
    net = freeze(tower("siglip", image_size=14))
    assert patches_of(net.config, "full") == 16 == patch_features(net, images(size=14), strategy="full").shape[1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: patches_of(vision_config(image_size=14)), "multiple of patch_size, got 14 and 3; make it 12"),
        (lambda: patches_of(vision_config(patch_size=13)), "at least one patch_size, in pixels, got 12 and 13"),
        (lambda: patches_of(vision_config(), "cls"), "strategy: expected 'default'.*got 'cls'"),
        (lambda: patches_of(llava().config), "known family .*got model_type 'llava'"),
        (lambda: patch_features(tower(), images(size=11)), r"\(images, 3, 12, 12\).*got \(3, 3, 11, 11\) in float32"),
        (lambda: patch_features(tower(), images(channels=1)), r"got \(3, 1, 12, 12\)"),
        (lambda: patch_features(tower(), images()[0]), r"got \(3, 12, 12\)"),
        (lambda: patch_features(tower(), images().to(torch.uint8)), "got .* in uint8; prepare"),
        (lambda: patch_features(tower(), images(0)), "got no image; leave pixel_values out"),
        (lambda: patch_features(tower(), images(), 4), "layer: expected a number from -4 to 3, got 4"),
        (lambda: patch_features(tower(), images(), [-2, -5]), "layer: expected a number from -4 to 3, got -5"),
        (lambda: patch_features(tower(), images(), []), "layer: expected at least one"),
        (lambda: patch_features(tower(), images(), strategy="all"), "strategy: expected .* got 'all'"),
        (lambda: patch_features(tower(), images(), batch=0), "batch: expected 1 image or more"),
        (lambda: global_features(tower(), images(size=9), [1]), r"got \(3, 3, 9, 9\)"),
    ],
)
def test_bad_input_is_one_clear_error(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def whole(kind):
    """A whole CLIP or SigLIP model around a tiny tower."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    vision = vision_config(kind).to_dict()
    if kind == "clip":
        return CLIPModel(CLIPConfig(text_config=CLIPTextConfig(**text).to_dict(), vision_config=vision))
    return SiglipModel(SiglipConfig(text_config=SiglipTextConfig(**text).to_dict(), vision_config=vision))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_tower_is_taken_from_a_whole_model_or_its_own_folder(kind, tmp_path):
    model, pixels = whole(kind).eval(), images()
    model.save_pretrained(tmp_path / "whole")
    net = load_tower(tmp_path / "whole")
    assert type(net).__name__ == {"clip": "CLIPVisionModel", "siglip": "SiglipVisionModel"}[kind]
    assert not net.training
    assert torch.equal(patch_features(net, pixels), patch_features(model.vision_model, pixels))
    net.save_pretrained(tmp_path / "tower")
    again = load_tower(tmp_path / "tower", torch.bfloat16)
    assert again.dtype == torch.bfloat16
    assert torch.equal(patch_features(again, pixels), patch_features(net.to(torch.bfloat16), pixels))


def test_a_folder_that_lacks_a_tower_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected a folder or name of a CLIP or SigLIP model"):
        load_tower(tmp_path)
    llava().save_pretrained(tmp_path / "llava")
    with pytest.raises(InputError, match=r"known family .* got model_type 'llava'"):
        load_tower(tmp_path / "llava")
    net = tower()
    state = {k: v for k, v in net.state_dict().items() if "layer_norm1" not in k}
    net.save_pretrained(tmp_path / "less", state_dict=state)
    with pytest.raises(InputError, match="expected all weights of a CLIPVisionModel, got a file without 6 of them"):
        load_tower(tmp_path / "less")
    (tmp_path / "less" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="expected the weights of a CLIPVisionModel"):
        load_tower(tmp_path / "less")


def test_supported_families_are_those_that_transformers_builds():
    for kind, family in encoders.SUPPORTED.items():
        short = kind.removesuffix("_vision_model")
        assert type(AutoModel.from_config(vision_config(short))).__name__ == family.model
