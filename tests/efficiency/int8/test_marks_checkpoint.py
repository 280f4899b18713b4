"""Gradients where memory runs unrounded and layers are checkpointed: those without checkpoints, or an error."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from efficiency.errors import InputError
from efficiency.int8 import Int8Linear, Marks
from rmt import RMTConfig, RMTForCausalLM
from tests.efficiency.int8.checkpoint_nets import quantised
from tests.rmt.families import build

IDS = torch.randint(3, 61, (2, 16), generator=torch.Generator().manual_seed(0))


def model_and_marks() -> tuple[Any, Marks]:
    """A recurrent LLaMA in 8 bits that round coarsely, with its memory apart, in training mode."""
    torch.manual_seed(0)
    config = RMTConfig(backbone_config=build("llama").config, num_memory_tokens=2, segment_size=8)
    model, marks = quantised(RMTForCausalLM(config), "static"), Marks()
    model.on_positions(marks)
    for module in model.modules():
        if isinstance(module, Int8Linear):
            module.marks = marks
    return model.train(), marks


def gradient(model: Any, keep: bool = False) -> Tensor:
    """Of the memory tokens."""
    model.zero_grad()
    loss = model(IDS, labels=IDS).loss
    if keep:
        loss.backward(retain_graph=True)
        model.zero_grad()
    loss.backward()
    found: Tensor = model.cell.memory.grad.clone()
    return found


def test_a_checkpoint_around_each_layer_is_told_once_more_or_refused() -> None:
    model, marks = model_and_marks()
    wanted = gradient(model)
    model.gradient_checkpointing_enable()  # the model's own, around segments
    torch.testing.assert_close(gradient(model), wanted)
    model.gradient_checkpointing_disable()
    for reentrant in (False, True):
        model.core.gradient_checkpointing_enable({"use_reentrant": reentrant})
        with pytest.raises(InputError, match=r"marks: expected .* context_fn=marks\.again"):
            gradient(model)
    model.core.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": marks.again})
    for keep in (False, True):
        assert torch.equal(gradient(model, keep), wanted)
    for module in model.modules():  # the control: rounding memory like text changes the gradient
        if isinstance(module, Int8Linear):
            module.marks = None
    assert (gradient(model) - wanted).norm() > 0.01 * wanted.norm()


def test_where_nothing_is_told_at_all_layers_may_be_checkpointed() -> None:
    layer, x = Int8Linear.from_linear(nn.Linear(8, 8)), torch.randn(1, 3, 8, requires_grad=True)
    layer.marks = Marks()
    layer(x).square().sum().backward()
    wanted = x.grad
    x.grad = None
    checkpoint(lambda it: layer(it).square(), x, use_reentrant=False).sum().backward()
    assert torch.equal(x.grad, wanted)


def test_what_is_told_ends_with_its_block() -> None:
    marks, outer, inner = Marks(), torch.ones(2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)
    again = marks.told(inner)
    with marks.told(outer):
        for _ in range(2):
            with again:
                assert marks.mask is inner
            assert marks.mask is outer
        with pytest.raises(KeyError), again:
            raise KeyError
        assert marks.mask is outer
    assert marks.mask is None
