"""The benchmark of images on a GPU, rehearsed with toys: every part runs, in pieces, and says what it measured."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch


@pytest.fixture
def gpu_images(bench):
    return bench("gpu_images")


@pytest.fixture
def sides(bench):
    return bench("image_sides")


@pytest.fixture
def small(sides):
    return sides.Place(sides.SMALL, "cpu")


def results(folder):
    return json.loads((folder / "gpu_images.json").read_text())["cells"]


@pytest.mark.slow
def test_a_rehearsal_in_two_pieces(gpu_images, tmp_path, capsys):
    pytest.importorskip("bitsandbytes")
    command = ["--out", str(tmp_path), "--small", "--rounds", "1"]
    assert gpu_images.main([*command, "--minutes", "0"]) == 3
    first = results(tmp_path)
    assert sum(len(cell["rounds"]) for cell in first.values()) == 1
    assert "not finished" in capsys.readouterr().out
    assert gpu_images.main(command) == 0
    cells = results(tmp_path)
    parts = gpu_images.parts(gpu_images.SMALL, 1)
    assert list(cells) == [part.name for part in parts]
    for part in parts:
        assert cells[part.name]["notes"] == {}, part.name
        assert [set(here) for here in cells[part.name]["rounds"]] == [set(part.sides)]
    name = parts[0].name
    assert cells[name] == first[name], "what was there is gone on from"
    (read,) = cells["read, associative"]["rounds"]
    assert read["sequential"]["differs"] == 0
    assert all(read[side]["differs"] < 1e-4 for side in ("wavefront", "captured"))  # sums in another order
    (long,) = cells["long, gated"]["rounds"]
    assert [long[side]["pages"] for side in parts[2].sides] == list(gpu_images.SMALL.pages)
    printed = capsys.readouterr().out
    assert (tmp_path / "gpu_images.md").read_text().strip() in printed
    assert "done" in printed.splitlines()


def test_what_a_side_cannot_do_gets_a_note_and_is_tried_again(gpu_images, tmp_path, monkeypatch, capsys):
    calls = []

    def making(place, broken=True):
        def tower():
            calls.append("tower")
            return lambda: {"seconds": 1.0, "images": 3}

        def projected():
            if broken:
                raise RuntimeError("CUDA out of\nmemory")
            return lambda: {"seconds": 2.0, "images": 3}

        return {"tower": tower, "tower + projector": projected, "processor, on the CPU": tower}

    monkeypatch.setattr(gpu_images.image_sides, "seeing", lambda place, n: making(place))
    command = ["--out", str(tmp_path), "--small", "--only", "see", "--rounds", "2"]
    assert gpu_images.main(command) == 0
    cell = results(tmp_path)["see 1 at once"]
    assert cell["notes"] == {"tower + projector": "RuntimeError: CUDA out of memory"}
    assert [set(here) for here in cell["rounds"]] == [{"tower", "processor, on the CPU"}] * 2
    assert len(calls) == 2 * len(gpu_images.SMALL.batches), "a side is made once for all its rounds"
    assert "CUDA out of memory" in capsys.readouterr().out

    monkeypatch.setattr(gpu_images.image_sides, "seeing", lambda place, n: making(place, broken=False))
    assert gpu_images.main(command) == 0
    assert results(tmp_path)["see 1 at once"]["notes"], "a note stands until it is asked for again"
    assert gpu_images.main([*command, "--retry"]) == 0
    cell = results(tmp_path)["see 1 at once"]
    assert cell["notes"] == {}
    assert sum("tower + projector" in here for here in cell["rounds"]) == 2


def test_a_model_that_cannot_be_built_stops_one_part_only(gpu_images, tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("no room")

    monkeypatch.setattr(gpu_images.image_steps, "training", broken)
    assert gpu_images.main(["--out", str(tmp_path), "--small", "--only", "see", "train", "--rounds", "1"]) == 0
    cells = results(tmp_path)
    assert cells["train, stage 1"]["notes"] == dict.fromkeys(("NF4", "16 bit"), "RuntimeError: no room")
    assert len(cells["see 1 at once"]["rounds"]) == 1


def test_a_lost_gpu_ends_it(gpu_images, tmp_path, monkeypatch, capsys):
    def lost(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(gpu_images.image_sides, "seeing", lost)
    monkeypatch.setattr(gpu_images.subject, "settle", lost)
    assert gpu_images.main(["--out", str(tmp_path), "--small", "--only", "see"]) == 2
    assert "run it again" in capsys.readouterr().err
    assert list(results(tmp_path)) == ["see 1 at once"], "nothing was tried behind it"


def test_sides_that_are_alone_are_gone_before_the_next_is_made(gpu_images, tmp_path, monkeypatch):
    alive = []

    class Weights:
        def __init__(self, name):
            assert not alive, "another side's weights are still there"
            alive.append(name)

        def __call__(self):
            return {"seconds": 1.0, "tokens": 1}

        def __del__(self):
            alive.clear()

    def training(place, number):
        return {name: lambda name=name: Weights(name) for name in ("NF4", "16 bit")}

    monkeypatch.setattr(gpu_images.image_steps, "training", training)
    assert gpu_images.main(["--out", str(tmp_path), "--small", "--only", "train"]) == 0
    assert all(cell["notes"] == {} for cell in results(tmp_path).values())


def test_tables_say_what_was_measured(gpu_images):
    part = next(p for p in gpu_images.parts(gpu_images.SEVEN_B, 2) if p.name == "long, gated")

    def cell(peak):
        short = {"seconds": 2.0, "pages": 100, "tokens": 108_400, "peak_gb": 20.0}
        long = {"seconds": 25.0, "pages": 1000, "tokens": 1_084_000, "peak_gb": peak}
        return {"rounds": [dict(zip(part.sides, (short, long), strict=True))], "notes": {}, "walls": [27.0]}

    machine = {"device": "a GPU", "torch": "2", "transformers": "5", "dtype": "bfloat16"}
    for peak, said in ((20.4, "1.020, flat"), (22.0, "1.100, NOT FLAT")):
        text = gpu_images.report({"machine": machine, "cells": {part.name: cell(peak)}}, [part])
        assert text.endswith(said)
    assert "| 1,000 pages | 25.000 |  | 40.0 | 43,360.0 | 0.80 (0.80 to 0.80) | 22.00 |" in text
    empty = gpu_images.report({"machine": machine, "cells": {}}, [part])
    assert "not judged" in empty


def test_what_cannot_be_measured_is_refused(gpu_images, tmp_path, capsys):
    out = ["--out", str(tmp_path)]
    assert gpu_images.main([*out, "--small", "--rounds", "0"]) == 2
    assert gpu_images.main([*out, "--small", "--only", "sound"]) == 2
    assert "got 'sound'" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert gpu_images.main(out) == 2
        assert "expected a GPU" in capsys.readouterr().err


def test_shapes_are_llava_s(sides):
    from transformers import LlavaForConditionalGeneration

    from multimodal import LlavaRMTConfig

    shape = sides.SEVEN_B
    config = sides.llava_config(shape)
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    assert sum(p.numel() for p in model.parameters()) == 7_063_427_072  # as of the published checkpoint

    def tokens(kind):
        options = {"projector_pool": shape.pool, "projector_queries": shape.queries}
        return LlavaRMTConfig(llava_config=config, projector=kind, **options).tokens_per_image

    assert [tokens(kind) for kind in ("mlp", "pooled", "resampler")] == [576, 144, 64]
    assert sides.Pages(shape, 576, 1000).length == 1000 * (sides.LABEL + 576 + 500)


def test_pages_are_the_same_in_whatever_ranges_they_are_asked_for(sides):
    shape, per_image = sides.SMALL, 16
    pages = sides.Pages(shape, per_image, 3)
    whole, figures = pages.tokens(0, pages.length), list(pages.figures(0, pages.length))
    parts = [pages.tokens(at, min(at + 7, pages.length)) for at in range(0, pages.length, 7)]
    assert (np.concatenate(parts) == whole).all()
    assert len(figures) == 3
    for number, (start, stop, place, image) in enumerate(figures):
        assert (start, place, stop) == (number * pages.page, start + sides.LABEL, place + per_image)
        assert (whole[place:stop] == shape.image_token).all()
        assert image().shape == (shape.vision["image_size"],) * 2 + (3,)
    assert int((whole == shape.image_token).sum()) == 3 * per_image, "no word is an image"
    assert not (figures[0][3]() == figures[1][3]()).all()
    assert [figure[0] for figure in pages.figures(pages.page + 1, pages.page + 2)] == [pages.page]
    assert not list(pages.figures(pages.page - 1, pages.page)), "words behind an image are not of it"


def test_each_executor_reads_the_same_pages(sides, small):
    """What is timed under a name is that executor's work, over the same weights and the same images."""
    album = sides.reader(small, "associative")
    found = []
    for name, expected in (("sequential", "sequential"), ("wavefront", "wavefront"), ("captured", "wavefront")):
        turn = sides.read_by(small, album, name, 2, told=lambda memory: found.append(memory) or {})
        assert turn()["tokens"] == 2 * (sides.LABEL + 64 + sides.SMALL.words)
        assert album.executor.name == album._reader.executor.name == expected
    for memory in found:
        assert memory.meta.extra["images"] == "2"
        assert sides.gap(dict(memory.tensors), dict(found[0].tensors)) < 1e-5


def test_shut_gates_leave_the_memory_as_it_was(sides, small):
    album, seen = sides.reader(small, "gated"), []
    turn = sides.read_by(small, album, "speculative", 2, told=lambda memory: seen.append(memory) or {})
    turn()
    assert album.executor.name == "speculative"
    assert float(seen[0].tensors["tokens"].abs().max()) == 0


def test_a_memory_that_is_not_finite_is_no_figure(sides, small):
    album = sides.reader(small, "associative")
    with torch.no_grad():
        album.model.cell.value.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="finite"):
        sides.read_by(small, album, "sequential", 1)()


def test_peaks_are_of_a_side_s_own_weights(sides, monkeypatch):
    """What is counted, with the calls of torch put in a GPU's place."""
    model = torch.nn.Linear(1000, 250, bias=False)  # a million bytes
    model.again = model.weight
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 5_000_000)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 7_000_000)
    assert sides.timed("cuda", lambda: None, model)["peak_gb"] == pytest.approx(3e-3)
    assert sides.timed("cuda", lambda: None)["peak_gb"] == pytest.approx(7e-3), "alone, all of it"
    assert "peak_gb" not in sides.timed("cpu", lambda: None, model)


def test_every_segment_of_a_lesson_has_an_image(bench, sides, small):
    batch = bench("image_steps").lesson(small, 64)
    rows = batch["input_ids"].view(4, sides.SMALL.segment)
    assert ((rows == sides.SMALL.image_token).sum(dim=1) == 64).all()
    assert len(batch["pixel_values"]) == 4


@pytest.mark.parametrize(("number", "learns"), [(1, {"projector"}), (2, {"projector", "language", "memory"})])
def test_a_step_trains_what_its_stage_says_and_changes_nothing(bench, small, monkeypatch, number, learns):
    steps, seen = bench("image_steps"), {}
    stage = steps.stages.stage

    def watched(model, *args, **kwargs):
        groups = stage(model, *args, **kwargs)
        seen.update(model=model, names={group["name"] for group in groups})
        seen["norms"] = dict.fromkeys(range(sum(len(g["params"]) for g in groups)), 0.0)
        for n, parameter in enumerate(p for g in groups for p in g["params"]):
            parameter.register_post_accumulate_grad_hook(lambda p, n=n: seen["norms"].update({n: float(p.grad.norm())}))
        return groups

    monkeypatch.setattr(steps.stages, "stage", watched)
    turn = steps.step_of(small, number, four_bits=False)
    before = {name: p.clone() for name, p in seen["model"].named_parameters()}
    took = turn()
    assert took["tokens"] == 4 * small.shape.segment
    assert seen["names"] == learns
    reached = [norm > 0 for norm in seen["norms"].values()]
    # Of fresh adapters the first half has no gradient, as the second is zero.
    assert all(reached) if number == 1 else sum(reached) > len(reached) / 3
    assert seen["model"].config.recurrence == "checkpointed"
    assert all(torch.equal(p, before[name]) for name, p in seen["model"].named_parameters())


class TestAlbum:
    """``--train-album``, for which see gpu_album.py."""

    @pytest.fixture
    def album(self, bench):
        return bench("gpu_album")

    @pytest.fixture
    def book(self, tmp_path):
        path = tmp_path / "book.txt"
        path.write_text("\n".join(f"The {n}th evening was long and cold." for n in range(300)))
        return path

    @pytest.mark.parametrize("small", [False, True])
    def test_settings_can_be_trained_with(self, album, book, tmp_path, small):
        from rmt.cli.training_images import check
        from rmt.cli.training_images_settings import ImageSettings
        from rmt.training.settings import override

        for name in album.CHOSEN:
            given = override(ImageSettings(), album.settings(name, tmp_path, str(book), "model.init=", small))
            check(given)
            assert (given.model.hidden_size, given.model.layers) == ((32, 1) if small else (384, 8))
            assert given.output == str(tmp_path / name)
            assert given.curriculum.stages, "the recipe's"

    def test_phases_follow_one_another_in_pieces(self, album, tmp_path, monkeypatch, capsys):
        ran, ends = [], iter([False, True, False, True, True])

        def run(command, deadline):
            ran.append(command)
            ended = next(ends)
            if ended and command[0].endswith("album_encoder.py"):
                (tmp_path / "album" / "encoder.part").mkdir()
            return ended

        monkeypatch.setattr(album, "run", run)
        calls = [album.train(tmp_path, "book", None, True, 0.0) for _ in range(3)]
        assert calls == [False, False, True]
        kinds = [c[1] if c[0] == "-m" else "tower" for c in ran]
        assert kinds == ["tower", "tower", "rmt.cli", "rmt.cli", "rmt.cli"]
        assert f"model.vision={tmp_path / 'album' / 'encoder'}" in ran[2]
        assert ran[3] == ran[2], "a phase that was ended is begun again by the same command"
        assert f"model.init={tmp_path / 'album' / 'all' / 'model'}" in ran[4]
        assert album.train(tmp_path, "book", None, True, 0.0)
        assert len(ran) == 5, "what is done is not done again"
        assert "| long | yes |" in capsys.readouterr().out

    def test_a_process_is_ended_when_time_is_up(self, album):
        start = time.monotonic()
        assert not album.run(["-c", "import time; time.sleep(60)"], start + 0.5)
        assert time.monotonic() - start < 30
        assert album.run(["-c", "import importlib.util as u; assert u.find_spec('rmt')"], time.monotonic() + 60)
        assert not album.run(["-c", ""], time.monotonic() - 1)
        with pytest.raises(ValueError, match="exit code 5"):
            album.run(["-c", "raise SystemExit(5)"], time.monotonic() + 60)

    def test_what_a_phase_came_to(self, album, tmp_path):
        assert album.outcome(tmp_path) == {}
        for step in (50, 100):
            folder = tmp_path / f"checkpoint-{step}"
            folder.mkdir()
            log = [{"accuracy": step / 200, "stage": 1}, {"train_runtime": 3}]
            (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": log}))
        assert album.outcome(tmp_path) == {"step": 100, "stage": 1, "accuracy": 0.5}

    @pytest.mark.slow
    def test_a_rehearsal(self, gpu_images, book, tmp_path, capsys):
        command = ["--out", str(tmp_path), "--small", "--train-album", "--text", str(book)]
        assert gpu_images.main(command) == 0
        phases = json.loads((tmp_path / "gpu_album.json").read_text())["phases"]
        assert {name: (known["done"], known["step"]) for name, known in phases.items()} == {
            "all": (True, 2),
            "long": (True, 2),
        }
        assert (tmp_path / "album" / "long" / "model" / "model.safetensors").is_file()
        assert gpu_images.main([*command, "--minutes", "0"]) == 0, "nothing is left to do"
