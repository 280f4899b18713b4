"""`rmt train model.kind=llava` at tiny size: stages, resuming, adapters, 4 bits, LOMO, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from multimodal import LlavaRMT
from multimodal.training import part_of
from rmt.cli.app import app
from rmt.cli.training_images import check, run
from rmt.cli.training_images_settings import ALBUM, ImageSettings, album_stage, wanted
from rmt.errors import InputError
from rmt.training.settings import override

TINY = (
    "model.kind=llava",
    "model.hidden_size=32",
    "model.layers=1",
    "data.album=48",
    "optim.batch_size=2",
    "optim.warmup=1",
    "optim.lr=1e-2",
    "log_every=1",
    "curriculum.stages=2x20:t2:s0",
)


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_text("\n".join(f"The {n}th evening was long, and nobody in the house spoke of it." for n in range(200)))
    return path


def train(*settings: str) -> str:
    result = CliRunner().invoke(app, ["train", *settings])
    assert result.exit_code == 0, result.output
    return result.output


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(LlavaRMT.from_pretrained(folder).state_dict())


@pytest.fixture(scope="module")
def first(book: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of stage 2."""
    output = tmp_path_factory.mktemp("runs") / "first"
    train(*TINY, f"data.text={book}", f"output={output}", "optim.steps=2", "save_every=1")
    return output


def test_a_run_leaves_a_model_that_the_auto_classes_load_and_ask(first: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

    folder = first / "model"
    processor = AutoProcessor.from_pretrained(folder)
    image = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)
    given = processor(text="a <image> b", images=[image], return_tensors="pt", add_special_tokens=False)
    assert int((given["input_ids"] == processor.image_token_id).sum()) == 16
    assert float(given["pixel_values"].abs().max()) <= 1
    one, two = (auto.from_pretrained(folder) for auto in (AutoModelForCausalLM, AutoModelForImageTextToText))
    assert isinstance(one, LlavaRMT)
    assert one.dtype == torch.bfloat16
    assert one.generation_config.max_new_tokens == 1
    given["pixel_values"] = given["pixel_values"].to(torch.bfloat16)
    inputs = {k: given[k] for k in ("input_ids", "attention_mask", "pixel_values")}
    assert torch.equal(one(**inputs).logits, two(**inputs).logits)
    # Tied embeddings are written once: two bytes a number, and names.
    numbers = sum(p.numel() for p in one.parameters())
    assert 2 * numbers < (folder / "model.safetensors").stat().st_size < 2 * numbers + 20_000


def test_a_stopped_run_ends_bit_for_bit_where_it_would_have(first: Path, book: Path, tmp_path: Path) -> None:
    how = ("save_every=1", "save_keep=9", "optim.bf16=false", "optim.steps=3", "optim.warmup=0")
    common = (*TINY, f"data.text={book}", *how)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(*common, f"output={whole}")
    train(*common, f"output={broken}")
    for step in (2, 3):  # as if it had been killed behind the first step
        folder = broken / f"checkpoint-{step}"
        for file in sorted(folder.rglob("*"), reverse=True):
            file.unlink()
        folder.rmdir()
    train(*common, f"output={broken}")
    one, two = weights(broken / "model"), weights(whole / "model")
    assert all(torch.equal(one[name], two[name]) for name in two)
    state = json.loads((broken / "checkpoint-3" / "trainer_state.json").read_text())
    assert [row["step"] for row in state["log_history"] if "loss" in row] == [1, 2, 3]
    with pytest.warns(UserWarning, match="nothing is trained"):
        train(*common, f"output={broken}")
    again = weights(broken / "model")
    assert all(torch.equal(again[name], two[name]) for name in two)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        (("stage=1",), {"projector"}),
        (("stage=1", "data.captions=true"), {"projector"}),
        (("stage=2",), {"projector", "language", "memory"}),
        (("stage=2", "model.train_vision=true"), {"projector", "language", "memory", "vision"}),
        (("stage=2", "optim=lomo", "model.recurrence=checkpointed"), {"projector", "language", "memory"}),
        (("stage=2", "optim=adalomo"), {"projector", "language", "memory"}),
    ],
)
def test_a_stage_changes_its_parts_alone(
    settings: tuple[str, ...], parts: set[str], first: Path, book: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    init = f"model.init={first / 'model'}"
    train(*TINY, f"data.text={book}", f"output={output}", "optim.steps=2", "optim.lr=5e-2", init, *settings)
    before, after = weights(first / "model"), weights(output / "model")
    assert before.keys() == after.keys()
    assert {part_of(name) for name in before if not torch.equal(before[name], after[name])} == parts


def test_adapters_go_on_and_load_merged(first: Path, book: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    from multimodal.training import adapted, base_of

    base, output = first / "model", tmp_path / "adapters"
    common = (*TINY, f"data.text={book}", "lora.r=2", "optim.steps=2")
    train(*common, f"output={output}", f"model.init={base}")
    folder = output / "model"
    assert (folder / "adapter_model.safetensors").stat().st_size < (base / "model.safetensors").stat().st_size / 2
    merged = adapted(str(folder))
    assert isinstance(merged, LlavaRMT)
    both = PeftModel.from_pretrained(base_of(str(folder)), folder).eval()
    ids = torch.arange(100, 150)[None]
    assert torch.allclose(merged(input_ids=ids).logits, both(input_ids=ids).logits, atol=1e-5)
    plain = LlavaRMT.from_pretrained(base, dtype=torch.float32).eval()
    assert not torch.allclose(merged(input_ids=ids).logits, plain(input_ids=ids).logits, atol=1e-5)

    again = tmp_path / "again"
    train(*common, f"output={again}", f"model.init={folder}")
    assert not torch.allclose(
        adapted(str(again / "model"))(input_ids=ids).logits, merged(input_ids=ids).logits, atol=1e-6
    )


def test_dropout_of_adapters_goes_on_where_a_run_stopped(first: Path, tmp_path: Path) -> None:
    import shutil

    said = [{"from": "human", "value": "which is it?"}, {"from": "gpt", "value": "the red one"}]
    (tmp_path / "chats.json").write_text(json.dumps([{"conversations": said}]))
    how = (*TINY, f"model.init={first / 'model'}", f"data.llava={tmp_path / 'chats.json'}", "optim.bf16=false")
    common = (*how, "lora.r=2", "lora.lora_dropout=0.5", "optim.steps=2", "save_every=1", "optim.warmup=0")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(*common, f"output={whole}")
    shutil.copytree(whole, broken)
    for name in ("checkpoint-2", "model"):
        shutil.rmtree(broken / name)
    train(*common, f"output={broken}")
    one, two = (load_file(run / "model" / "adapter_model.safetensors") for run in (whole, broken))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_adapters_train_over_four_bits_and_load_over_sixteen(first: Path, book: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from multimodal.training import adapted

    output = tmp_path / "nf4"
    train(
        *TINY, f"data.text={book}", f"output={output}", "optim.steps=2", f"model.init={first / 'model'}",
        "model.quantization=nf4", "lora.r=2",
    )  # fmt: skip
    config = json.loads((output / "model" / "config.json").read_text())
    assert "quantization_config" not in json.dumps(config)
    merged = adapted(str(output / "model"))
    assert {type(m) for m in merged.modules() if isinstance(m, torch.nn.Linear)} == {torch.nn.Linear}
    assert bool(merged(input_ids=torch.arange(100, 150)[None]).logits.isfinite().all())


def test_a_checkpoint_of_transformers_gets_a_memory(book: Path, tmp_path: Path) -> None:
    from rmt.cli.training_images_model import processor_of, small

    settings = override(ImageSettings(), TINY)
    model, processor = small(settings)
    folder = tmp_path / "llava"
    model.backbone.save_pretrained(folder)
    processor.save_pretrained(folder)
    output = tmp_path / "run"
    train(
        *TINY, f"data.text={book}", f"output={output}", "optim.steps=1", f"model.backbone={folder}",
        "model.projector=pooled", "model.num_memory_tokens=3",
    )  # fmt: skip
    made = LlavaRMT.from_pretrained(output / "model")
    assert (made.config.projector, made.config.tokens_per_image, len(made.cell.memory)) == ("pooled", 4, 3)
    read = processor_of(str(output / "model"))
    given = read(text="<image>", images=[np.zeros((32, 32, 3), np.uint8)], return_tensors="pt")
    assert int((given["input_ids"] == read.image_token_id).sum()) == 4


@pytest.mark.parametrize("bits", ["", "nf4"])
def test_adapters_over_a_checkpoint_of_transformers_load_with_their_memory(
    bits: str, book: Path, tmp_path: Path
) -> None:
    from multimodal.training import adapted
    from rmt.cli.training_images_model import small

    if bits:
        pytest.importorskip("bitsandbytes")
    model, processor = small(override(ImageSettings(), TINY))
    folder, output = tmp_path / "llava", tmp_path / "run"
    model.backbone.save_pretrained(folder)
    processor.save_pretrained(folder)
    how = ("lora.r=2", "model.num_memory_tokens=3", "model.projector=linear", f"model.quantization={bits}")
    common = (*TINY, f"data.text={book}", f"output={output}", f"model.backbone={folder}", "save_every=1", *how)
    train(*common, "optim.steps=1")
    train(*common, "optim.steps=2")  # goes on from its checkpoint
    state = json.loads((output / "checkpoint-2" / "trainer_state.json").read_text())
    assert [row["step"] for row in state["log_history"] if "loss" in row] == [1, 2]
    made = adapted(str(output / "model"))
    assert (made.config.projector, len(made.cell.memory), made.config.memory_update) == ("linear", 3, "gated")
    saved = load_file(output / "model" / "adapter_model.safetensors")
    assert torch.equal(made.cell.memory, saved["base_model.model.cell.memory"])
    assert torch.equal(
        made.backbone.model.multi_modal_projector.linear.weight,
        saved["base_model.model.backbone.model.multi_modal_projector.linear.weight"],
    )


@pytest.mark.parametrize("number", [1, 2])
def test_conversations_of_files_are_trained_on(number: int, first: Path, tmp_path: Path) -> None:
    from PIL import Image

    records = []
    for n in range(3):
        Image.fromarray(np.full((40, 30, 3), 60 * n, np.uint8)).save(tmp_path / f"{n}.png")
        said = [{"from": "human", "value": "<image>\nHow bright is it?"}, {"from": "gpt", "value": f"Degree {n}."}]
        records.append({"id": str(n), "image": f"{n}.png", "conversations": said})
    (tmp_path / "chats.json").write_text(json.dumps(records))
    output = tmp_path / "run"
    train(
        *TINY, f"output={output}", f"stage={number}", f"model.init={first / 'model'}", "optim.steps=4",
        f"data.llava={tmp_path / 'chats.json'}", f"data.images={tmp_path}", "model.segment_size=20",
        "model.recurrence=checkpointed",
    )  # fmt: skip
    losses = json.loads((output / "checkpoint-4" / "trainer_state.json").read_text())["log_history"]
    assert all(row["loss"] > 0 for row in losses if "loss" in row)
    before, after = weights(first / "model"), weights(output / "model")
    wanted = {1: {"projector"}, 2: {"projector", "language", "memory"}}[number]
    assert {part_of(name) for name in before if not torch.equal(before[name], after[name])} == wanted
    # Nothing says what is worth remembering: gates must not be asked to stay shut on everything.
    config = LlavaRMT.from_pretrained(output / "model").config
    assert (config.gate_penalty, config.gate_threshold) == (0, 0.1)


def test_one_process_of_several_writes_the_model(first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rmt.training import CurriculumTrainer

    said = [{"from": "human", "value": "which is it?"}, {"from": "gpt", "value": "the red one"}]
    (tmp_path / "chats.json").write_text(json.dumps([{"conversations": said}]))
    how = [*TINY, "optim.steps=1", f"model.init={first / 'model'}", f"data.llava={tmp_path / 'chats.json'}"]
    monkeypatch.setattr(CurriculumTrainer, "is_world_process_zero", lambda self: False)
    assert not run(override(ImageSettings(), [*how, f"output={tmp_path / 'second'}"])).exists()


def test_what_is_not_said_is_as_the_model_to_go_on_from_has_it(tmp_path: Path) -> None:
    from rmt.cli.training_images_model import build, small

    folder = tmp_path / "model"
    made, processor = small(override(ImageSettings(), [*TINY, "model.segment_size=40", "model.num_memory_tokens=3"]))
    made.save_pretrained(folder)
    processor.save_pretrained(folder)
    init = f"model.init={folder}"
    config = build(override(ImageSettings(), [*TINY, init]))[0].config
    assert (config.segment_size, config.num_memory_tokens) == (40, 3)
    assert (config.gate_penalty, config.gate_threshold) == (0.3, 0.6)
    assert build(override(ImageSettings(), [*TINY, init, "model.segment_size=30"]))[0].config.segment_size == 30
    with pytest.raises(InputError, match=r"^model.init: expected a model of 4 memory tokens, got 3"):
        build(override(ImageSettings(), [*TINY, init, "model.num_memory_tokens=4"]))


def test_conversations_are_laid_out_by_the_processors_template(tmp_path: Path) -> None:
    from rmt.cli.training_images_data import conversations
    from rmt.cli.training_images_model import small

    said = [{"from": "human", "value": "which is it?"}, {"from": "gpt", "value": "the red one"}]
    (tmp_path / "chats.json").write_text(json.dumps([{"conversations": said}]))
    settings = override(ImageSettings(), [*TINY, f"data.llava={tmp_path / 'chats.json'}"])
    model, processor = small(settings)
    template = "{% for m in messages %}{{ m['content'] + ' ; ' }}{% endfor %}"
    for given in (template, {"default": template, "rag": "no"}):
        processor.chat_template = given  # the tokenizer has none, as in older folders
        batch = conversations(settings, model, processor)(0, 0)
        assert processor.tokenizer.decode(batch["input_ids"][0]) == "which is it? ; the red one ;"


def test_associative_memory_is_trained(book: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    how = ("model.memory=associative", "model.associative_key_size=8", "optim.steps=1")
    train(*TINY, f"data.text={book}", f"output={output}", *how)
    assert LlavaRMT.from_pretrained(output / "model").config.memory == "associative"


def test_memory_tokens_begin_as_the_words_that_ask_for_them() -> None:
    from rmt.cli.training_images_model import build

    model, processor = build(override(ImageSettings(), TINY))
    words = model.get_input_embeddings().weight

    def word(text: str) -> torch.Tensor:
        return words[processor.tokenizer(text, add_special_tokens=False)["input_ids"][0]]

    keys = model.cell.memory
    mark = keys[0] - word("red") - word("digit")
    assert torch.allclose(keys[5] - word("blue") - word("color"), mark, atol=1e-6)
    assert float(mark.detach().abs().max()) > 0


def test_every_setting_is_shown_and_an_unknown_one_refused() -> None:
    shown = train("--show", "model.kind=llava", "optim.lr=1e-4")
    assert "stage = 2" in shown
    assert "optim.lr = 0.0001" in shown
    assert "data.llava = " in shown
    result = CliRunner().invoke(app, ["train", "model.kind=llava", "model.visoin=x"])
    assert result.exit_code
    assert "did you mean model.vision?" in str(result.output) + str(result.exception)
    assert wanted(["model.kind=decoder", " model.kind = llava"])
    assert not wanted(["model.kind=llava", "model.kind=decoder"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["stage=3"], "stage: expected 1 or 2, got 3"),
        (["stage=1", "lora.r=4"], "lora.r: expected 0 in stage 1"),
        (["model.quantization=nf4"], "lora.r: expected adapters to train over 4-bit weights"),
        (["lora.r=4"], "lora.r: expected 0 for a small model from scratch"),
        (["optim=adam"], "optim.name: expected one of 'adamw', 'lomo', 'adalomo'"),
        (["data.images=somewhere"], "data.images: expected data.llava with it"),
        (["data.llava=nowhere.json"], "data.llava: expected something that is there, got nowhere.json"),
        (["curriculum.stages=4x32:z3"], "curriculum.stages: expected a stage such as"),
        (["curriculum.stages=4x32:t9"], "curriculum.stages: '4x32:t9'"),
        (["model.backbone=llava/", "model.vision=clip/"], "model.vision: expected none"),
        (["data.album=0"], "data.album: expected at least 1"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: list[str], said: str) -> None:
    with pytest.raises(InputError) as error:
        check(override(ImageSettings(), ["data.text=installed:", *changes]))
    assert said in str(error.value)


def test_stages_of_albums_can_say_all_that_there_is() -> None:
    from dataclasses import fields

    from evals.tasks.images.training import Stage

    assert {name for name, _ in ALBUM.values()} == {f.name for f in fields(Stage)} - {"segments", "segment_size"}
    made: Any = album_stage("4x32:t3:d0.5:s0.1:u0.2:q5:w1:l7:c0.4")
    assert made.crowded == 0.4
    assert (made.segments, made.segment_size, made.tags, made.questions, made.lead) == (4, 32, 3, 5, 7)
    assert (made.distractors, made.sentences, made.unknown, made.worded) == (0.5, 0.1, 0.2, 1.0)


def test_going_on_with_another_projector_is_refused(first: Path, book: Path, tmp_path: Path) -> None:
    said = override(
        ImageSettings(),
        [*TINY, f"data.text={book}", f"output={tmp_path}", f"model.init={first / 'model'}", "model.projector=linear"],
    )
    with pytest.raises(InputError, match=r"^model.projector: expected mlp, as model.init has it, got linear"):
        run(said)
