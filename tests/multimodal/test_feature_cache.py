"""The cache: an image is encoded once, what it gives is what the tower gives, and nothing stale is ever found."""

from __future__ import annotations

import copy
import gc
import json
import threading

import pytest
import torch
from torch import nn

from multimodal.encoders import freeze, global_features, patch_features, thaw
from multimodal.feature_cache import FeatureCache, digest, fingerprint, read
from rmt.errors import InputError
from tests.multimodal.towers import images, tower

ONE = 16 * 16 * 4  # bytes of an image's features: 16 patches of 16 float32


class Counted:
    """A frozen tower and how many images it has seen."""

    def __init__(self, kind="clip", **changes):
        self.net, self.seen = freeze(tower(kind, **changes)), 0
        self.net.register_forward_pre_hook(self.count)

    def count(self, _, args):
        self.seen += len(args[0])


@pytest.fixture
def counted():
    return Counted()


def test_each_image_is_encoded_once_and_comes_in_order(counted):
    cache, pixels = FeatureCache(None), images(4)
    expected = patch_features(counted.net, pixels, batch=1)
    counted.seen = 0
    for order, seen in [([0, 1, 0], 2), ([2, 1, 0, 2], 3), ([3, 3, 3], 4), ([0, 1, 2, 3], 4)]:
        got = cache.features(counted.net, pixels[order])
        assert torch.equal(got, expected[order])
        assert not got.requires_grad
        assert counted.seen == seen
    assert (cache.hits, cache.misses, len(cache), cache.used_bytes) == (10, 4, 4, 4 * ONE)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_what_is_given_is_the_caller_s(kind):
    counted, cache, pixels = Counted(kind), FeatureCache(None), images(2)
    expected = patch_features(counted.net, pixels, [-1, -2], "full", batch=1)
    for _ in range(3):
        got = cache.features(counted.net, pixels, [-1, -2], "full")
        assert torch.equal(got, expected)
        got.zero_()


def test_many_images_at_once(counted):
    cache, pixels, parts = FeatureCache(None, batch=3), images(8), []
    counted.net.register_forward_pre_hook(lambda _, args: parts.append(len(args[0])))
    # The second asks for six that are missing and two that are not.
    first, both = cache.features(counted.net, pixels[:2]), cache.features(counted.net, pixels)
    assert parts == [2, 3, 3]
    assert torch.equal(both[:2], first)
    assert torch.allclose(both, patch_features(counted.net, pixels), atol=1e-5)
    assert torch.equal(both[2:5], patch_features(counted.net, pixels[2:5]))
    # What is kept of a part is its own bytes, not a view of all of it.
    assert all(kept.untyped_storage().nbytes() == kept.nbytes == ONE for kept in cache._kept.values())


def test_global_features_are_kept_apart(counted):
    cache, pixels = FeatureCache(None), images(3)
    for _ in range(2):
        assert torch.equal(
            cache.global_features(counted.net, pixels, [1, -2]), global_features(counted.net, pixels, [1, -2], batch=1)
        )
        assert torch.equal(
            cache.features(counted.net, pixels, [1, -2]), patch_features(counted.net, pixels, [1, -2], batch=1)
        )
    assert cache.misses == 6


def test_least_recently_used_goes_first(counted):
    cache, pixels = FeatureCache(2 * ONE), images(3)

    def ask(*order):
        before = counted.seen
        cache.features(counted.net, pixels[list(order)])
        assert cache.used_bytes <= 2 * ONE
        return counted.seen - before

    assert ask(0, 1) == 2
    assert ask(0) == 0
    assert ask(2) == 1  # 1 goes
    assert ask(0, 2) == 0
    assert ask(1) == 1  # 0 goes
    assert ask(0) == 1
    assert len(cache) == 2
    small = FeatureCache(ONE - 1)
    assert torch.equal(small.features(counted.net, pixels), patch_features(counted.net, pixels, batch=1))
    assert (len(small), small.used_bytes) == (0, 0)
    cache.clear()
    assert (len(cache), cache.used_bytes) == (0, 0)
    assert ask(0) == 1


def test_nothing_stale_is_found(counted):
    """Each of these gives other features, so each must miss."""
    cache, pixels, net = FeatureCache(None), images(1), counted.net

    def agrees(pixels=pixels, layer=-2, strategy="default", misses=1):
        before = cache.misses
        got = cache.features(net, pixels, layer, strategy)
        assert cache.misses - before == misses
        assert torch.equal(got, patch_features(net, pixels, layer, strategy, batch=1))

    agrees()
    agrees(layer=2, misses=0)  # of three layers, the same as -2
    agrees(layer=[-2], misses=0)
    agrees(layer=-1)
    agrees(strategy="full")
    agrees(layer=[1, 2])
    agrees(layer=[2, 1])
    agrees(pixels + 1e-7 * pixels.abs().max())
    agrees(pixels.double())
    agrees(pixels.transpose(2, 3))
    with torch.autocast("cpu", torch.bfloat16):
        agrees()
    with torch.no_grad():
        net.encoder.layers[0].mlp.fc1.weight[0, 0] += 1
    agrees()
    agrees(misses=0)
    net.load_state_dict({k: v * 1.5 for k, v in net.state_dict().items()})
    agrees()
    net.encoder.layers[1].mlp.fc1 = nn.Linear(16, 32).requires_grad_(False)
    agrees()
    net.config._attn_implementation = "eager"
    agrees()
    net.to(torch.bfloat16)
    agrees()


def test_a_copy_of_a_tower_finds_what_the_tower_left(counted):
    cache, pixels = FeatureCache(None), images(2)
    cache.features(counted.net, pixels)
    twin = copy.deepcopy(counted.net)
    twin.config.architectures, twin.config._name_or_path = ["Other"], "elsewhere"
    assert fingerprint(twin) == fingerprint(counted.net)
    cache.features(twin, pixels)
    assert cache.misses == 2
    del twin
    gc.collect()
    assert len(cache._towers) == 1  # towers are not kept alive


def test_digests_tell_shape_and_dtype():
    ones = torch.zeros(3, 4, 2)
    all_different = [ones, ones.view(3, 2, 4), ones.bfloat16(), ones.half(), ones + 1, torch.zeros(3, 4, 3)]
    assert len({digest(x) for x in all_different}) == len(all_different)
    pixels = images(1)[0]
    assert digest(pixels.transpose(0, 1)) == digest(pixels.transpose(0, 1).contiguous()) != digest(pixels)


def test_files_serve_another_process(counted, tmp_path):
    folder, pixels = tmp_path / "a" / "b", images(3)
    first = FeatureCache(None, folder).features(counted.net, pixels)
    assert sorted(p.suffix for p in folder.iterdir()) == [".safetensors"] * 3  # nothing half-written beside
    counted.seen = 0
    cache = FeatureCache(0, folder)
    assert torch.equal(cache.features(counted.net, pixels), first)
    assert (counted.seen, cache.hits, cache.used_bytes) == (0, 3, 0)
    half = freeze(copy.deepcopy(counted.net).to(torch.bfloat16))
    for _ in range(2):
        got = FeatureCache(None, folder).features(half, pixels)
        assert torch.equal(got, patch_features(half, pixels, batch=1))
    assert len(list(folder.iterdir())) == 6


def cut(path):
    path.write_bytes(path.read_bytes()[:-5])


def empty(path):
    path.write_bytes(b"")


def zero_the_end(path):  # as a machine leaves it that stopped before the blocks were written
    path.write_bytes(path.read_bytes()[:-64] + bytes(64))


def no_file_of_ours(path):
    path.write_bytes(json.dumps({"a": 1}).encode())


def header_of_nothing(path):
    path.write_bytes((2).to_bytes(8, "little") + b"[]" + bytes(64))


def test_a_folder_keeps_apart_what_was_encoded_alone(counted, tmp_path):
    pixels = images(3)
    FeatureCache(None, tmp_path, batch=3).features(counted.net, pixels)
    alone = FeatureCache(None, tmp_path)
    assert torch.equal(alone.features(counted.net, pixels), patch_features(counted.net, pixels, batch=1))
    assert (alone.hits, alone.misses) == (0, 3)
    more = FeatureCache(None, tmp_path, batch=2)
    more.features(counted.net, pixels)
    assert (more.hits, more.misses) == (3, 0)


@pytest.mark.parametrize("spoil", [cut, empty, zero_the_end, no_file_of_ours, header_of_nothing])
def test_a_spoilt_file_is_made_again(spoil, counted, tmp_path):
    pixels = images(1)
    expected = FeatureCache(None, tmp_path).features(counted.net, pixels)
    (path,) = tmp_path.iterdir()
    assert torch.equal(read(path, path.stem), expected[0])
    spoil(path)
    assert read(path, path.stem) is None
    for seen in (2, 2):
        assert torch.equal(FeatureCache(None, tmp_path).features(counted.net, pixels), expected)
        assert counted.seen == seen
    assert torch.equal(read(path, path.stem), expected[0])


def test_another_tower_s_file_is_not_taken(counted, tmp_path):
    other, pixels = Counted(), images(1)
    FeatureCache(None, tmp_path).features(other.net, pixels)
    (theirs,) = tmp_path.iterdir()
    expected = FeatureCache(None, tmp_path).features(counted.net, pixels)
    assert torch.equal(expected, patch_features(counted.net, pixels, batch=1))
    (ours,) = set(tmp_path.iterdir()) - {theirs}
    ours.write_bytes(theirs.read_bytes())  # even under our name
    assert torch.equal(FeatureCache(None, tmp_path).features(counted.net, pixels), expected)


def test_threads_may_share_it(counted):
    pixels, wrong = images(6), []
    cache = FeatureCache(3 * ONE)
    expected = patch_features(counted.net, pixels, batch=1)

    def work(number):
        order = torch.randperm(6, generator=torch.Generator().manual_seed(number)).tolist()
        for _ in range(5):
            if not torch.equal(cache.features(counted.net, pixels[order]), expected[order]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert cache.hits + cache.misses == 4 * 5 * 6
    assert cache.used_bytes == sum(t.nbytes for t in cache._kept.values()) <= 3 * ONE


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c, t: c.features(thaw(t), images()), "expected a frozen tower"),
        (lambda c, t: c.global_features(thaw(t), images(), [1]), "expected a frozen tower"),
        (lambda c, t: c.features(t, images(size=9)), r"got \(3, 3, 9, 9\)"),
        (lambda c, t: c.features(t, images(), 4), "layer: expected a number from -4 to 3, got 4"),
        (lambda c, t: c.features(t, images(), -2, "all"), "strategy: expected"),
        (lambda c, t: c.features(t, images().requires_grad_()), "want no gradient"),
        (
            lambda c, t: c.features(freeze(tower(attention_dropout=0.5)).train(), images()),
            "with attention_dropout = 0.5",
        ),
        (lambda c, t: FeatureCache(-1), "max_bytes: expected 0 or more"),
        (lambda c, t: FeatureCache(1, batch=0), "batch: expected 1 image or more"),
        (lambda c, t: FeatureCache(1, __file__), "expected a folder for features"),
    ],
)
def test_bad_input_is_one_clear_error(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call(FeatureCache(None), freeze(tower()))
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_gone_is_one_clear_error(counted, tmp_path):
    cache = FeatureCache(None, tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(InputError, match="expected a path that can be written, got No such file"):
        cache.features(counted.net, images(1))


def test_training_mode_without_dropout_is_no_matter(counted):
    pixels = images(1)
    expected = FeatureCache(None).features(counted.net, pixels)
    assert torch.equal(FeatureCache(None).features(counted.net.train(), pixels), expected)
