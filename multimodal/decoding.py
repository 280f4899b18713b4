"""Hugging Face's ``generate`` with images: they come with the prompt, and stay as long as their segment is open.

How tokens are read is in :mod:`rmt.cache`; how images are numbered in :mod:`multimodal.splice`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from multimodal.pictures import PictureCache, Pictures
from multimodal.spliced import table
from rmt.backbone import CACHE
from rmt.cache import RMTCache
from rmt.errors import InputError
from rmt.generation import RMTGenerationMixin
from rmt.memory import Memory


class ImageGenerationMixin(RMTGenerationMixin):
    """``generate`` with a memory (:class:`rmt.generation.RMTGenerationMixin`) and with images."""

    def generate(self, inputs: Tensor | None = None, **arguments: Any) -> Any:
        """Words behind prompts with images.

        What the model itself says is a word, be it the image token.

        Args:
            inputs: prompts, as ``input_ids``; to go on from a ``cache`` with all columns, those already read too.
            arguments: ``pixel_values`` or ``vision_features`` of the images in columns that are not read yet, ``glue``
                of the shape of the prompts, ``memory``, and all that ``generate`` takes.

        Raises:
            InputError: images that do not match the prompts, or ``prefill_chunk_size``, whose chunks would cut them.
        """
        model: Any = self
        ids = arguments.get("input_ids", inputs)
        pictures = model.pictures(
            arguments.pop("pixel_values", None), arguments.pop("vision_features", None), arguments.pop("pictures", None)
        )
        if ids is not None:
            arguments["pictures"] = self._placed(pictures, ids, arguments)
        return super().generate(inputs, **arguments)

    def _placed(self, pictures: Pictures | None, ids: Tensor, arguments: dict[str, Any]) -> Pictures | None:
        """Images of the columns that are to be read, each with its row."""
        model: Any = self
        glue = arguments.get("glue")
        if glue is not None and glue.shape != ids.shape:
            raise InputError(
                f"glue: expected the shape of input_ids {tuple(ids.shape)}, got {tuple(glue.shape)}; give one for each "
                "token"
            )
        cache = next((arguments[name] for name in (CACHE, "past_key_values") if arguments.get(name) is not None), None)
        fresh = ids[:, cache.seen :] if isinstance(cache, RMTCache) else ids
        mask = arguments.get("attention_mask")
        marks = fresh == model.config.image_token_id
        if mask is not None and mask.shape[1] >= fresh.shape[1]:
            marks = marks & mask[:, mask.shape[1] - fresh.shape[1] :].bool()
        if pictures is None:
            # With a cache the forward tells an image from a word that the model has said.
            if cache is None and bool(marks.any()):
                raise InputError("pixel_values: expected the images of the prompts, got none; give them")
            return None if cache is not None else Pictures(torch.empty(0), columns=fresh.shape[1])
        if arguments.get("prefill_chunk_size") is not None:
            raise InputError("prefill_chunk_size: expected none with images, which chunks would cut; leave it out")
        counts = marks.sum(dim=1) // model.config.tokens_per_image
        if int(counts.sum()) == len(pictures):  # else the forward says what is wrong
            rows = torch.arange(len(ids)).repeat_interleave(counts.cpu())
            pictures = replace(pictures, rows=rows)
        return replace(pictures, columns=fresh.shape[1])

    def prepare_inputs_for_generation(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The arguments of the next forward (called by ``generate``); images come with the prompt alone."""
        prepared = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)
        total, new = input_ids.shape[1], prepared["input_ids"].shape[1]
        if new != total and not kwargs.get("is_first_iteration", False):
            return prepared | {"pictures": None, "glue": None}
        glue = prepared.get("glue")
        if glue is not None:  # words behind the prompt, where no cache holds it, are glued to nothing
            prepared["glue"] = F.pad(glue, (0, total - glue.shape[1]))[:, total - new :]
        return prepared

    def memory_of(self, output: Any) -> Memory:
        """See :meth:`rmt.generation.RMTGenerationMixin.memory_of`."""
        model: Any = self
        cache = getattr(output, CACHE, None)
        held = cache.table if isinstance(cache, PictureCache) else None
        view = self if held is None else model.seeing(table(held[None]))
        return RMTGenerationMixin.memory_of(view, output)
