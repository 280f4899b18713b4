"""Reading on token by token across segment borders, as a value: the open segment's keys, and the memory before it.

While a segment is open its tokens live in a key-value cache of [memory | tokens so far]. When it is full and
one more token comes, it is closed: [memory | segment | memory] runs through the cell, and reading goes on
after the new memory. The first token of a segment is predicted at the last token of the one before. Both are
exactly what a forward over the whole text does, so decoding equals teacher forcing; and space is constant,
whatever the length.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from transformers import DynamicCache

from rmt.backbone import CACHE
from rmt.errors import InputError
from rmt.logits import Placement, placement, put_back
from rmt.memory import Memory
from rmt.recurrence import State
from rmt.segments import Segment, compact


@runtime_checkable
class Decoder(Protocol):
    """What reading on asks of a model: a decoder with a memory cell and a head."""

    config: Any
    cell: Any

    @property
    def core(self) -> nn.Module: ...

    @property
    def device(self) -> torch.device: ...

    def get_input_embeddings(self) -> nn.Module: ...

    def lm_logits(self, hidden: Float[Tensor, "*rest hidden"]) -> Float[Tensor, "*rest vocab"]: ...

    def state_of(self, memory: Memory | None, batch: int) -> State: ...

    def memory_after(self, state: State, before: Memory | None, segments: list[Segment]) -> Memory: ...

    def filled(self, ids: Tensor, mask: Tensor) -> tuple[list[Segment], Segment]: ...


@dataclass(frozen=True)
class RMTCache:
    """Where decoding stands: a value; reading on returns a new one and leaves this one usable.

    Attributes:
        memory: written by the closed segments only. For a memory of all that was read see :meth:`flush`.
        ids, mask: tokens of each row's open segment, left-aligned.
        keys: keys and values of [padding | memory | open tokens], None before the first token.
        keys_mask: true at columns of ``keys`` that a row may look at.
        seen: columns of ``input_ids`` read so far, padding counted; what Hugging Face asks a cache.
        prompt: columns that stood before the first generated token.
        ends: ids after which a row is finished and what follows is padding, not text.
    """

    memory: Memory
    ids: Int[Tensor, "batch width"]
    mask: Bool[Tensor, "batch width"]
    keys: DynamicCache | None
    keys_mask: Bool[Tensor, "batch columns"]
    seen: int = 0
    prompt: int | None = None
    ends: Int[Tensor, " ends"] | None = None

    is_compileable: ClassVar[bool] = False
    is_croppable: ClassVar[bool] = False
    is_linear: ClassVar[tuple[bool, ...]] = (False,)

    @classmethod
    def begin(cls, model: Decoder, memory: Memory | None, batch: int) -> RMTCache:
        """Nothing read yet after ``memory`` (the initial one where None)."""
        state = model.state_of(memory, batch)
        nothing = torch.zeros(batch, 0, dtype=torch.long, device=model.device)
        before = Memory(state) if memory is None else replace(memory, tensors=state)
        return cls(before, nothing, nothing.bool(), None, nothing.bool())

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns read so far (Hugging Face's name for it)."""
        return self.seen

    def index(self, rows: Int[Tensor, " rows"]) -> RMTCache:
        """The cache of some rows, in this order, repeats allowed."""
        keys = None
        if self.keys is not None:
            keys = same(self.keys)
            keys.batch_select_indices(rows)
        return replace(
            self,
            memory=self.memory.index(rows),
            ids=self.ids[rows],
            mask=self.mask[rows],
            keys=keys,
            keys_mask=self.keys_mask[rows],
        )

    def live(self, input_ids: Int[Tensor, "batch seq"]) -> Bool[Tensor, " batch"]:
        """Rows whose last column, not read yet, is text: no generated column before it holds an end."""
        if self.ends is None or self.prompt is None:
            return torch.ones(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
        generated = self.seen - self.prompt
        before = input_ids[:, input_ids.shape[1] - 1 - generated : -1]
        return ~torch.isin(before, self.ends.to(before.device)).any(dim=1)

    def flush(self, model: Decoder) -> Memory:
        """The memory after everything read, each open segment closed however short it is.

        It equals that of one forward without a cache over the same tokens.
        """
        if not bool(self.mask.any()):
            return self.memory
        segment = Segment(self.ids, self.mask, torch.zeros_like(self.ids))
        return model.memory_after(close(model, segment, dict(self.memory.tensors))[0], self.memory, [segment])


def same(keys: DynamicCache) -> DynamicCache:
    """A cache that can be appended to without changing ``keys``; layers rebind their tensors, never write in place."""
    other = copy.copy(keys)
    other.layers = [copy.copy(layer) for layer in keys.layers]
    return other


def advance(
    model: Decoder,
    input_ids: Int[Tensor, "batch seq"],
    attention_mask: Shaped[Tensor, "batch columns"] | None,
    cache: RMTCache,
    keep: int | Tensor | None = None,
) -> tuple[Float[Tensor, "batch kept vocab"], RMTCache]:
    """Read on, closing segments as they fill.

    Args:
        model: whose cache it is.
        input_ids: new tokens only; a row may have none (all its mask false), and gets zero logits then.
        attention_mask: of the new columns, or of all columns so far; nonzero at real tokens. Padding may
            stand anywhere.
        cache: where reading stands.
        keep: as ``logits_to_keep`` of the model's forward, about the new columns.

    Returns:
        Logits as in the model's forward, and the cache after.
    """
    batch, count = input_ids.shape
    mask = torch.ones_like(input_ids, dtype=torch.bool)
    if attention_mask is not None:
        mask = attention_mask[:, attention_mask.shape[1] - count :].bool()
    if cache.ids.shape[0] != batch:
        raise InputError(f"cache: expected one of {batch} rows, got {cache.ids.shape[0]}")
    if not bool(cache.mask.any()) and not bool(mask.any()):
        raise InputError("attention_mask: expected at least one token, got none; pass a prompt")
    place = placement(input_ids, mask, keep)
    fits = bool((cache.mask.sum(dim=1) + mask.sum(dim=1) <= model.config.segment_size).all())
    if cache.keys is not None and fits and (count == 1 or bool(mask.all())):
        logits, after = append(model, input_ids, mask, cache, place)
    else:
        logits, after = reopen(model, input_ids, mask, cache, place)
    seen = cache.seen + count
    return logits, replace(after, seen=seen, prompt=seen if cache.prompt is None else cache.prompt)


def append(model: Decoder, ids: Tensor, mask: Tensor, cache: RMTCache, place: Placement) -> tuple[Tensor, RMTCache]:
    """Tokens that fit into the open segments: only they run, against the cached keys."""
    assert cache.keys is not None
    lengths = cache.mask.sum(dim=1, keepdim=True)
    state: State = dict(cache.memory.tensors)
    before, text = model.cell.inputs(model.get_input_embeddings()(ids), state)
    positions = before.shape[1] + lengths + mask.long().cumsum(dim=1) - 1
    keys, keys_mask = same(cache.keys), torch.cat([cache.keys_mask, mask], dim=1)
    hidden = model.cell.open(
        model.core,
        state,
        torch.zeros_like(mask),
        inputs_embeds=text,
        attention_mask=keys_mask.long(),
        position_ids=positions.clamp(min=0),
        use_cache=True,
        **{CACHE: keys},
    )
    columns = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    kept = (place.columns >= 0) & mask
    logits = put_back([Segment(ids, mask, columns)], [model.lm_logits(hidden[kept])], place)
    held, held_mask = torch.cat([cache.ids, ids], dim=1), torch.cat([cache.mask, mask], dim=1)
    left = compact(held_mask)
    open_ids = held.gather(1, left.clamp(min=0)).masked_fill(left < 0, 0)
    return logits, replace(cache, ids=open_ids, mask=left >= 0, keys=keys, keys_mask=keys_mask)


def reopen(model: Decoder, ids: Tensor, mask: Tensor, cache: RMTCache, place: Placement) -> tuple[Tensor, RMTCache]:
    """Tokens that fill segments: close those, then read each row's open one afresh."""
    held, held_mask = torch.cat([cache.ids, ids], dim=1), torch.cat([cache.mask, mask], dim=1)
    nowhere = place.columns.new_full(cache.ids.shape, -1)
    place = replace(place, columns=torch.cat([nowhere, place.columns], dim=1))
    full, rest = model.filled(held, held_mask)
    state: State = dict(cache.memory.tensors)
    kept: list[Tensor] = []
    for segment in full:
        state, logits = close(model, segment, state, place)
        kept.append(logits)
    memory = model.memory_after(state, cache.memory, full)
    hidden, keys, keys_mask = prefill(model, rest, state)
    kept.append(model.lm_logits(hidden[rest.gather(place.columns, fill=-1) >= 0]))
    after = replace(cache, memory=memory, ids=rest.ids, mask=rest.mask, keys=keys, keys_mask=keys_mask)
    return put_back([*full, rest], kept, place), after


def filled(ids: Tensor, mask: Tensor, size: int) -> tuple[list[Segment], Segment]:
    """Tokens of open segments and those behind them: the segments that each row closes, and what stays open.

    All but a row's last segment are closed; that one stays open even when it is full.
    """
    done = (mask.sum(dim=1) - 1).clamp(min=0) // size
    starts = (torch.where(done > number, number * size, ids.shape[1]) for number in range(int(done.max())))
    return [part_of(ids, mask, start, size) for start in starts], part_of(ids, mask, done * size, size)


def close(model: Decoder, segment: Segment, state: State, place: Placement | None = None) -> tuple[State, Tensor]:
    """Write a segment into the memory of the rows it has tokens of; the kept logits of those tokens beside it."""
    rows = segment.active.nonzero().flatten()
    part = Segment(segment.ids[rows], segment.mask[rows], segment.source[rows])
    out = model.cell(model.core, part, {name: t[rows] for name, t in state.items()})
    after = {name: t.index_copy(0, rows, out.state[name].to(t.dtype)) for name, t in state.items()}
    kept = torch.zeros_like(part.mask) if place is None else part.gather(place.columns[rows], fill=-1) >= 0
    return after, model.lm_logits(out.hidden[kept])


def part_of(ids: Tensor, mask: Tensor, start: Tensor, size: int) -> Segment:
    """Each row's tokens from its own ``start`` (counted in real tokens) on, at most ``size``; maybe none."""
    columns = compact(mask)
    ranks = start[:, None] + torch.arange(size, device=ids.device)
    real = ranks < mask.sum(dim=1, keepdim=True)
    width = int(real.sum(dim=1).max())
    source = columns.gather(1, ranks.clamp(max=columns.shape[1] - 1)).clamp(min=0)[:, :width]
    real = real[:, :width]
    return Segment(ids.gather(1, source).masked_fill(~real, 0), real, source.masked_fill(~real, 0))


def prefill(
    model: Decoder, segment: Segment, state: State
) -> tuple[Float[Tensor, "batch width hidden"], DynamicCache, Bool[Tensor, "batch columns"]]:
    """Read [padding | memory | tokens], right-aligned, so that every row goes on at the same column.

    What stands there for the memory is the cell's business; associative memory needs no column.

    Returns:
        Hidden states of the tokens (left-aligned, as in ``segment``), the keys, and which columns are real.
    """
    memory, text = model.cell.inputs(model.get_input_embeddings()(segment.ids), state)
    inputs = torch.cat([memory, text], dim=1)
    _, total, hidden = inputs.shape
    width = segment.ids.shape[1]
    shift = width - segment.lengths[:, None]
    columns = torch.arange(total, device=text.device)[None]
    real = columns >= shift
    moved = inputs.gather(1, (columns - shift).clamp(min=0)[:, :, None].expand(-1, -1, hidden))
    keys = DynamicCache()
    out = model.cell.open(
        model.core,
        state,
        real & (columns < shift + memory.shape[1]),
        inputs_embeds=moved,
        attention_mask=real.long(),
        position_ids=(columns - shift).clamp(min=0),
        use_cache=True,
        **{CACHE: keys},
    )
    back = (memory.shape[1] + shift + torch.arange(width, device=text.device)).clamp(max=total - 1)
    return out.gather(1, back[:, :, None].expand(-1, -1, hidden)), keys, real
