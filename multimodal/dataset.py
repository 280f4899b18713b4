"""Conversations from files as numbered batches, so that a run that was killed goes on with the batch that comes next.

Samples are parsed once and kept as text; images are opened when their batch is made. No sample is cut or dropped: one
that is longer than a segment is read over several. Knows nothing of models, or of how they are trained.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from multimodal.chat import ChatEncoder, Encoded, collate
from multimodal.documents.llava_json import Sample, Skipped, read_samples
from multimodal.images import open_image
from rmt.errors import InputError

Pixels = Callable[[list[Image.Image]], Float[Tensor, "images channels height width"]]


@dataclass(frozen=True)
class Conversations:
    """Batches of conversations, by number; each epoch has an order of its own, and its last batch may be smaller.

    Attributes:
        samples: at least one.
        encoder: to token ids with labels.
        pixels: PIL images to pixel values.
        batch_size: conversations a batch.
        pad_token_id: what stands behind shorter rows.
        seed: with the number, all the randomness there is.
        skip: None: a bad conversation is an error. Else it is counted here each time, and its batch is made of the
            others; of one that comes next in the epoch where it has no other.
    """

    samples: tuple[Sample, ...]
    encoder: ChatEncoder
    pixels: Pixels
    batch_size: int = 8
    pad_token_id: int = 0
    seed: int = 0
    skip: Skipped | None = None

    def __post_init__(self) -> None:
        if not self.samples:
            raise InputError("samples: expected at least one conversation, got none; name another file")
        if self.batch_size < 1:
            raise InputError(f"batch_size: expected at least 1, got {self.batch_size}; change it")

    @classmethod
    def open(
        cls,
        path: str | Path,
        tokenizer: Any,
        *,
        tokens_per_image: int,
        pixels: Pixels,
        images: str | Path | None = None,
        batch_size: int = 8,
        seed: int = 0,
        skip: Skipped | None = None,
        image_token: str | None = None,
        chat_template: str | None = None,
    ) -> Conversations:
        """From a file in LLaVA's format or of messages (:func:`multimodal.documents.llava_json.read_samples`).

        Args:
            path, images: the file, and the folder that its names of images start from; None for the file's own.
            tokenizer: with an image token; its chat template is used, LLaVA-1.5's where it has none.
            tokens_per_image: image tokens of an image.
            pixels, batch_size, seed: as of this class.
            skip: None: a bad sample is an error. Else bad ones are counted in it and left out.
            image_token, chat_template: in place of the tokenizer's, as a processor has them.

        Raises:
            InputError: a bad sample, broken JSON, no sample at all, or a tokenizer without an image token.
        """
        found = tuple(read_samples(path, images=images, skip=skip))
        if not found:
            why = f"; the first: {skip.reasons[0]}" if skip is not None and skip.reasons else ""
            raise InputError(f"{path}: expected at least one conversation, got none{why}; name another file")
        padding = getattr(tokenizer, "pad_token_id", None)
        return cls(
            found,
            ChatEncoder(tokenizer, tokens_per_image, image_token, chat_template),
            pixels,
            batch_size,
            0 if padding is None else int(padding),
            seed,
            skip,
        )

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-len(self.samples) // self.batch_size)

    def batch(self, number: int) -> dict[str, Any]:
        """Batch ``number`` of all epochs, one after the other.

        Returns:
            input_ids, attention_mask, labels (batch, longest), int64, and where there are images pixel_values (images,
            channels, height, width), of all rows one after the other.

        Raises:
            InputError: an image that cannot be read, with file and index, unless it is skipped; nothing but such.
        """
        epoch, place = divmod(number, len(self))
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.samples))
        at = place * self.batch_size
        encoded = self._encoded(order[at : at + self.batch_size].tolist())
        if not encoded:
            others = (self._encoded([n]) for n in np.roll(order, -at - self.batch_size).tolist())
            encoded = next(filter(None, others), [])
        if not encoded:
            raise InputError("samples: expected at least one whole conversation, got none; mend them")
        made: dict[str, Any] = collate(encoded, pad_token_id=self.pad_token_id, pixels=self.pixels)
        del made["image_counts"]  # image tokens tell it
        return made

    def _encoded(self, chosen: Iterable[int]) -> list[Encoded]:
        """Conversations by number; where bad ones are skipped, without those, and with their images decoded."""
        out = []
        for sample in (self.samples[n] for n in chosen):
            try:
                made = self.encoder(sample)
                if self.skip is not None:
                    made = replace(made, images=tuple(open_image(i, where=sample.where) for i in made.images))
            except InputError as error:
                if self.skip is None:
                    raise
                self.skip.add(error)
                warnings.warn(f"a bad conversation is left out: {error}", stacklevel=3)
                continue
            out.append(made)
        return out
