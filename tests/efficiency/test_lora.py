"""Fused LoRA layers give what PEFT's or a naive twin gives, and keep less."""

from __future__ import annotations

import copy

import pytest
import torch
from peft.tuners.lora import Linear
from torch import nn

from efficiency.errors import InputError
from efficiency.lora import FusedLinear, fuse, kept_beside, layers, next_step, unfuse, unfused
from efficiency.masks import kept
from efficiency.prepack import Layouts
from efficiency.product import Product, Terms
from tests.efficiency.lora_nets import NaiveLayer, adapted, gap, segments, step_of, twins

# Rounding of float32 in another order; one layer's wrong scale or mask would be 1e-1.
CLOSE = 1e-6


@pytest.mark.parametrize("shape", [(12,), (5, 12), (4, 5, 12), (2, 3, 5, 12)])
@pytest.mark.parametrize(
    "config",
    [{}, {"use_rslora": True}, {"init_lora_weights": "pissa"}, {"rank_pattern": {"up": 5}}],
    ids=lambda config: next(iter(config), "plain"),
)
def test_outputs_and_gradients_are_those_of_peft(shape, config):
    theirs, ours = twins(adapted(**config))
    assert fuse(ours) == 2
    assert gap(step_of(ours, segments(3, shape)), step_of(theirs, segments(3, shape))) <= CLOSE


def test_double_precision_leaves_no_doubt():
    theirs, ours = twins(adapted().double())
    fuse(ours)
    given = segments(dtype=torch.float64)
    assert gap(step_of(ours, given), step_of(theirs, given)) <= 1e-14


def test_gradients_by_differences():
    a, b = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 6), (5, 2)))
    x = torch.randn(3, 4, 6, dtype=torch.float64, requires_grad=True)
    weight, bias = torch.randn(5, 6, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    keep = kept(0, 0, 0, samples=3, features=6, p=0.3)

    def product(x, a, b):
        terms = Terms.made(a.detach(), b.detach(), scale=1.7, keep=keep, dtype=torch.float64)
        return Product.apply(x, weight, bias, a, b, terms, Layouts())

    assert torch.autograd.gradcheck(product, (x, a, b))


def test_inputs_that_are_not_contiguous():
    theirs, ours = twins(adapted())
    fuse(ours)
    x = torch.randn(5, 4, 24)[..., ::2].transpose(0, 1)
    assert torch.allclose(ours.base_model.model.up(x), theirs.base_model.model.up(x), atol=1e-6)


@pytest.mark.parametrize("masks", ["sample", "shared"])
@pytest.mark.parametrize("checkpointed", [False, True], ids=["plain", "checkpointed"])
def test_dropout_is_a_naive_twin_with_the_same_masks(masks, checkpointed):
    """One mask for all segments and positions of a step, another one for each layer and step."""
    p, samples = 0.4, {"sample": 4, "shared": 1}[masks]
    ours = adapted(lora_dropout=p, checkpointed=checkpointed)
    naive = copy.deepcopy(ours)
    fuse(ours, seed=9, masks=masks)
    found = []
    for step in range(2):
        assert next_step(ours, step) == step
        for number, (name, features) in enumerate([("up", 12), ("down", 20)]):
            layer = dict(layers(ours))[f"base_model.model.{name}"]
            mask = kept(9, step, number, samples=samples, features=features, p=p)[:, None]
            setattr(naive.base_model.model, name, NaiveLayer(layer, mask, p))
        given = segments()
        found.append(step_of(ours, given))
        expected = step_of(naive, given)
        assert gap(found[-1], expected) <= CLOSE
    assert gap(found[0], found[1]) > 1e-2, "both steps had the same masks"


def test_recomputation_is_exact_with_dropout():
    """Bit for bit: the order in which segments are computed again does not matter."""
    plain, again = (adapted(lora_dropout=0.3, checkpointed=c) for c in (False, True))
    fuse(plain), fuse(again)
    one, two = step_of(plain, segments(5)), step_of(again, segments(5))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_nothing_is_dropped_when_not_training():
    theirs, ours = twins(adapted(lora_dropout=0.5).eval())
    fuse(ours)
    given = segments()
    assert gap(step_of(ours, given), step_of(theirs, given)) <= CLOSE


def test_a_step_of_the_optimizer_brings_new_masks():
    model = adapted(lora_dropout=0.5)
    fuse(model)
    other = adapted(lora_dropout=0.5)
    given = segments()
    own = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
    foreign = torch.optim.SGD([p for p in other.parameters() if p.requires_grad], lr=0.0)
    first = step_of(model, given)
    foreign.step()
    assert torch.equal(step_of(model, given)["loss"], first["loss"])
    own.step()
    second = step_of(model, given)
    assert not torch.equal(second["loss"], first["loss"])
    assert next_step(model) == 2
    assert not torch.equal(step_of(model, given)["loss"], second["loss"])
    next_step(model, 0)
    assert torch.equal(step_of(model, given)["loss"], first["loss"]), "the step is all that masks depend on"
    fuse(model, seed=1)
    assert not torch.equal(step_of(model, given)["loss"], first["loss"]), "the seed too"


def test_a_copy_has_steps_of_its_own():
    model = adapted(lora_dropout=0.5)
    fuse(model)
    given = segments()
    first = step_of(model, given)
    twin = copy.deepcopy(model)
    assert torch.equal(step_of(twin, given)["loss"], first["loss"])
    torch.optim.SGD([p for p in twin.parameters() if p.requires_grad], lr=0.0).step()
    assert not torch.equal(step_of(twin, given)["loss"], first["loss"])
    assert torch.equal(step_of(model, given)["loss"], first["loss"])


def test_updates_are_seen():
    """In place, past the version counter as some optimizers write, and by another tensor."""
    theirs, ours = twins(adapted())
    fuse(ours)
    given = segments()
    for change in (
        lambda p: p.add_(0.02),
        lambda p: p.data.add_(0.02),
        lambda p: setattr(p, "data", p.data + 0.02),
    ):
        with torch.no_grad():
            for model in (ours, theirs):
                for name, parameter in model.named_parameters():
                    if "lora_" in name:
                        change(parameter)
        for _ in range(2):
            assert gap(step_of(ours, given), step_of(theirs, given)) <= CLOSE


def test_a_change_between_forward_and_backward_is_an_error():
    model = adapted()
    fuse(model)
    loss = model(segments())
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if "lora_A" in n).add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_only_x_and_its_product_are_saved():
    """Over all segments: x and A x of each layer, one copy of the adapters, no base weight's gradient."""
    model = adapted(lora_dropout=0.2).to(torch.bfloat16)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
    layer = model.base_model.model.up
    x = torch.randn(4, 5, 12, dtype=torch.bfloat16, requires_grad=True)
    own = {p.data_ptr() for p in model.parameters()}

    def saved() -> list[int]:
        found = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: found.setdefault(t.untyped_storage().data_ptr(), t), lambda t: t
        ):
            for _ in range(3):
                layer(x)
        return sorted(t.untyped_storage().nbytes() for at, t in found.items() if at not in own)

    theirs = saved()
    fuse(model)
    assert saved() == [4 * 5 * 3 * 2] * 3 + [x.nbytes]
    assert sum(theirs) > 2 * sum(saved()), "the control"
    assert kept_beside(model) == (4 * 3 * 12 + 3 * 20) * 2 + 4 * 12
    layer(x).sum().backward()
    assert layer.base_layer.weight.grad is None
    assert layer.lora_A["default"].weight.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_bfloat16_is_as_good_as_bfloat16_can_be(dtype):
    """Against the same net in float32: no worse than PEFT, whose adapters run in float32."""
    exact = adapted()
    theirs = copy.deepcopy(exact)
    for module in (theirs.base_model.model.up, theirs.base_model.model.down):
        module.base_layer.to(torch.bfloat16)
    ours = copy.deepcopy(theirs)
    assert fuse(ours, dtype=dtype) == 2
    expected = step_of(exact, segments())
    given = segments(dtype=torch.bfloat16)
    errors = [gap({k: v.float() for k, v in step_of(m, given).items()}, expected) for m in (ours, theirs)]
    assert errors[0] < 2 * errors[1] < 0.1


def test_autocast():
    """The products run in its format, backward inside and outside of it."""
    theirs, ours = twins(adapted())
    fuse(ours)
    given = segments()
    with torch.autocast("cpu", torch.bfloat16):
        one, two = step_of(ours, given), step_of(theirs, given)
        assert ours.base_model.model.up(given[0]).dtype == torch.bfloat16
        loss = ours(given)
    assert gap(one, two) < 0.05
    for p in ours.parameters():
        p.grad = None
    loss.backward()
    found = {n: p.grad for n, p in ours.named_parameters() if p.grad is not None}
    assert all(torch.equal(found[name], one[name]) for name in found)


def test_transforms_of_functions_see_peft():
    theirs, ours = twins(adapted())
    fuse(ours)
    x = torch.randn(3, 5, 12)
    got, expected = (torch.vmap(m.base_model.model.up)(x) for m in (ours, theirs))
    assert torch.equal(got, expected)


def test_other_weights_by_functional_call():
    """A copy of a layer runs with the weights that it is given, not with those it was fused with."""
    model = adapted()
    fuse(model)
    layer = model.base_model.model.up
    x = torch.randn(2, 12)
    zero = {n: torch.zeros_like(p) for n, p in layer.named_parameters()}
    assert not torch.func.functional_call(layer, zero, x).any()
    assert layer(x).any()


def test_fusing_twice_and_back():
    theirs, ours = twins(adapted())
    assert fuse(ours) == fuse(ours) == 2
    assert unfuse(ours) == 2
    assert unfuse(ours) == 0
    assert all(type(layer) is Linear for _, layer in layers(ours))
    assert vars(ours.base_model.model.up).keys() == vars(theirs.base_model.model.up).keys()
    given = segments()
    one, two = step_of(ours, given), step_of(theirs, given)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert set(unfused(ours).values()) == {"fuse was not called"}


def test_an_empty_batch():
    model = adapted(lora_dropout=0.1)
    fuse(model)
    assert model.base_model.model.up(torch.zeros(0, 3, 12)).shape == (0, 3, 20)


def test_bad_input():
    with pytest.raises(InputError, match=r"expected a model with LoRA layers of PEFT, got Linear"):
        fuse(nn.Linear(2, 2))
    with pytest.raises(InputError, match=r"masks: expected one of sample, shared, got 'token'"):
        fuse(adapted(), masks="token")
    with pytest.raises(InputError, match=r"dtype: expected a floating-point format, got torch.int8"):
        fuse(adapted(), dtype=torch.int8)
    with pytest.raises(InputError, match=r"expected a fused model, got PeftModel; call fuse"):
        next_step(adapted())
    assert not any(isinstance(layer, FusedLinear) for _, layer in layers(adapted()))


def test_adapters_are_cast_once_a_step(monkeypatch):
    made: list[int] = []
    monkeypatch.setattr(Terms, "made", classmethod(lambda cls, *a, _of=Terms.made, **k: made.append(1) or _of(*a, **k)))
    model = adapted()
    fuse(model)
    for _ in range(2):
        made.clear()
        step_of(model, segments(4))
        assert len(made) == 2  # layers, not calls


def test_another_weight_at_the_same_address_is_another_weight():
    model = adapted()
    fuse(model)
    given = segments()
    model(given)  # no backward: what was made of the adapters would do for the next forward
    table = model.base_model.model.up.lora_B
    old = table["default"].weight
    new = table["default"].weight = torch.nn.Parameter(old.data)
    with torch.no_grad():
        while new._version < old._version:
            new.add_(0.0)
    new.data.mul_(2.0)  # which no version counter tells
    assert (new.data_ptr(), new._version) == (old.data_ptr(), old._version)
    ours = model(given)
    unfuse(model)
    assert torch.allclose(ours, model(given))
