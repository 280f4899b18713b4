"""The benchmark of training on a GPU, rehearsed with toys: all its sides train, in pieces, on the same work."""

from __future__ import annotations

import importlib.machinery
import json
import sys
from types import ModuleType

import pytest
import torch


@pytest.fixture
def gpu_training(bench):
    return bench("gpu_training")


@pytest.fixture
def sides(bench, lomo_optim):
    return bench("training_sides")


@pytest.fixture
def shop(sides):
    """Makes a toy's weights, the same each time."""
    return lambda group: sides.Shop("tiny", group, sides.Setting("cpu", 16, 4, rank=4, dropout=0.0, budget=1.0))


@pytest.fixture
def lomo_optim(monkeypatch):
    """A stand-in for the package, which nothing here depends on: a step of SGD behind the whole backward."""

    class Lomo(torch.optim.SGD):
        def __init__(self, model, lr):
            super().__init__(model.parameters(), lr=lr)

        def fused_backward(self, loss, lr):
            loss.backward()
            self.step()

    module = ModuleType("lomo_optim")
    module.Lomo, module.__spec__ = Lomo, importlib.machinery.ModuleSpec("lomo_optim", None)
    monkeypatch.setitem(sys.modules, "lomo_optim", module)


def results(folder):
    return json.loads((folder / "gpu_training.json").read_text())


@pytest.mark.slow
def test_a_rehearsal_in_two_pieces(gpu_training, lomo_optim, tmp_path, capsys):
    command = ["--out", str(tmp_path), "--rehearse", "--rounds", "1"]
    assert gpu_training.main([*command, "--minutes", "0"]) == 3
    first = results(tmp_path)["cells"]
    assert len(next(iter(first.values()))["rounds"]) == 1
    assert sum(len(cell["rounds"]) for cell in first.values()) == 1
    assert gpu_training.main(command) == 0
    printed = capsys.readouterr().out
    data = results(tmp_path)
    assert len(data["cells"]) == 6
    for key, cell in data["cells"].items():
        assert cell["notes"] == {}, key
        assert [set(one) for one in cell["rounds"]] == [set(gpu_training.GROUPS[key.split(" | ")[1]])]
    kept = next(iter(first))
    assert data["cells"][kept]["rounds"] == first[kept]["rounds"], "what was there is gone on from"

    report = gpu_training.training_report
    found = list(report.compared(data))
    expected = list(gpu_training.sides.pairs())
    assert len(found) == 2 * len(expected)
    for pair in found:
        assert pair.same, pair
        assert pair.steps[0] > 0
        limit = 5e-3 if (pair.side, pair.other) in report.OTHER_WEIGHTS else 1e-3
        assert pair.loss < limit, pair
        assert (pair.norm is None) == ("LOMO" in pair.side), pair
    saved = {name: told["saved"] for name, told in data["cells"]["tiny | adapters | 2 | plain"]["told"].items()}
    assert saved["LoRA"] == saved["PEFT bf16"] < 0.7 * saved["PEFT"]

    assert "not judged in a rehearsal" in printed
    assert gpu_training.main([*command[:2], "--report"]) == 0
    assert capsys.readouterr().out.strip() in printed


def test_a_step_changes_no_weight_and_all_sides_have_the_same(shop):
    here = shop("weights")
    before = [p.clone() for p in here.base.parameters()]
    ids = here.ids(2)
    for name in ("AdamW", "SGD", "LOMO", "lomo-optim"):
        side = here.side(name, "plain")
        theirs = {p.data_ptr() for p in side.model.parameters()}
        assert theirs == {p.data_ptr() for p in here.base.parameters()}
        assert not {id(p) for p in side.model.parameters()} & {id(p) for p in here.base.parameters()}
        side.backward(side.loss(ids))
        side.finish()
        assert all(p.grad is None for p in side.model.parameters())
    assert all(torch.equal(p, old) for p, old in zip(here.base.parameters(), before, strict=True))


@pytest.mark.parametrize(("group", "name"), [("weights", "LOMO"), ("by layer", "LOMO by layer")])
def test_lomo_would_change_weights_as_sgd_does(shop, group, name):
    changed = {}
    for each in ("SGD", name):
        here = shop(group)
        side = here.side(each, "plain")
        before = [p.detach().clone() for p in side.model.parameters()]
        for options in side.optimizer.param_groups:
            options["lr"] = 100.0
        side.backward(side.loss(here.ids(2)))
        side.finish()
        changed[each] = [p.detach() - old for p, old in zip(side.model.parameters(), before, strict=True)]
    for ours, theirs in zip(changed[name], changed["SGD"], strict=True):
        # Sums of segments in another order, and weights of eight bits.
        assert float((ours - theirs).norm()) <= 0.05 * float(theirs.norm()) + 1e-6
    assert sum(float(d.abs().sum()) > 0 for d in changed["SGD"]) > 20


def test_adapters_have_the_same_gradients(shop):
    here = shop("adapters")
    grads = {}
    for name in ("PEFT", "LoRA", "PEFT + bitsandbytes", "QLoRA", "QLoRA, no cache"):
        side = here.side(name, "plain")
        side.backward(side.loss(here.ids(2)))
        grads[name] = {n: p.grad.float() for n, p in side.model.named_parameters() if p.grad is not None}
        assert all("lora_" in n or "cell" in n for n in grads[name])
    for ours, theirs in (
        ("LoRA", "PEFT"),
        ("QLoRA", "PEFT + bitsandbytes"),
        ("QLoRA, no cache", "PEFT + bitsandbytes"),
    ):
        assert grads[ours].keys() == grads[theirs].keys()
        for n, g in grads[theirs].items():
            assert float((grads[ours][n] - g).norm() / g.norm()) < 0.03, (ours, n)
    whole = here.side("QLoRA", "plain").cache
    assert whole.used_bytes == whole.budget_bytes > 0
    assert whole.misses == 21, "each weight is read once"


def test_what_a_side_holds(shop):
    here = shop("weights")
    weights = sum({p.data_ptr(): p.nbytes for p in here.base.parameters()}.values())
    ids = here.ids(2)
    for name, times in (("SGD", 1), ("AdamW", 3)):
        side = here.side(name, "plain")
        side.backward(side.loss(ids))
        side.finish()
        assert side.held() == pytest.approx(times * weights, rel=0.02), name


def test_sides_without_their_package_wait_for_it(gpu_training, tmp_path, monkeypatch, capsys):
    command = ["--out", str(tmp_path), "--rehearse", "--rounds", "1", "--only", "PEFT", "SGD", "lomo-optim"]
    monkeypatch.setattr(gpu_training.sides, "has", lambda package: False)
    assert gpu_training.main([*command, "--groups", "adapters", "weights"]) == 0
    assert "needs pip install lomo-optim" in capsys.readouterr().out
    cells = results(tmp_path)["cells"]
    assert cells["tiny | adapters | 2 | plain"]["notes"] == {"PEFT": "needs pip install peft"}
    assert cells["tiny | adapters | 2 | plain"]["rounds"] == []
    assert cells["tiny | weights | 2 | plain"]["rounds"][0].keys() == {"SGD"}

    monkeypatch.setattr(gpu_training.sides, "has", lambda package: package == "peft")
    assert gpu_training.main([*command, "--groups", "adapters"]) == 0
    cells = results(tmp_path)["cells"]
    assert cells["tiny | adapters | 2 | plain"]["notes"] == {}
    assert len(cells["tiny | adapters | 2 | plain"]["rounds"]) == 1


def test_what_cannot_be_trained_gets_a_note(gpu_training, tmp_path, monkeypatch):
    """By the estimate; where memory runs out; where a library fails."""
    sides = gpu_training.sides
    turn = sides.turn

    def faulty(side, *rest):
        if side.name == "LOMO":
            plain = side.model.config.recurrence == "plain"
            raise RuntimeError("cublas: CUBLAS_STATUS_ALLOC_FAILED") if plain else KeyError("a fault")
        return turn(side, *rest)

    monkeypatch.setattr(sides, "turn", faulty)
    command = ["--out", str(tmp_path), "--rehearse", "--groups", "weights", "--only", "AdamW", "LOMO", "SGD"]
    assert gpu_training.main([*command, "--rounds", "1", "--card", "0.0001"]) == 0
    plain, checkpointed = results(tmp_path)["cells"].values()
    assert plain["notes"]["AdamW"].startswith("does not fit: an estimate of 0.0")
    assert plain["notes"]["LOMO"].startswith("does not fit: RuntimeError")
    assert checkpointed["notes"]["LOMO"] == "KeyError: 'a fault'"
    for cell in (plain, checkpointed):
        assert [set(here) for here in cell["rounds"]] == [{"SGD"}]


def test_a_side_that_others_leave_no_room_for_is_tried_alone(gpu_training, tmp_path, monkeypatch, capsys):
    sides, tried = gpu_training.sides, []
    turn = sides.turn

    def full(side, *rest):
        tried.append(side.name)
        if tried == ["AdamW", "SGD"]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return turn(side, *rest)

    monkeypatch.setattr(sides, "turn", full)
    monkeypatch.setattr(gpu_training, "WAYS", {("tiny", 2): ("plain",)})
    command = ["--out", str(tmp_path), "--rehearse", "--groups", "weights", "--only", "AdamW", "SGD"]
    assert gpu_training.main([*command, "--rounds", "1"]) == 0
    assert tried == ["AdamW", "SGD", "SGD"]
    assert "SGD: memory ran out; again without the others" in capsys.readouterr().err
    (cell,) = results(tmp_path)["cells"].values()
    assert cell["notes"] == {}
    assert cell["rounds"][0].keys() == {"AdamW", "SGD"}


def test_memory_of_a_step_on_a_gpu(shop, sides, monkeypatch):
    """What is counted, with the calls of torch put in a GPU's place."""
    here = shop("weights")
    side, allocated = here.side("SGD", "plain"), [100]
    forward, backward = side.loss, side.backward

    def loss(ids):
        allocated[0] = 350
        return forward(ids)

    def back(loss):
        allocated[0] = 400
        backward(loss)

    monkeypatch.setattr(side, "loss", loss)
    monkeypatch.setattr(side, "backward", back)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: allocated[0])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 900)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    took = sides.one_step(side, here.ids(2), "cuda")
    assert took["saved"] == 250
    assert took["peak"] == 800


def test_a_lost_gpu_ends_it(gpu_training, tmp_path, monkeypatch, capsys):
    def lost(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(gpu_training.sides, "turn", lost)
    command = ["--out", str(tmp_path), "--rehearse", "--groups", "weights", "--only", "SGD"]
    assert gpu_training.main(command) == 2
    said = capsys.readouterr().err
    assert "run it again" in said
    assert "illegal memory" in said
    assert not results(tmp_path)["cells"]["tiny | weights | 2 | plain"]["notes"]  # to be tried again


def test_targets_are_judged(gpu_training):
    def side(seconds, saved, peak, loss=5.0):
        return {"seconds": seconds, "tokens": 10, "saved": saved, "peak": peak, "loss": loss}

    told = {name: {"norm": 1.0, "held": 5, "about": ""} for name in ("PEFT", "LoRA", "QLoRA")}
    rounds = [{"PEFT": side(1.2, 100, 150), "LoRA": side(1.0, 69, 140), "QLoRA": side(1.2, 69, 140, 5.5)}]
    cell = {"rounds": rounds, "notes": {}, "told": told, "walls": []}
    keys = ("llama-1b | adapters | 4 | plain", "llama-1b | adapters | 4 | checkpointed")
    data = {"settings": {"device": "cuda"}, "cells": dict.fromkeys(keys, cell)}
    lines = gpu_training.training_report.verdicts(data).splitlines()
    assert [line.split(": ")[-1] for line in lines] == ["met", "met", "missed", "met", "missed", "missed"]
    assert "activations of LoRA over PEFT 0.69" in lines[1]
    assert "activations of LoRA over PEFT 0.93" in lines[4], "under checkpoints it is the peak"
    rounds[0]["LoRA"]["loss"] = 4.0
    lines = gpu_training.training_report.verdicts(data).splitlines()
    assert lines[0].endswith("not the same work")
    assert "NOT THE SAME WORK" in gpu_training.training_report.pairs_table(data)


def test_all_that_is_asked_for_is_measured(gpu_training):
    found = gpu_training.cells(["llama-1b", "llama-8b"], [4, 16], list(gpu_training.GROUPS))
    keys = [cell.key for cell in found]
    assert len(keys) == len(set(keys))
    for model in ("llama-1b", "llama-8b"):
        for group in gpu_training.GROUPS:
            for segments in (4, 16):
                assert any(key.startswith(f"{model} | {group} | {segments} | ") for key in keys)
    assert {cell.group for cell in found[:6]} == {"adapters"}, "what targets are about comes first"
    named = {name for pair in gpu_training.sides.pairs() for name in pair[1:]}
    assert named == {name for names in gpu_training.GROUPS.values() for name in names}


def test_what_cannot_be_measured_is_refused(gpu_training, tmp_path, capsys):
    out = ["--out", str(tmp_path)]
    assert gpu_training.main([*out, "--report"]) == 2
    assert "measure first" in capsys.readouterr().err
    assert gpu_training.main([*out, "--models", "minilm"]) == 2
    assert gpu_training.main([*out, "--rehearse", "--rounds", "0"]) == 2
    if not torch.cuda.is_available():
        assert gpu_training.main(out) == 2
        assert "expected a GPU" in capsys.readouterr().err
