"""LOMO is SGD: with and without recurrence, checkpoints, truncation, tied weights and deferral."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from efficiency.errors import InputError
from efficiency.lomo import Lomo
from tests.efficiency.lomo_kit import gap, rmt_loss, rmt_model, trained

LR = 0.05


def sgd(model, **fields):
    return torch.optim.SGD(model.parameters(), lr=LR, **fields)


def early(model, **fields):
    return Lomo(model.parameters(), lr=LR, piece_bytes=3000, **fields)


def late(model, **fields):
    return Lomo(model.parameters(), lr=LR, piece_bytes=1000, defer=model, **fields)


def compare(make, build, losses, **fields):
    """Gap of weights between SGD and another optimizer, from the same start."""
    start = build().state_dict()
    found = trained(build(), lambda m: sgd(m, **fields), losses)
    moved = max(float((found[k] - start[k]).abs().max()) for k in found)
    assert moved > 1e-3  # otherwise this would compare nothing
    return gap(found, trained(build(), lambda m: make(m, **fields), losses))


MODELS = [("encoder", "tokens"), ("decoder", "tokens"), ("encoder", "associative"), ("decoder", "associative")]


@pytest.mark.parametrize("make", [early, late])
@pytest.mark.parametrize("recurrence", ["plain", "checkpointed"])
@pytest.mark.parametrize(("kind", "memory"), MODELS)
def test_equals_sgd_over_segments(make, recurrence, kind, memory):
    for segments, bptt in ((1, None), (2, None), (5, 2), (8, None)):
        fields = {"memory": memory, "recurrence": recurrence, "bptt_depth": bptt}
        losses = [rmt_loss(segments)]
        # One step: a recurrent decoder with weights of 0.2 makes a rounding error tenfold a step.
        assert compare(make, lambda fields=fields: rmt_model(kind, **fields), losses, weight_decay=0.01) < 1e-6


@pytest.mark.parametrize("make", [early, late])
def test_equals_sgd_over_steps_and_a_schedule(make):
    def run(make):
        model = rmt_model("decoder", recurrence="checkpointed").double()
        rest = [p for n, p in model.named_parameters() if "layers.0" not in n]
        first = [p for n, p in model.named_parameters() if "layers.0" in n]
        opt = make([{"params": first, "lr": 0.02, "weight_decay": 0.1}, {"params": rest}], model)
        schedule = torch.optim.lr_scheduler.LinearLR(opt, 1.0, 0.1, total_iters=4)
        for seed in range(4):
            rmt_loss(3, seed)(model).backward()
            opt.step()
            schedule.step()
            opt.zero_grad()
        return dict(model.named_parameters())

    expected = run(lambda groups, model: torch.optim.SGD(groups, lr=LR))
    deferred = {"defer": None} if make is early else {}
    got = run(lambda groups, model: Lomo(groups, lr=LR, piece_bytes=3000, **({"defer": model} | deferred)))
    assert gap(expected, got) < 1e-12
    constant = trained(rmt_model("decoder").double(), sgd, [rmt_loss(3, seed) for seed in range(4)])
    assert gap(expected, constant) > 1e-3


@pytest.mark.parametrize("make", [early, late])
@pytest.mark.parametrize("order", ["layers", "wavefront"])
def test_equals_sgd_in_other_orders(make, order):
    losses = [rmt_loss(3, seed=n) for n in range(2)]
    assert compare(make, lambda: rmt_model("decoder", memory="associative", order=order), losses) < 1e-6


def test_a_deferred_embedding_under_early_layers():
    def mixed(model):
        return Lomo(model.parameters(), lr=LR, piece_bytes=1000, defer=model.get_input_embeddings(), early=True)

    build = lambda: rmt_model("decoder", memory="associative", order="layers")  # noqa: E731
    assert compare(mixed, build, [rmt_loss(3)]) < 1e-6
    model = build()
    opt = mixed(model)
    before = copy.deepcopy(model.state_dict())
    rmt_loss(3)(model).backward()
    assert torch.equal(before["backbone.model.embed_tokens.weight"], model.get_input_embeddings().weight)
    assert opt.held() > 0
    assert not torch.equal(before["backbone.lm_head.weight"], model.backbone.lm_head.weight)


class Tied(nn.Module):
    """An embedding that is also the head, a table used directly, and a layer that gets no gradient."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.words = nn.Embedding(50, 16, padding_idx=1)
        self.head = nn.Linear(16, 50)
        self.head.weight = self.words.weight
        self.inner = nn.Linear(16, 16, bias=False)
        self.unused = nn.Linear(16, 16)
        self.frozen = nn.Linear(16, 16).requires_grad_(False)

    def forward(self, ids, segments=3):
        state = 0.0
        for _ in range(segments):
            state = torch.tanh(self.inner(self.words(ids) + state)) + self.frozen(self.inner.weight.mean(0))
        logits = self.head(state) + F.linear(state, self.words.weight)
        return F.cross_entropy(logits.flatten(0, 1), ids.flatten())


def tied_loss(seed):
    ids = torch.randint(0, 50, (2, 5), generator=torch.Generator().manual_seed(seed))
    return lambda model: model(ids)


@pytest.mark.parametrize("make", [early, late])
def test_tied_padded_unused_and_frozen_weights(make):
    losses = [tied_loss(seed) for seed in range(4)]
    assert compare(make, Tied, losses, weight_decay=0.1) < 1e-6
    model = Tied()
    before = copy.deepcopy(model.state_dict())
    trained(model, lambda m: make(m, weight_decay=0.1), losses)
    after = model.state_dict()
    # SGD leaves what has no gradient alone, weight decay included.
    for name in ("unused.weight", "frozen.weight"):
        assert torch.equal(before[name], after[name])


def test_weights_are_updated_while_backward_runs_only_if_early():
    for make, changed in ((early, True), (late, False)):
        model = rmt_model("encoder")
        before = copy.deepcopy(model.state_dict())
        opt = make(model)
        rmt_loss(1)(model).backward()
        now = model.state_dict()
        assert any(not torch.equal(before[k], now[k]) for k in before) is changed
        opt.step()
        assert all(p.grad is None for p in model.parameters())
        assert opt.held() == 0


def test_deferred_gradients_add_up_over_micro_batches():
    losses = [rmt_loss(3, seed=n) for n in range(3)]

    def both(model):
        return sum(loss(model) for loss in losses) / 3

    expected = trained(rmt_model("decoder"), sgd, [both])
    model = rmt_model("decoder")
    opt = late(model)
    for loss in losses:
        (loss(model) / 3).backward()
    opt.step()
    assert gap(expected, dict(model.named_parameters())) < 1e-6


def test_early_refuses_micro_batches_before_it_touches_a_weight_again():
    model = rmt_model("encoder")
    opt = early(model)
    rmt_loss(2)(model).backward()
    opt.step()  # the queue's rest too
    before = copy.deepcopy(model.state_dict())
    rmt_loss(2)(model).backward()
    opt._queue.clear()
    once = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match="one backward before step"):
        rmt_loss(2)(model).backward()
    assert gap(once, model.state_dict()) == 0 < gap(before, once)


def test_nested_checkpoints_with_large_memories():
    build = lambda: rmt_model("decoder", memory="associative", recurrence="checkpointed", bptt_depth=3)  # noqa: E731
    losses = [rmt_loss(7, seed=n) for n in range(2)]
    for make in (early, late):
        assert compare(make, build, losses) < 1e-6


def test_layers_come_back_and_copies_are_plain():
    model = rmt_model("encoder")
    kinds = [type(m) for m in model.modules()]
    keys = list(model.state_dict())
    opt = late(model)
    assert list(model.state_dict()) == keys
    with pytest.raises(InputError, match="another optimizer"):
        late(model)
    twin = copy.deepcopy(model)
    rmt_loss(2)(twin).backward()
    assert opt.held() == 0
    assert all(p.grad is not None for n, p in twin.named_parameters() if "position" not in n)
    opt.close()
    assert [type(m) for m in model.modules()] == kinds
    other = late(model)
    del other
    assert [type(m) for m in model.modules()] == kinds


def test_zero_grad_forgets_what_is_deferred():
    model = rmt_model("encoder")
    opt = late(model)
    rmt_loss(2)(model).backward()
    assert opt.held() > 0
    opt.zero_grad()
    before = copy.deepcopy(model.state_dict())
    opt.step()
    assert gap(before, model.state_dict()) == 0


def test_autocast_equals_sgd():
    def loss(model):
        with torch.autocast("cpu", torch.bfloat16):
            return rmt_loss(3)(model)

    # bfloat16 has 8 bits: sums over segments are rounded differently, gradients are of size 1, steps of 0.05.
    assert compare(late, lambda: rmt_model("encoder"), [loss]) < 2e-3
