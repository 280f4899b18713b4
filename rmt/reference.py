"""The slow, plainly right twin: one document, one segment at a time, lists and loops, written out by hand.

Shares no code with :mod:`rmt.cells`, :mod:`rmt.segments`, :mod:`rmt.recurrence` or :mod:`rmt.executors`; it
takes only the configuration and the weights of a model. Every fast path is tested against it, and its speed
is what a fast path is measured by. Formulas: Bulatov et al., arXiv 2207.06881, section 3 (memory tokens); the
gated update is that of :class:`rmt.cells.tokens.TokenMemoryCell`, written out; arXiv 2402.10790, section 3, and
:class:`rmt.cells.retrieval.Retrieval` (old memories).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from rmt import reference_associative as associative
from rmt.errors import InputError
from rmt.models.base import RMTPreTrainedModel

Model = TypeVar("Model", bound=RMTPreTrainedModel)
# Memory tokens, or with associative memory what :func:`rmt.reference_associative.empty` describes.
Remembered = Float[Tensor, "memory hidden"] | dict[str, Tensor]


@dataclass(frozen=True)
class Bank:
    """Old memories that are kept, with the number of each and how far the memory had moved when it was taken.

    Attributes:
        copies: of shape (memory, hidden) each, oldest first; numbers begin at 1.
        drift: how far the memory has moved since a copy was last due.
        segments: that have been read.
    """

    copies: tuple[tuple[int, float, Tensor], ...] = ()
    drift: float = 0.0
    segments: int = 0


def as_reference(model: Model) -> Model:
    """A copy of ``model`` as the reference wants it: float32, explicit attention, evaluation mode."""
    twin = copy.deepcopy(model).float().eval()
    twin.set_attn_implementation("eager")
    return twin


@torch.no_grad()
def read(model: RMTPreTrainedModel, ids: Sequence[int], memory: Remembered | None = None) -> Remembered:
    """The memory after a document.

    Args:
        model: in float32 and evaluation mode, see :func:`as_reference`.
        ids: content tokens, without special tokens.
        memory: what was read before; None for nothing.

    Raises:
        InputError: no tokens, or a model in another dtype or in training mode.
    """
    return read_on(model, ids, memory)[0]


@torch.no_grad()
def read_on(
    model: RMTPreTrainedModel,
    ids: Sequence[int],
    memory: Remembered | None = None,
    bank: Bank | None = None,
) -> tuple[Remembered, Bank]:
    """As :func:`read`, with the old memories that a model with retrieval keeps; an empty bank without retrieval."""
    state, bank = _begin(model, memory), bank or Bank()
    for segment in _segments(model, ids):
        _, _, state, bank = one_segment(model, _words(model, segment), state, bank)
    return state, bank


@torch.no_grad()
def classify(
    model: Any, ids: Sequence[int], memory: Remembered | None = None, bank: Bank | None = None
) -> Float[Tensor, " labels"]:
    """Logits of a classifier after ``ids`` (a question, or a document), with what memory and bank hold.

    Raises:
        InputError: as :func:`read`.
    """
    state, bank = _begin(model, memory), bank or Bank()
    opening = None
    for segment in _segments(model, ids):
        opening, _, state, bank = one_segment(model, _words(model, segment), state, bank)
    return model.classifier(opening)


@torch.no_grad()
def next_token_logits(
    model: Any, ids: Sequence[int], memory: Remembered | None = None, bank: Bank | None = None
) -> Float[Tensor, "length vocabulary"]:
    """Logits of a language model for the token behind each token of ``ids``.

    Raises:
        InputError: as :func:`read`.
    """
    state, bank = _begin(model, memory), bank or Bank()
    head = model.backbone.get_output_embeddings()
    cap = getattr(model.config.backbone_config, "final_logit_softcapping", None)
    rows = []
    for segment in _segments(model, ids):
        _, hidden, state, bank = one_segment(model, _words(model, segment), state, bank)
        for position in range(len(segment)):
            logits = head(hidden[position])
            rows.append(logits if cap is None else cap * torch.tanh(logits / cap))
    return torch.stack(rows)


def _begin(model: RMTPreTrainedModel, memory: Any) -> Any:
    if model.training or model.dtype != torch.float32:
        mode = "training" if model.training else "evaluation"
        raise InputError(
            f"reference: expected a float32 model in evaluation mode, got {model.dtype} in {mode} mode; "
            "use rmt.reference.as_reference(model)"
        )
    if memory is not None:
        return memory
    if model.config.memory == "associative":
        return associative.empty(model)
    first = model.cell.memory.detach()
    return torch.zeros_like(first) if _gated(model) else first


def _segments(model: RMTPreTrainedModel, ids: Sequence[int]) -> Iterator[list[int]]:
    tokens = [int(i) for i in ids]
    if not tokens:
        raise InputError("reference: expected at least one token, got none; give a text that is not empty")
    size = model.config.segment_size
    for start in range(0, len(tokens), size):
        yield tokens[start : start + size]


def one_segment(
    model: RMTPreTrainedModel, words: list[Tensor], memory: Any, bank: Bank
) -> tuple[Tensor, Tensor, Any, Bank]:
    """The opening hidden state, the hidden states of the segment's tokens, memory and bank after it.

    Args:
        model: see :func:`as_reference`.
        words: what the backbone is given for each token of the segment, of shape (hidden,) each.
        memory, bank: before the segment.
    """
    length = len(words)
    if model.config.memory == "associative":
        return *associative.one_segment(model, words, memory), bank
    words = list(words)
    if model.layout == "encoder":
        words.append(_word(model, model.config.sep_token_id))
    shown = _shown(model, memory)
    if model.config.retrieval_every:
        cell: Any = model.cell
        queries = [cell.retrieval.memory_query.weight @ _norm(m) for m in shown]
        found = [_found(model, q, sum(queries) / len(queries), bank) for q in queries]
        shown = torch.stack([m + cell.retrieval.memory_output.weight @ f for m, f in zip(shown, found, strict=True)])
        for place, word in enumerate(words):
            query = cell.retrieval.text_query.weight @ _norm(word)
            words[place] = word + cell.retrieval.text_output.weight @ _found(model, query, query, bank)
    hidden, first, output = (_encoder if model.layout == "encoder" else _decoder)(model, words, shown)
    tokens = hidden[first : first + length]
    new = _update(model, memory, output)
    return hidden[0], tokens, new, _kept(model, bank, memory, new) if model.config.retrieval_every else bank


def _encoder(model: RMTPreTrainedModel, words: list[Tensor], memory: Tensor) -> tuple[Tensor, int, Tensor]:
    """[CLS] memory [SEP] segment [SEP], or [CLS] segment [SEP] without memory tokens; words with the last [SEP]."""
    cls, sep = _word(model, model.config.cls_token_id), _word(model, model.config.sep_token_id)
    row = [cls]
    row.extend(memory)
    if len(memory):
        row.append(sep)
    first = len(row)
    row.extend(words)
    hidden = _run(model, row)
    return hidden, first, hidden[1 : 1 + len(memory)]


def _decoder(model: RMTPreTrainedModel, words: list[Tensor], memory: Tensor) -> tuple[Tensor, int, Tensor]:
    """[memory | segment | memory], causal: the last block has seen everything before it."""
    row = [*memory, *words, *memory]
    hidden = _run(model, row)
    last = len(memory) + len(words)
    return hidden, len(memory), hidden[last:]


def _words(model: RMTPreTrainedModel, segment: list[int]) -> list[Tensor]:
    return [_word(model, token) for token in segment]


def _word(model: RMTPreTrainedModel, token: int | None) -> Tensor:
    assert token is not None
    return model.get_input_embeddings()(torch.tensor([token], device=model.device))[0]


def _run(model: RMTPreTrainedModel, row: list[Tensor]) -> Tensor:
    transformer: Any = model.core
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


def _shown(model: RMTPreTrainedModel, memory: Tensor) -> Tensor:
    return memory + model.cell.memory if _gated(model) else memory


def _found(model: RMTPreTrainedModel, query: Tensor, chooser: Tensor, bank: Bank) -> Tensor:
    """Values of the tokens of the chosen copies, weighted by softmax(query . key / sqrt(hidden)); zero without any."""
    retrieval: Any = model.cell.retrieval
    ranked = []
    for number, _, copy_ in bank.copies:
        tokens = [_norm(token) for token in _shown(model, copy_)]
        keys = [retrieval.copy_key.weight @ token for token in tokens]
        mean = sum(keys) / len(keys)
        cosine = chooser @ mean / (torch.linalg.norm(chooser) * torch.linalg.norm(mean))
        values = [retrieval.copy_value.weight @ token for token in tokens]
        ranked.append((float(cosine), number, keys, values))
    ranked.sort(key=lambda entry: -entry[0])
    weights, values = [], []
    for _, _, keys, of_copy in ranked[: model.config.retrieval_top]:
        weights += [torch.exp(query @ key / len(query) ** 0.5) for key in keys]
        values += of_copy
    total = torch.zeros_like(query)
    for weight, value in zip(weights, values, strict=True):
        total = total + weight / sum(weights) * value
    return total


def _kept(model: RMTPreTrainedModel, bank: Bank, before: Tensor, after: Tensor) -> Bank:
    """The bank after a segment that turned the memory ``before`` into ``after``."""
    config = model.config
    segments = bank.segments + 1
    largest = max(float(before.norm()), float(after.norm()))
    drift = bank.drift + (float((after - before).norm()) / largest if largest else 0.0)
    if segments % config.retrieval_every:
        return Bank(bank.copies, drift, segments)
    number = segments // config.retrieval_every
    copies = list(bank.copies)
    stride = 1
    while number - 1 >= config.retrieval_budget * stride:
        stride *= 2
    take = drift > 0
    if config.retrieval_keep == "spread":
        take = take and (number - 1) % stride == 0
    if take and len(copies) == config.retrieval_budget:
        if config.retrieval_keep == "recent":
            del copies[0]
        elif config.retrieval_keep == "spread":
            copies.remove(next(entry for entry in copies if (entry[0] - 1) % stride))
        else:
            least = min(copies, key=lambda entry: entry[1])
            take = drift > least[1]
            if take:
                copies.remove(least)
    if take:
        copies.append((number, drift, after))
    return Bank(tuple(copies), 0.0, segments)


def _gated(model: RMTPreTrainedModel) -> bool:
    return model.config.memory_update == "gated" and model.config.num_memory_tokens > 0


def _norm(vector: Tensor) -> Tensor:
    """To mean 0 and variance 1, as layer normalisation without weights (epsilon 1e-5)."""
    centred = vector - vector.mean()
    return centred / torch.sqrt((centred * centred).mean() + 1e-5)
