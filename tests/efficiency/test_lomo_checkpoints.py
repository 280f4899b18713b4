"""Checkpoints of either kind: updates during backward refuse reentrant ones, deferred ones are exact under both.

A reentrant checkpoint runs a backward of its own, so a weight that is used in several has its gradient "complete" once
in each.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import LlamaModel

from efficiency.errors import InputError
from efficiency.lomo import AdaLomo, Lomo
from tests.efficiency.lomo_kit import gap, trained
from tests.rmt.tiny import causal, content, llama_config

LR = 0.05


class Stacked(nn.Module):
    """A recurrence whose steps are checkpointed one way or the other."""

    def __init__(self, reentrant):
        super().__init__()
        torch.manual_seed(0)
        self.reentrant = reentrant
        self.layers = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
        self.head = nn.Linear(8, 8)

    def forward(self, x, segments=4):
        state = x.clone().requires_grad_()
        for _ in range(segments):
            state = checkpoint(self.layers, state, use_reentrant=self.reentrant)
        return self.head(state).square().sum()


@pytest.mark.parametrize("piece_bytes", [1, 60, 300])
def test_early_refuses_reentrant_checkpoints_before_a_weight_changes(piece_bytes):
    x = torch.randn(3, 8)
    model = Stacked(True)
    before = copy.deepcopy(model.state_dict())
    opt = Lomo(model.parameters(), lr=LR, piece_bytes=piece_bytes)

    def step():
        model(x).backward()
        opt.step()

    with pytest.raises(InputError, match="backward"):
        step()
    assert gap(before, model.state_dict()) == 0


def test_early_refuses_a_backward_inside_a_backward_of_any_kind():
    class Inside(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, layer):
            ctx.save_for_backward(x)
            ctx.layer = layer
            return layer(x)

        @staticmethod
        def backward(ctx, dy):
            with torch.enable_grad():
                x = ctx.saved_tensors[0].detach().requires_grad_()
                torch.autograd.backward(ctx.layer(x), dy)
            return x.grad, None

    layer = nn.Linear(8, 8)
    before = copy.deepcopy(layer.state_dict())
    opt = Lomo(layer.parameters(), lr=LR, piece_bytes=1)
    out = Inside.apply(torch.randn(2, 8, requires_grad=True), layer)
    with pytest.raises(InputError, match="inside a backward"):
        out.sum().backward()
    assert gap(before, layer.state_dict()) == 0
    opt.zero_grad()
    layer(torch.randn(2, 8)).sum().backward()  # an ordinary one goes through
    assert gap(before, layer.state_dict()) > 0


class Recurrent(nn.Module):
    """A LLaMA with dropout that hands three positions on; a checkpoint a segment, and in each one a layer.

    Everything that a checkpoint could do wrong is in there: embeddings looked up within, a head tied to them, layer
    norms that are not deferred, and random numbers.

    Args:
        checkpoints: None for none, or whether they are reentrant.
    """

    def __init__(self, checkpoints):
        super().__init__()
        torch.manual_seed(0)
        self.checkpoints = checkpoints
        self.backbone = LlamaModel(llama_config(attention_dropout=0.2)).train()
        self.memory = nn.Parameter(torch.randn(1, 3, 32))
        if checkpoints is not None:
            self.backbone.gradient_checkpointing_enable({"use_reentrant": checkpoints})

    def segment(self, memory, ids):
        x = torch.cat([memory, self.backbone.embed_tokens(ids)], 1)
        hidden = self.backbone(inputs_embeds=x, use_cache=False).last_hidden_state
        logits = F.linear(hidden[:, 3:], self.backbone.embed_tokens.weight)
        return hidden[:, -3:], F.cross_entropy(logits.flatten(0, 1), ids.flatten())

    def forward(self, ids, seed=0):
        torch.manual_seed(seed)
        memory, loss = self.memory.expand(len(ids), -1, -1), 0.0
        for part in ids.split(4, 1):
            if self.checkpoints is None:
                memory, here = self.segment(memory, part)
            else:
                memory, here = checkpoint(self.segment, memory, part, use_reentrant=self.checkpoints)
            loss = loss + here
        return loss


def document_loss(segments):
    ids = content(2, 4 * segments)
    return lambda model: model(ids)


@pytest.mark.parametrize("segments", [1, 2, 8])
@pytest.mark.parametrize("checkpoints", [None, False, True])
def test_deferred_equals_sgd_under_either_kind_of_checkpoint(checkpoints, segments):
    loss = document_loss(segments)
    expected = trained(Recurrent(None), lambda m: torch.optim.SGD(m.parameters(), lr=LR, weight_decay=0.1), [loss])
    start = dict(Recurrent(None).named_parameters())
    assert gap(expected, start) > 1e-3
    got = trained(
        Recurrent(checkpoints),
        lambda m: Lomo(m.parameters(), lr=LR, weight_decay=0.1, defer=m, piece_bytes=1000),
        [loss],
    )
    assert gap(expected, got) < 1e-6


@pytest.mark.parametrize("make", [Lomo, AdaLomo])
def test_deferred_micro_batches_are_clipped_alike_under_either_kind(make):
    found, norms = [], []
    for checkpoints in (None, False, True):
        model = Recurrent(checkpoints).double()
        opt = make(model.parameters(), lr=LR, defer=model, clip_norm=0.1)
        for n in range(2):
            for segments in (3, 2):
                (document_loss(segments)(model) / 2).backward()
            opt.step()
            norms.append((n, opt.last_norm))
        found.append(dict(model.named_parameters()))
    assert gap(found[0], found[1]) < 1e-12
    assert gap(found[0], found[2]) < 1e-12
    assert norms[0][1] > 0.2
    assert norms[0] == pytest.approx(norms[4])


def test_recurrent_models_refuse_reentrant_checkpoints_themselves():
    with pytest.raises(ValueError, match="use_reentrant=False"):
        causal().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
