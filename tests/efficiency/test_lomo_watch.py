"""Gradients changed or dropped behind the optimizer's back are refused, and a Hugging Face Trainer that would do so."""

from __future__ import annotations

import copy
import weakref

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.amp import GradScaler
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, get_total_norm
from transformers import Trainer, TrainingArguments

from efficiency.errors import InputError
from efficiency.lomo import Lomo
from tests.efficiency.lomo_kit import gap, rmt_loss, rmt_model, trained
from tests.rmt.tiny import content

LR = 0.05
MUCH = 1e9  # no norm comes to it: gradients are multiplied by one


def late(model):
    return Lomo(model.parameters(), lr=LR, defer=model, piece_bytes=1000)


def a_norm(model):
    """The weight of a layer norm: not deferred, and not the smallest."""
    return model.backbone.encoder.layer[1].output.LayerNorm.weight


def replace(model, opt):
    a_norm(model).grad = a_norm(model).grad * 2


CHANGES = {
    "clip": lambda model, opt: clip_grad_norm_(model.parameters(), 0.01),
    "clip to more than the norm that it sees": lambda model, opt: clip_grad_norm_(model.parameters(), MUCH),
    "clip one by one": lambda model, opt: clip_grad_norm_(model.parameters(), MUCH, foreach=False),
    "clip values": lambda model, opt: clip_grad_value_(model.parameters(), MUCH),
    "clip by accelerate": lambda model, opt: Accelerator(cpu=True).clip_grad_norm_(model.parameters(), MUCH),
    "unscale": lambda model, opt: unscaled(opt),
    "one gradient": lambda model, opt: a_norm(model).grad.mul_(2),
    "another gradient": replace,
}


def unscaled(opt):
    scaler = GradScaler("cpu", init_scale=8.0)
    scaler.scale(torch.ones(()))
    scaler.unscale_(opt)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_changes_from_outside_are_refused_before_a_weight_changes(change):
    model = rmt_model("encoder")
    before = copy.deepcopy(model.state_dict())
    opt = late(model)
    rmt_loss(2)(model).backward()
    change(model, opt)
    with pytest.raises(InputError, match=r"changed since.*clip_norm="):
        opt.step()
    assert gap(before, model.state_dict()) == 0
    # Having been told, the user drops the gradients, and goes on.
    opt.zero_grad()
    rmt_loss(2)(model).backward()
    opt.step()
    assert gap(before, model.state_dict()) > 0


def test_changes_between_micro_batches_are_refused():
    model = rmt_model("encoder")
    opt = late(model)
    rmt_loss(2)(model).backward()
    clip_grad_norm_(model.parameters(), MUCH)
    rmt_loss(2)(model).backward()
    with pytest.raises(InputError, match="changed since"):
        opt.step()


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("to_none", [False, True])
def test_gradients_dropped_by_the_model_are_refused(to_none, again):
    """Deferred ones would be left, and be applied with the next."""
    model = rmt_model("encoder")
    before = copy.deepcopy(model.state_dict())
    opt = late(model)
    rmt_loss(2)(model).backward()
    model.zero_grad(set_to_none=to_none)
    if again:
        rmt_loss(3)(model).backward()
    with pytest.raises(InputError, match=r"zero_grad\(\) of this optimizer"):
        opt.step()
    assert gap(before, model.state_dict()) == 0


def test_a_scaler_is_noticed_where_no_gradient_is_small():
    layer = nn.Linear(3, 3)  # its bias has a quarter of the numbers
    before = copy.deepcopy(layer.state_dict())
    opt, scaler = late(layer), GradScaler("cpu")
    scaler.scale(layer(torch.ones(1, 3)).sum()).backward()
    with pytest.raises(InputError, match="GradScaler"):
        scaler.step(opt)
    assert gap(before, layer.state_dict()) == 0


@pytest.mark.parametrize("size", [MUCH, 1e-3])
def test_clipping_behind_early_updates_is_refused(size):
    model = rmt_model("encoder")
    opt = Lomo(model.parameters(), lr=LR)
    rmt_loss(1)(model).backward()
    clip_grad_norm_(model.parameters(), size)
    with pytest.raises(InputError, match="changed since"):
        opt.step()


def test_what_is_right_is_not_refused():
    """Reading gradients, hooks of autograd, dropping them by the optimizer, a loop of one's own with such a setting."""

    class Loop:
        def __init__(self):
            self.args = type("Arguments", (), {"max_grad_norm": 0.5})()

        def run(self, make, read):
            model = rmt_model("encoder")
            opt = make(model)
            a_norm(model).register_hook(lambda grad: grad * 0.5)
            rmt_loss(3)(model).backward()
            opt.zero_grad()
            for segments in (2, 1):
                rmt_loss(segments)(model).backward()
            if read:
                assert get_total_norm([p.grad for p in model.parameters() if p.grad is not None]) > 0
            opt.step()
            model.zero_grad()
            return dict(model.named_parameters())

    expected = Loop().run(lambda m: torch.optim.SGD(m.parameters(), lr=LR), False)
    assert gap(expected, Loop().run(late, True)) < 1e-6


def test_a_norm_can_be_measured_without_clipping():
    model = rmt_model("encoder")
    rmt_loss(2)(model).backward()
    norm = float(clip_grad_norm_(model.parameters(), float("inf")))
    found = []

    def measuring(model):
        found.append(Lomo(model.parameters(), lr=LR, defer=model, clip_norm=float("inf")))
        return found[0]

    got = trained(rmt_model("encoder"), measuring, [rmt_loss(2)])
    assert found[0].last_norm == pytest.approx(norm, rel=1e-5)
    assert gap(got, trained(rmt_model("encoder"), late, [rmt_loss(2)])) < 1e-7


def test_a_step_keeps_nothing_of_its_caller_alive():
    class Loop:
        @property
        def args(self):
            raise RuntimeError("not ready")  # nothing of a caller is asked for

        def run(self):
            model = nn.Linear(3, 3)
            opt = Lomo(model.parameters(), lr=0.1, defer=model)
            out = model(torch.ones(2, 3))
            out.sum().backward()
            opt.step()
            gone = weakref.ref(out)
            del out
            return gone() is None

    assert Loop().run()


def test_several_processes_are_refused(monkeypatch):
    layer = nn.Linear(3, 3)
    opt = late(layer)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    layer(torch.ones(1, 3)).sum().backward()
    with pytest.raises(InputError, match="one process, got 2"):
        opt.step()
    with pytest.raises(InputError, match="one process, got 2"):
        Lomo(nn.Linear(3, 3).parameters())


class Rows(torch.utils.data.Dataset):
    """Documents of twelve tokens."""

    ids = content(16, 12)

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, at):
        return {"input_ids": self.ids[at], "labels": self.ids[at]}


def test_trainer_with_accumulation_and_a_schedule(tmp_path):
    def run(make, **changes):
        model = rmt_model("decoder", recurrence="checkpointed")
        opt = make(model)
        fields = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_grad_norm": 0.0} | changes
        args = TrainingArguments(
            output_dir=str(tmp_path), max_steps=3, report_to=[], save_strategy="no", use_cpu=True, seed=1, **fields
        )
        schedule = torch.optim.lr_scheduler.LinearLR(opt, 1.0, 0.5, total_iters=3)
        Trainer(model=model, args=args, train_dataset=Rows(), optimizers=(opt, schedule)).train()
        return model.state_dict()

    expected = run(lambda m: torch.optim.SGD(m.parameters(), lr=0.01))
    assert gap(expected, run(lambda m: Lomo(m.parameters(), lr=0.01, defer=m))) < 1e-5
    for norm in (1.0, MUCH):  # with a norm that no gradient comes to, none would be changed
        with pytest.raises(InputError, match=r"max_grad_norm=0 in TrainingArguments, got .*pass clip_norm="):
            run(lambda m: Lomo(m.parameters(), lr=0.01, defer=m), max_grad_norm=norm)
    with pytest.raises(InputError, match="one backward before step"):
        run(lambda m: Lomo(m.parameters(), lr=0.01, piece_bytes=1000))
