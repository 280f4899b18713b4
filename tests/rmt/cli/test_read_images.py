"""``rmt read``, ``rmt ask`` and ``rmt info`` with a model that sees, and what becomes of images without one."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import LlamaForCausalLM, LlavaProcessor

from multimodal.adapter import AdapterConfig, LlamaAdapterRMT, adapter_parameters, save_adapter
from rmt.memory import Memory
from tests.multimodal import album_kit as kit
from tests.rmt.cli.conftest import saved
from tests.rmt.cli.test_bad_input import one_line
from tests.rmt.tiny import llama_config


@pytest.fixture(scope="session")
def seeing(tmp_path_factory) -> str:
    """The folder of a tiny model that sees, with its processor."""
    folder = tmp_path_factory.mktemp("models") / "seeing"
    made = kit.processor()
    kit.model().save_pretrained(folder)
    processor = LlavaProcessor(image_processor=made.image_processor, tokenizer=made.tokenizer, patch_size=8)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def album(tmp_path) -> Path:
    """Forty images and some text, in the order of their names."""
    folder = tmp_path / "album"
    folder.mkdir()
    for number in range(40):
        Image.fromarray(kit.picture(number)).save(folder / f"{number}.jpg")
    (folder / "39.txt").write_text("That was all there was to see.")
    return folder


@pytest.fixture
def notes(tmp_path) -> Path:
    """Markdown that shows an image."""
    Image.fromarray(kit.picture(7)).save(tmp_path / "seven.png")
    path = tmp_path / "notes.md"
    path.write_text("The clock had stopped.\n\n![a seven in a red frame](seven.png)\n\nNobody wound it again.\n")
    return path


def test_read_then_ask(rmt, seeing, album, notes, tmp_path):
    out = tmp_path / "album.memory"
    read = rmt("read", album, "-o", out, "--model", seeing, "--json", "--no-progress")
    assert read.exit_code == 0, read.output
    facts, memory = json.loads(read.stdout), Memory.load(out)
    assert facts["images_read"] == 40 == int(memory.meta.extra["images"])
    assert facts["tokens_read"] == memory.meta.tokens_read > 160
    assert memory.meta.source == str(album)
    assert not (tmp_path / "album.memory.partial").exists()
    direct = kit.reader().read(album, progress=False)
    again = kit.reader(dtype="auto").read(album, progress=False)
    assert direct.meta.digest == memory.meta.digest
    assert torch.equal(again.tensors["tokens"], memory.tensors["tokens"])

    asked = rmt("ask", out, "what was in the red frame?", "and behind it?", "--model", seeing, "--json")
    assert asked.exit_code == 0, asked.output
    assert [a["question"] for a in json.loads(asked.stdout)["answers"]] == [
        "what was in the red frame?",
        "and behind it?",
    ]
    on = rmt("read", notes, "--memory", out, "-o", tmp_path / "both.memory", "--model", seeing, "--no-progress")
    assert on.exit_code == 0, on.output
    assert "with 41 images," in on.stdout
    one = rmt("read", album / "3.jpg", "-o", tmp_path / "one.memory", "--model", seeing, "--no-progress")
    assert "with 1 image," in one.stdout
    assert json.loads(rmt("info", out, "--json").stdout)["images"] == "40"


def test_info_says_what_an_image_costs(rmt, seeing):
    facts = json.loads(rmt("info", seeing, "--json").stdout)
    assert facts["class"] == "LlavaRMT"
    assert (facts["tokens_per_image"], facts["image_size"], facts["projector"]) == (4, 16, "mlp")
    assert facts["vision"] == "clip_vision_model"
    assert facts["vocabulary"] == len(kit.tokenizer())
    assert facts["executor"] == "speculative"


def test_a_broken_image_in_the_middle(rmt, seeing, album, tmp_path):
    out, whole = tmp_path / "a.memory", tmp_path / "whole.memory"
    common = ("--model", seeing, "--no-progress", "--executor", "sequential")
    assert rmt("read", album, "-o", whole, *common).exit_code == 0
    good = (album / "30.jpg").read_bytes()
    (album / "30.jpg").write_bytes(good[: len(good) // 2])
    # A group of 32 segments is not full before: nothing is kept yet.
    assert one_line(rmt("read", album, "-o", out, *common), "image 31, at token", "30.jpg: expected a whole image")
    for number in range(40, 200):
        shutil.copy(album / "1.jpg", album / f"{number}.jpg")
    shutil.move(album / "30.jpg", album / "190.jpg")
    (album / "30.jpg").write_bytes(good)
    broken = rmt("read", album, "-o", out, *common)
    assert one_line(broken, "image 191", "190.jpg: expected a whole image", "go on with --resume")
    assert one_line(rmt("read", album, "-o", out, *common), "expected no earlier run")
    (album / "190.jpg").write_bytes(good)
    resumed = rmt("read", album, "-o", out, *common, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert resumed.stdout.startswith("Going on at token")
    assert rmt("read", album, "-o", whole, *common).exit_code == 0
    assert torch.equal(Memory.load(out).tensors["tokens"], Memory.load(whole).tensors["tokens"])
    assert Memory.load(out).meta == Memory.load(whole).meta


def test_a_model_that_does_not_see(rmt, classifier, seeing, album, notes, tmp_path):
    out = tmp_path / "a.memory"
    common = ("-o", out, "--model", classifier, "--no-progress")
    for document in (album, notes, album / "3.jpg"):
        assert one_line(rmt("read", document, *common), "does not see", "--model llava-rmt", "--skip-images")
        assert not out.exists()
    assert rmt("read", notes, *common, "--skip-images").exit_code == 0
    assert Memory.load(out).meta.tokens_read > 20
    assert one_line(rmt("read", album / "3.jpg", *common, "--skip-images"), "3.jpg")
    out.unlink()
    skipped = rmt("read", notes, "-o", out, "--model", seeing, "--no-progress", "--skip-images", "--json")
    assert json.loads(skipped.stdout)["images_read"] == 0
    assert json.loads(skipped.stdout)["source"] == str(notes)


def test_wrong_input(rmt, seeing, album, tmp_path):
    out, empty, bare = tmp_path / "a.memory", tmp_path / "empty", tmp_path / "bare"
    common = ("-o", out, "--model", seeing, "--no-progress")
    empty.mkdir()
    assert one_line(rmt("read", empty, *common), "empty")
    assert one_line(rmt("read", tmp_path / "nowhere", *common), "nowhere")
    (tmp_path / "lost.md").write_text("![gone](gone.png)")
    assert one_line(rmt("read", tmp_path / "lost.md", *common), "lost.md, line 1", "gone.png")
    shutil.copytree(seeing, bare)
    (bare / "processor_config.json").unlink()
    assert one_line(rmt("read", album, "-o", out, "--model", bare, "--no-progress"), "expected a processor beside")
    small = tmp_path / "small"
    shutil.copytree(seeing, small)
    config = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps({**config, "segment_size": 3}))
    assert one_line(rmt("read", album, "-o", out, "--model", small, "--no-progress"), "segment_size: expected at least")
    assert not out.exists()


def test_commands_about_text_alone_say_so(rmt, seeing, tmp_path):
    commands = (
        ("demo", "--model", seeing, "--out", tmp_path / "demo"),
        ("eval", "memory", "--out", tmp_path / "out", "--model", seeing),
        ("quantize", seeing, "-o", tmp_path / "quantised"),
    )
    for command in commands:
        assert one_line(rmt(*command), "expected a model for text, got one that sees images")


def test_the_script(seeing, album, tmp_path, monkeypatch, capsys, root):
    sys_path = str(root / "scripts")
    monkeypatch.syspath_prepend(sys_path)
    import ask_about_images

    memory = tmp_path / "script.memory"
    arguments = [str(album), "what was in the red frame?", "--model", seeing, "--memory", str(memory)]
    for expected in ("40 images in", "what was in the red frame?  "):
        monkeypatch.setattr(sys, "argv", ["ask_about_images.py", *arguments])
        ask_about_images.main()
        assert capsys.readouterr().out.startswith(expected)
    # Another album must not be answered for from the memory of the first.
    monkeypatch.setattr(sys, "argv", ["ask_about_images.py", str(album / "3.jpg"), *arguments[1:]])
    with pytest.raises(SystemExit):
        ask_about_images.main()
    assert f"got one of {album}; name another file" in capsys.readouterr().err
    sys.modules.pop("ask_about_images")


@pytest.fixture
def prompted(tokenizer, tmp_path):
    """A tiny model with an adapter that sees, and the folder that it is saved in."""
    torch.manual_seed(1)
    inner = LlamaForCausalLM(llama_config(vocab_size=len(tokenizer)))
    fields = {"adapter": AdapterConfig(adapter_len=3, adapter_layers=2), "image_features": 5}
    model = LlamaAdapterRMT.from_backbone(inner, segment_size=16, num_memory_tokens=3, **fields)
    for name, parameter in adapter_parameters(model).items():
        if name.endswith("gate"):
            torch.nn.init.constant_(parameter, 0.7)
    return model, saved(model, tokenizer, tmp_path / "prompted")


def test_a_model_with_an_adapter_reads_text(rmt, prompted, notes, tmp_path):
    """As itself, its prompts among the weights; its memory is not another adapter's, and images are refused."""
    (model, folder), out, text = prompted, tmp_path / "text.memory", tmp_path / "text.txt"
    text.write_text("the clock had stopped and nobody wound it again. " * 5)
    assert rmt("read", text, "-o", out, "--model", folder, "--no-progress").exit_code == 0
    assert Memory.load(out).meta.model == model.fingerprint()
    assert rmt("ask", out, "what had stopped?", "--model", folder).exit_code == 0
    assert one_line(rmt("read", notes, "-o", tmp_path / "no", "--model", folder), "expected text")
    next(iter(adapter_parameters(model).values())).data.add_(0.5)
    model.save_pretrained(folder)
    assert one_line(rmt("ask", out, "what had stopped?", "--model", folder), "a memory of this model")


def test_an_adapter_alone_is_no_model(rmt, prompted, notes, tmp_path):
    save_adapter(prompted[0], tmp_path / "alone")
    refused = rmt("read", notes, "-o", tmp_path / "no", "--model", tmp_path / "alone")
    assert one_line(refused, "got a LLaMA-Adapter alone")
