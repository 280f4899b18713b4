"""Hugging Face's ``generate`` with a memory. How tokens are read is in :mod:`rmt.cache`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import GenerationMixin

from rmt.backbone import CACHE
from rmt.cache import RMTCache, advance
from rmt.errors import InputError
from rmt.memory import Memory


@runtime_checkable
class Forkable(Protocol):
    """What belongs to the rows of a batch, such as a memory."""

    def fork(self, copies: int = 1, /) -> Any:
        """The same for ``copies`` of every row, those of one row side by side."""


class RMTGenerationMixin(GenerationMixin):
    """``generate`` with a memory.

    All arguments of Hugging Face's ``generate`` hold, except ``cache_implementation`` (the cache is an
    :class:`RMTCache`), ``inputs_embeds`` and assisted decoding (a memory cannot be unwritten). Further ones:

    * ``memory``: one for each row of ``input_ids``; ``num_return_sequences`` and ``num_beams`` fork it.
    * with ``return_dict_in_generate=True`` the output's ``cache`` (``past_key_values`` before transformers 5.24) is
      the :class:`RMTCache` after all but the last token, which goes on with ``generate(cache=...)``;
      :meth:`memory_of` closes it into a memory.

    ``input_ids`` may be padded on either side, with ``attention_mask``. Tokens behind a row's end of text are
    padding and are not written into its memory.
    """

    def memory_of(self, output: Any) -> Memory:
        """The memory after the prompt and all that was generated.

        Args:
            output: of ``generate(..., return_dict_in_generate=True)``, without beams.

        Raises:
            InputError: an output of beam search, whose cache holds other rows than its sequences.
        """
        cache = getattr(output, CACHE, None)
        if not isinstance(cache, RMTCache) or getattr(output, "beam_indices", None) is not None:
            raise InputError(
                "memory_of: expected the dictionary that generate(..., return_dict_in_generate=True) returns "
                "without beams, got another; read its sequences instead: model(input_ids=sequences).memory"
            )
        model: Any = self
        mask = cache.live(output.sequences)[:, None]
        return advance(model, output.sequences[:, -1:], mask, cache, 1)[1].flush(model)

    def prepare_inputs_for_generation(  # type: ignore[override]
        self,
        input_ids: Int[Tensor, "batch seq"],
        next_sequence_length: int | None = None,
        cache: RMTCache | None = None,
        attention_mask: Tensor | None = None,
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The arguments of the next forward (called by ``generate``)."""
        model: Any = self
        new = input_ids if next_sequence_length is None else input_ids[:, -next_sequence_length:]
        cache = kwargs.pop(CACHE, cache)
        if cache is not None and is_first_iteration:
            cache = replace(cache, prompt=None)
        elif cache is not None and cache.ends is not None:
            attention_mask = cache.live(input_ids)[:, None]
        move = None if attention_mask is None else attention_mask.to(model.device)
        return kwargs | {"input_ids": new.to(model.device), "attention_mask": move, CACHE: cache}

    def _prepare_cache_for_generation(  # type: ignore[override]
        self,
        generation_config: Any,
        model_kwargs: dict[str, Any],
        generation_mode: Any,
        batch_size: int,
        *_: Any,
    ) -> None:
        cache = model_kwargs.get(CACHE)
        if cache is None and generation_config.use_cache is False:
            return
        memory = model_kwargs.pop("memory", None)
        mask = model_kwargs.get("attention_mask")
        if mask is not None and not bool(mask.any(dim=1).all()):
            rows = (~mask.any(dim=1)).nonzero().flatten().tolist()
            raise InputError(f"attention_mask: expected a token in each row, got none in rows {rows}; drop them")
        if cache is None:
            count = max(generation_config.num_beams, generation_config.num_return_sequences) * batch_size
            cache = RMTCache.begin(self, memory, count)  # type: ignore[arg-type]
        elif not isinstance(cache, RMTCache) or memory is not None:
            raise InputError(
                f"cache: expected an RMTCache without memory= beside it, got {type(cache).__name__}; "
                "pass memory= to begin, or the cache of an earlier generate to go on"
            )
        model_kwargs[CACHE] = replace(cache, ends=generation_config._eos_token_tensor)

    @staticmethod
    def _expand_inputs_for_generation(  # type: ignore[override]
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[Tensor | None, dict[str, Any]]:
        if expand_size == 1:
            return input_ids, model_kwargs

        def expand(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.repeat_interleave(expand_size, dim=0)
            if isinstance(value, Forkable):
                return value.fork(expand_size)
            if isinstance(value, RMTCache):
                rows = torch.arange(value.ids.shape[0], device=value.ids.device)
                return value.index(rows.repeat_interleave(expand_size))
            return value

        return expand(input_ids), {name: expand(value) for name, value in model_kwargs.items()}

    @staticmethod
    def _reorder_cache(cache: RMTCache, beam_idx: Tensor) -> RMTCache:
        return cache.index(beam_idx.long())
