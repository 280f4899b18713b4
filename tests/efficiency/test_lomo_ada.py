"""AdaLomo against a twin that holds the full gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from efficiency.lomo import AdaLomo
from tests.efficiency.lomo_kit import gap, rmt_loss, rmt_model, trained

LR = 0.02


class Naive(torch.optim.Optimizer):
    """Algorithm 1 of arXiv 2310.10195 written down, with the second moment formed in full."""

    def __init__(self, params, lr, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.one(p, p.grad, group["lr"], group["weight_decay"])

    def one(self, p, g, lr, decay):
        state = self.state[p]
        state["t"] = state.get("t", 0) + 1
        beta = 1 - state["t"] ** -0.8
        squares = g**2 + 1e-30
        if p.dim() == 1:
            v = state["v"] = beta * state.get("v", 0) + (1 - beta) * squares
        else:
            r = state["r"] = beta * state.get("r", 0) + (1 - beta) * squares.sum(-1)
            c = state["c"] = beta * state.get("c", 0) + (1 - beta) * squares.sum(-2)
            v = r[..., :, None] * c[..., None, :] / r.sum(-1)[..., None, None]
        u = g / v.sqrt()
        scale = max(1e-3, p.square().mean().sqrt())
        u = u / max(1.0, u.square().mean().sqrt())
        p.mul_(1 - lr * scale * decay).sub_(lr * scale * u)


@pytest.mark.parametrize("recurrence", ["plain", "checkpointed"])
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
@pytest.mark.parametrize("deferred", [False, True])
def test_equals_the_twin(deferred, kind, recurrence):
    losses = [rmt_loss(n, seed=n) for n in (4, 1, 8)]

    def build():
        # A decoder's rounding grows tenfold a step, and an update normalised by tiny gradients more.
        return rmt_model(kind, recurrence=recurrence).double()

    def ours(model):
        extra = {"defer": model} if deferred else {}
        return AdaLomo(model.parameters(), lr=LR, weight_decay=0.1, piece_bytes=2000, **extra)

    expected = trained(build(), lambda m: Naive(m.parameters(), LR, 0.1), losses)
    assert gap(expected, dict(build().named_parameters())) > 1e-3
    got = trained(build(), ours, losses)
    for name in [n for n in got if n.endswith("key.bias")]:
        # A gradient that is zero but for rounding, and made as large as any by the second moment.
        assert float((got.pop(name) - expected.pop(name)).abs().max()) < 1e-3
    assert gap(expected, got) < 1e-9


@pytest.mark.parametrize("shape", [(5,), (), (3, 4), (2, 3, 4)])
def test_shapes(shape):
    start, grads = torch.randn(shape), [torch.randn(shape) for _ in range(3)]
    one, two = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    three = nn.Parameter(start.clone())
    naive, ours, pieces = Naive([one], LR), AdaLomo([two], LR), AdaLomo([three], LR, piece_bytes=1)
    for g in grads:
        one.grad, two.grad = g.clone().reshape(shape), g.clone()
        if shape:
            naive.step()
        ours.step()
        three.grad = g.clone()
        pieces.step()
    if shape:
        assert torch.allclose(one, two, atol=1e-6)
        assert torch.allclose(one, three, atol=1e-6)
    else:
        assert torch.isfinite(two)


def test_pieces_do_not_change_an_update():
    found = []
    for piece in (200, 1 << 20):
        layer = nn.Linear(16, 40)
        torch.nn.init.constant_(layer.bias, 0.1)
        torch.manual_seed(0)
        torch.nn.init.normal_(layer.weight)
        opt = AdaLomo(layer.parameters(), LR, defer=layer, piece_bytes=piece, clip_norm=0.5)
        for seed in range(3):
            x = torch.randn(3, 16, generator=torch.Generator().manual_seed(seed))
            layer(x).square().sum().backward()
            opt.step()
        found.append(dict(layer.named_parameters()))
    assert gap(*found) < 1e-6


def test_moments_of_half_precision_weights_are_float32_after_loading():
    layer = nn.Linear(8, 8).bfloat16()
    opt = AdaLomo(layer.parameters(), LR)
    layer(torch.randn(2, 8).bfloat16()).sum().backward()
    opt.step()
    opt.load_state_dict(opt.state_dict())
    kept = [v.dtype for state in opt.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    assert len(kept) == 3
    assert set(kept) == {torch.float32}
