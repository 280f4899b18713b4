"""The benchmark of images runs, and says what the shapes say."""

from __future__ import annotations

import json

import pytest
import torch


def test_a_quick_run(bench, capsys):
    images = bench("images")
    images.main(["--small", "--rounds", "1", "--hidden", "128", "--queries", "5", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert [row["dtype"] for row in told["encoding"]] == ["float32", "bfloat16"]
    assert all(row[side] > 0 for row in told["encoding"] for side in ("encode", "new", "kept", "files"))
    sizes = {row["kind"]: (row["tokens"], row["bytes"]) for row in told["projectors"]}
    assert sizes == {
        "features": (64, 64 * 64 * 2),
        "mlp": (64, 64 * 128 * 2),
        "linear": (64, 64 * 128 * 2),
        "pooled": (16, 16 * 128 * 2),
        "resampler": (5, 5 * 128 * 2),
    }
    images.main(["--small", "--rounds", "1", "--dtypes", "float32"])
    assert "pooled" in capsys.readouterr().out


def test_sides_do_what_they_say(bench, tmp_path):
    """The kept side and the files' side encode nothing; the other two encode every image of a round."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    from multimodal.encoders import freeze

    images, seen = bench("images"), []
    tower = freeze(CLIPVisionModel(CLIPVisionConfig(**images.SMALL)))
    tower.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    seconds = images.sides(tower, images.SMALL["image_size"], count=3, batch=3, rounds=2, folder=str(tmp_path))
    assert {side: len(times) for side, times in seconds.items()} == dict.fromkeys(("encode", "new", "kept", "files"), 2)
    assert seen == [3] * 9  # three rounds of files' own writing, encode, new


def test_llava_s_shape(bench):
    rows = {row["kind"]: row for row in bench("images").projector_rows(bench("images").LARGE, 4096, 2, 64)}
    assert (rows["mlp"]["tokens"], rows["pooled"]["tokens"], rows["resampler"]["tokens"]) == (576, 144, 64)
    assert rows["mlp"]["parameters"] == rows["pooled"]["parameters"] == 1024 * 4096 + 4096 * 4096 + 2 * 4096
    assert rows["linear"]["parameters"] == 1024 * 4096 + 4096
    assert rows["features"]["bytes"] == pytest.approx(1.18e6, rel=0.01)
    assert torch.get_default_device().type == "cpu"
