"""What the tests of LOMO share: training a model by two optimizers and comparing its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rmt.models.causal_lm import RMTForCausalLM
from tests.rmt.tiny import causal, classifier, content

Loss = Callable[[nn.Module], Tensor]
Maker = Callable[[nn.Module], torch.optim.Optimizer]


def rmt_loss(segments: int, seed: int = 0, batch: int = 2) -> Loss:
    """The loss of a recurrent model over documents of so many segments of four tokens."""
    ids = content(batch, 4 * segments, seed)

    def loss(model: nn.Module) -> Tensor:
        if isinstance(model, RMTForCausalLM):
            return model(ids, labels=ids).loss
        return model(input_ids=ids, labels=torch.arange(len(ids)) % 6).loss

    return loss


def rmt_model(kind: str, **fields: Any) -> nn.Module:
    """A tiny recurrent encoder or decoder in training mode; associative memory if its fields say so."""
    if fields.get("memory") == "associative":
        fields = {"num_memory_tokens": 2, "associative_key_size": 16} | fields
    model = {"encoder": classifier, "decoder": causal}[kind](**fields).train()
    if fields.get("order") == "wavefront":
        model.set_attn_implementation("eager")
    return model


def trained(model: nn.Module, make: Maker, losses: list[Loss]) -> dict[str, Tensor]:
    """Weights after one step for each loss."""
    opt = make(model)
    for loss in losses:
        loss(model).backward()
        opt.step()
        opt.zero_grad()
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def gap(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Largest absolute difference."""
    assert one.keys() == other.keys()
    return max(float((one[name].detach().double() - other[name].detach().double()).abs().max()) for name in one)
