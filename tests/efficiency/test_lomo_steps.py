"""Clipping, loss scaling, resuming, and guards."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from efficiency.errors import InputError
from efficiency.lomo import AdaLomo, Lomo
from efficiency.lomo.stash import Gradient, Stash
from tests.efficiency.lomo_kit import gap, rmt_loss, rmt_model, trained

LR = 0.05


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_clipping_by_the_exact_global_norm(kind):
    loss = rmt_loss(4)
    model = rmt_model(kind, recurrence="checkpointed")
    loss(model).backward()
    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1))
    torch.optim.SGD(model.parameters(), lr=LR).step()
    assert norm > 1  # so that clipping does something

    clipped = rmt_model(kind, recurrence="checkpointed")
    opt = Lomo(clipped.parameters(), lr=LR, defer=clipped, clip_norm=0.1, piece_bytes=1000)
    loss(clipped).backward()
    opt.step()
    assert opt.last_norm == pytest.approx(norm, rel=1e-5)
    assert gap(dict(model.named_parameters()), dict(clipped.named_parameters())) < 1e-6


def test_clipping_counts_tied_weights_once():
    model = nn.ModuleDict({"words": nn.Embedding(9, 4), "head": nn.Linear(4, 9, bias=False)})
    model["head"].weight = model["words"].weight
    ids = torch.arange(5)

    def loss():
        return model["head"](model["words"](ids).tanh()).square().sum()

    loss().backward()
    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
    model.zero_grad()
    opt = Lomo(model.parameters(), lr=0.0, defer=model, clip_norm=1.0, piece_bytes=16)
    loss().backward()
    opt.step()
    assert opt.last_norm == pytest.approx(norm, rel=1e-5)


def test_scaled_losses_are_unscaled_before_clipping():
    loss = rmt_loss(3)
    expected = trained(rmt_model("encoder"), lambda m: Lomo(m.parameters(), lr=LR, defer=m, clip_norm=0.1), [loss])
    model = rmt_model("encoder")
    opt = Lomo(model.parameters(), lr=LR, defer=model, clip_norm=0.1, loss_scale=2.0**10)
    opt.backward(loss(model))
    opt.step()
    assert gap(expected, dict(model.named_parameters())) < 1e-6


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
@pytest.mark.parametrize("make", [Lomo, AdaLomo])
def test_an_overflow_drops_the_step_and_halves_the_scale(make, bad):
    model = rmt_model("encoder")
    opt = make(model.parameters(), lr=LR, defer=model, loss_scale=1024.0, weight_decay=0.1)
    before, state = copy.deepcopy(model.state_dict()), copy.deepcopy(opt.state_dict()["state"])
    opt.backward(rmt_loss(2)(model) * bad)
    opt.step()
    assert gap(before, model.state_dict()) == 0
    assert opt.state_dict()["state"] == state
    assert (opt.loss_scale.value, opt.loss_scale.skipped) == (512.0, 1)
    assert opt.held() == 0
    assert all(p.grad is None for p in model.parameters())
    opt.backward(rmt_loss(2)(model))
    opt.step()
    assert gap(before, model.state_dict()) > 0


def test_a_scale_grows_and_an_unscaled_loss_is_refused(monkeypatch):
    monkeypatch.setattr("efficiency.lomo.scale.INTERVAL", 2)
    layer = nn.Linear(3, 3)
    opt = Lomo(layer.parameters(), lr=LR, defer=layer, loss_scale=4.0)
    for _ in range(2):
        opt.scale(layer(torch.ones(1, 3)).sum()).backward()
        opt.step()
    assert opt.loss_scale.value == 8.0
    before = copy.deepcopy(layer.state_dict())
    layer(torch.ones(1, 3)).sum().backward()
    with pytest.raises(InputError, match=r"opt\.backward"):
        opt.step()
    assert gap(before, layer.state_dict()) == 0


def test_gradients_that_are_not_finite_change_nothing_without_a_scale_either():
    layer = nn.Linear(3, 3)
    before = copy.deepcopy(layer.state_dict())
    opt = Lomo(layer.parameters(), lr=LR, defer=layer, clip_norm=1.0)
    (layer(torch.ones(1, 3)).sum() * float("nan")).backward()
    with pytest.raises(InputError, match="finite"):
        opt.step()
    assert gap(before, layer.state_dict()) == 0


@pytest.mark.parametrize("field", ["clip_norm", "loss_scale"])
def test_what_early_updates_cannot_have(field):
    with pytest.raises(InputError, match="pass defer=model"):
        Lomo(nn.Linear(2, 2).parameters(), **{field: 1.0})


@pytest.mark.parametrize(
    "fields",
    [{"lr": -1.0}, {"weight_decay": -1.0}, {"clip_norm": 0.0}, {"loss_scale": 0.0}, {"defer": nn.Linear(2, 2)}],
)
def test_bad_settings(fields):
    layer = nn.Linear(2, 2)
    with pytest.raises(InputError, match="expected"):
        Lomo(layer.parameters(), **({"defer": layer} | fields))
    assert type(layer) is nn.Linear


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("make", [Lomo, AdaLomo])
def test_a_run_resumes_bit_for_bit(make, early, tmp_path):
    losses = [rmt_loss(3, seed) for seed in range(5)]

    def start():
        model = rmt_model("decoder", recurrence="checkpointed").bfloat16()
        extra = {} if early else {"defer": model, "loss_scale": 8.0, "clip_norm": 1.0}
        opt = make(model.parameters(), lr=LR, weight_decay=0.01, piece_bytes=1000, **extra)
        return model, opt, torch.optim.lr_scheduler.LinearLR(opt, 1.0, 0.1, total_iters=5)

    def steps(model, opt, schedule, some):
        for loss in some:
            opt.backward(loss(model))
            opt.step()
            schedule.step()
            opt.zero_grad()

    whole = start()
    steps(*whole, losses)
    first = start()
    steps(*first, losses[:2])
    torch.save([part.state_dict() for part in first], tmp_path / "state.pt")
    del first
    second = start()
    for part, state in zip(second, torch.load(tmp_path / "state.pt", weights_only=True), strict=True):
        part.load_state_dict(state)
    steps(*second, losses[2:])
    assert gap(whole[0].state_dict(), second[0].state_dict()) == 0
    # The state is needed: without it the run goes another way.
    other = start()
    steps(*other, losses[2:])
    assert gap(whole[0].state_dict(), other[0].state_dict()) > 0


@pytest.mark.parametrize("make", [Lomo, AdaLomo])
def test_a_group_added_later(make):
    model = rmt_model("encoder")
    layers = list(model.backbone.encoder.layer[0].parameters())
    ours = {id(p) for p in layers}
    rest = [p for p in model.parameters() if id(p) not in ours]
    opt = make(rest, lr=LR, defer=model)
    opt.add_param_group({"params": layers, "lr": 2 * LR})
    rmt_loss(3)(model).backward()
    opt.step()
    expected = rmt_model("encoder")
    other = make(expected.parameters(), lr=LR, defer=expected)
    rmt_loss(3)(expected).backward()
    for group in other.param_groups:
        assert group["lr"] == LR
    other.step()
    moved = rmt_model("encoder")
    start, one, two = (dict(m.named_parameters()) for m in (moved, expected, model))
    for name, p in start.items():
        times = 2 if "encoder.layer.0" in name else 1
        assert torch.allclose(two[name] - p, times * (one[name] - p), atol=1e-6)


def test_factors_are_kept_only_while_they_are_smaller_than_the_weight():
    stash = Stash(nn.Parameter(torch.zeros(6, 4)))
    x, dy = torch.randn(4, 1, 2, 4), torch.randn(4, 1, 2, 6)
    for n, held in enumerate((80, 0, 0)):  # 2 rows of 4 + 6 numbers; two calls are 160 bytes, the weight has 96
        stash.add_linear(x[n], dy[n])
        assert stash.held == held
        assert (stash.buffer is None) is (n == 0)
    pieces = list(stash.gradient().pieces(1))
    assert [at for at, _ in pieces] == [slice(n, n + 1) for n in range(6)]
    got = torch.cat([part for _, part in pieces])
    assert torch.allclose(got, sum(dy[n, 0].t() @ x[n, 0] for n in range(3)), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_product_is_added_without_being_formed(dtype):
    x, dy, weight = (torch.randn(*shape).to(dtype) for shape in ((5, 4), (5, 6), (6, 4)))
    param = weight.clone()
    assert Gradient(param, linear=(x, dy)).add_to(param, alpha=-0.5, beta=0.9)
    expected = 0.9 * weight.double() - 0.5 * dy.double().t() @ x.double()
    # In half precision rounded once: to 8 bits, of numbers up to about 4.
    assert torch.allclose(param.double(), expected, atol=1e-12 if dtype == torch.float64 else 0.02)
    before = param.clone()
    ids = torch.arange(5)
    for others in ({"linear": (x.float(), dy.float())}, {"looked_up": (ids, x)}, {"dense": weight.clone()}):
        assert not Gradient(param, **others).add_to(param, alpha=-0.5, beta=0.9)
    assert not Gradient(param, linear=(x, dy), looked_up=(ids, x)).add_to(param, alpha=-0.5, beta=0.9)
    assert torch.equal(param, before)
