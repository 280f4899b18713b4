"""The slow, plainly right twin: one document, one segment at a time, lists and loops, written out by hand.

Shares no code with :mod:`rmt.cells`, :mod:`rmt.segments`, :mod:`rmt.recurrence` or :mod:`rmt.executors`; it
takes only the configuration and the weights of a model. Every fast path is tested against it, and its speed
is what a fast path is measured by. Formulas: Bulatov et al., arXiv 2207.06881, section 3 (memory tokens); the
gated update is that of :class:`rmt.cells.tokens.TokenMemoryCell`, written out.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from rmt.errors import InputError
from rmt.models.base import RMTPreTrainedModel

Model = TypeVar("Model", bound=RMTPreTrainedModel)


def as_reference(model: Model) -> Model:
    """A copy of ``model`` as the reference wants it: float32, explicit attention, evaluation mode."""
    twin = copy.deepcopy(model).float().eval()
    twin.set_attn_implementation("eager")
    return twin


@torch.no_grad()
def read(
    model: RMTPreTrainedModel, ids: Sequence[int], memory: Float[Tensor, "memory hidden"] | None = None
) -> Float[Tensor, "memory hidden"]:
    """The memory after a document.

    Args:
        model: in float32 and evaluation mode, see :func:`as_reference`.
        ids: content tokens, without special tokens.
        memory: what was read before; None for nothing.

    Raises:
        InputError: no tokens, or a model in another dtype or in training mode.
    """
    state = _begin(model, memory)
    for segment in _segments(model, ids):
        _, _, state = _one_segment(model, segment, state)
    return state


@torch.no_grad()
def classify(
    model: Any, ids: Sequence[int], memory: Float[Tensor, "memory hidden"] | None = None
) -> Float[Tensor, " labels"]:
    """Logits of a classifier after ``ids`` (a question, or a document), with what the memory holds.

    Raises:
        InputError: as :func:`read`.
    """
    state = _begin(model, memory)
    opening = None
    for segment in _segments(model, ids):
        opening, _, state = _one_segment(model, segment, state)
    return model.classifier(opening)


@torch.no_grad()
def next_token_logits(
    model: Any, ids: Sequence[int], memory: Float[Tensor, "memory hidden"] | None = None
) -> Float[Tensor, "length vocabulary"]:
    """Logits of a language model for the token behind each token of ``ids``.

    Raises:
        InputError: as :func:`read`.
    """
    state = _begin(model, memory)
    head = model.backbone.get_output_embeddings()
    cap = getattr(model.config.backbone_config, "final_logit_softcapping", None)
    rows = []
    for segment in _segments(model, ids):
        _, hidden, state = _one_segment(model, segment, state)
        for position in range(len(segment)):
            logits = head(hidden[position])
            rows.append(logits if cap is None else cap * torch.tanh(logits / cap))
    return torch.stack(rows)


def _begin(model: RMTPreTrainedModel, memory: Tensor | None) -> Tensor:
    if model.training or model.dtype != torch.float32:
        mode = "training" if model.training else "evaluation"
        raise InputError(
            f"reference: expected a float32 model in evaluation mode, got {model.dtype} in {mode} mode; "
            "use rmt.reference.as_reference(model)"
        )
    if memory is not None:
        return memory
    first = model.cell.memory.detach()
    return torch.zeros_like(first) if _gated(model) else first


def _segments(model: RMTPreTrainedModel, ids: Sequence[int]) -> Iterator[list[int]]:
    tokens = [int(i) for i in ids]
    if not tokens:
        raise InputError("reference: expected at least one token, got none; give a text that is not empty")
    size = model.config.segment_size
    for start in range(0, len(tokens), size):
        yield tokens[start : start + size]


def _one_segment(model: RMTPreTrainedModel, segment: list[int], memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The opening hidden state, the hidden states of the segment's tokens, and the memory after it."""
    lay_out = _encoder if model.layout == "encoder" else _decoder
    shown = memory + model.cell.memory if _gated(model) else memory
    hidden, first, output = lay_out(model, segment, shown)
    tokens = hidden[first : first + len(segment)]
    return hidden[0], tokens, _update(model, memory, output)


def _encoder(model: RMTPreTrainedModel, segment: list[int], memory: Tensor) -> tuple[Tensor, int, Tensor]:
    """[CLS] memory [SEP] segment [SEP], or [CLS] segment [SEP] without memory tokens."""
    cls, sep = _word(model, model.config.cls_token_id), _word(model, model.config.sep_token_id)
    row = [cls]
    row.extend(memory)
    if len(memory):
        row.append(sep)
    first = len(row)
    row.extend(_word(model, token) for token in segment)
    row.append(sep)
    hidden = _run(model, row)
    return hidden, first, hidden[1 : 1 + len(memory)]


def _decoder(model: RMTPreTrainedModel, segment: list[int], memory: Tensor) -> tuple[Tensor, int, Tensor]:
    """[memory | segment | memory], causal: the last block has seen everything before it."""
    row = list(memory)
    row.extend(_word(model, token) for token in segment)
    row.extend(memory)
    hidden = _run(model, row)
    last = len(memory) + len(segment)
    return hidden, len(memory), hidden[last:]


def _word(model: RMTPreTrainedModel, token: int | None) -> Tensor:
    assert token is not None
    return model.get_input_embeddings()(torch.tensor([token], device=model.device))[0]


def _run(model: RMTPreTrainedModel, row: list[Tensor]) -> Tensor:
    transformer: Any = model.backbone.base_model
    return transformer(inputs_embeds=torch.stack(row)[None]).last_hidden_state[0]


def _update(model: RMTPreTrainedModel, memory: Tensor, output: Tensor) -> Tensor:
    """The next memory: the output itself (replace), or per slot, with its key k and a scale g (gated),

    o = norm(output), e = [norm(k + m); o], s = sigmoid(a e + b), 0 below the threshold,
    c = sigmoid(A e + d), m' = (1 - s c) m + s c (g * o).
    """
    if not _gated(model):
        return output
    cell: Any = model.cell
    slots = []
    for key, m, out in zip(cell.memory, memory, output, strict=True):
        o = _norm(out)
        e = torch.cat([_norm(key + m), o])
        s = torch.sigmoid(cell.slot_gate.weight[0] @ e + cell.slot_gate.bias[0])
        c = torch.sigmoid(cell.channel_gate.weight @ e + cell.channel_gate.bias)
        if float(s) < model.config.gate_threshold:
            slots.append(m)
        else:
            slots.append((1 - s * c) * m + s * c * (cell.write_scale * o))
    return torch.stack(slots)


def _gated(model: RMTPreTrainedModel) -> bool:
    return model.config.memory_update == "gated" and model.config.num_memory_tokens > 0


def _norm(vector: Tensor) -> Tensor:
    """To mean 0 and variance 1, as layer normalisation without weights (epsilon 1e-5)."""
    centred = vector - vector.mean()
    return centred / torch.sqrt((centred * centred).mean() + 1e-5)
