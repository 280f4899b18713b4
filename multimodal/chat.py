"""Conversations about images to token ids and labels, where what is learned is known by construction.

LLaVA (arXiv 2304.08485, section 4.2) trains on the assistant's answers and what ends them. Its code finds them by
lengths of separately encoded strings, and drops a sample where they do not add up. Here a token is trained on if one
of its characters is an answer's, by the characters that the tokenizer itself reports; no sample is dropped, and none
cut: one that is longer than a segment is read over several.

Knows tokenizers and chat templates, and of a model only how many tokens an image becomes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from multimodal.documents.llava_json import TAG, Sample
from multimodal.exact import encode
from multimodal.images import Picture, open_image
from multimodal.templates import Layout, Range, added_tokens, lay_out
from rmt.errors import InputError

IGNORED = -100


@dataclass(frozen=True, eq=False)
class Encoded:
    """A conversation as a language model reads it.

    Attributes:
        input_ids: token ids: the tokenizer's first one, where it puts one in front of texts, and those of the template,
            without other special tokens; an image is a run of image tokens.
        labels: the id where it is trained on, else -100.
        images: in order, not yet decoded.
        where: file and index, for errors.
    """

    input_ids: list[int]
    labels: list[int]
    images: tuple[Picture, ...]
    where: str = ""


@dataclass(frozen=True)
class ChatEncoder:
    """Turns samples into token ids with labels.

    Attributes:
        tokenizer: a fast one of transformers; its chat template is used, or LLaVA-1.5's where it has none.
        tokens_per_image: image tokens in the run of one image.
        image_token: a special token of the tokenizer; None for the tokenizer's own, or else "<image>".
        chat_template: Jinja text in place of the tokenizer's, such as a processor's.
    """

    tokenizer: Any
    tokens_per_image: int
    image_token: str | None = None
    chat_template: str | None = None

    def __post_init__(self) -> None:
        if self.tokens_per_image < 1:
            raise InputError(f"tokens_per_image: expected at least 1, got {self.tokens_per_image}; change it")
        if self._image_token not in self.tokenizer.get_added_vocab():
            raise InputError(
                f"tokenizer: expected {self._image_token} among its special tokens, got a tokenizer without it; add it "
                'by tokenizer.add_special_tokens({"additional_special_tokens": [...]})'
            )

    @property
    def _image_token(self) -> str:
        return self.image_token or getattr(self.tokenizer, "image_token", None) or TAG

    def __call__(self, sample: Sample, *, ask: bool = False) -> Encoded:
        """One conversation.

        What a turn says is text, also where it looks like "<image>" or "ASSISTANT:". A token is trained on if it
        holds a character of an answer, of what ends it, or of a space in front that a prompt for it does not end with
        (a model has to say it); image tokens never are.

        Args:
            sample: the conversation.
            ask: end with what begins an answer, to let a model give it; the last turn must be the user's.

        Raises:
            InputError: no turns, a template that does not keep what is said, or a tokenizer that cannot keep words
                from being special tokens.
        """
        if not sample.turns:
            raise InputError(f"{sample.where}: expected a conversation, got one without turns; leave it out")
        if ask and sample.turns[-1].role != "user":
            raise InputError(f"{sample.where}: expected a question last, got an answer; leave it out or do not ask")
        try:
            layout = lay_out(self.tokenizer, sample.turns, self._image_token, chat_template=self.chat_template, ask=ask)
            ids, spans = encode(self.tokenizer, layout.text, layout.said, added_tokens(self.tokenizer))
        except InputError as error:
            raise InputError(f"{sample.where}: {error}" if sample.where else str(error)) from None
        out, first = self._labelled(ids, spans, layout, sample), self._first(layout.text)
        return replace(out, input_ids=first + out.input_ids, labels=[IGNORED] * len(first) + out.labels)

    def _first(self, text: str) -> list[int]:
        """What the tokenizer puts in front of a text, and a template has not: as transformers' processors have it."""
        begin = self.tokenizer.bos_token_id
        if begin is None or text.startswith(self.tokenizer.bos_token):
            return []
        return [begin] if self.tokenizer("a")["input_ids"][:1] == [begin] else []

    def _labelled(self, ids: list[int], spans: list[Range], layout: Layout, sample: Sample) -> Encoded:
        image = self.tokenizer.convert_tokens_to_ids(self._image_token)
        before = _counts(len(layout.text), layout.trained)
        out: list[int] = []
        labels: list[int] = []
        found = 0
        for token, (start, end) in zip(ids, spans, strict=True):
            if token == image:
                if found == len(layout.images) or not start <= layout.images[found][0] < end:
                    found = -1
                    break
                found += 1
                out += [token] * self.tokens_per_image
                labels += [IGNORED] * self.tokens_per_image
                continue
            out.append(token)
            # Some tokenizers report no character for a space that is a token of its own.
            trained = before[max(end, min(start + 1, len(layout.text)))] > before[start]
            labels.append(token if trained else IGNORED)
        if found != len(layout.images) or found != len(sample.images):
            raise InputError(
                f"{sample.where}: expected {len(sample.images)} image tokens where the images are, got others; use a "
                f"tokenizer in which {self._image_token} is a special token"
            )
        return Encoded(out, labels, tuple(sample.images), sample.where)


def collate(
    samples: Sequence[Encoded],
    *,
    pad_token_id: int = 0,
    pixels: Callable[[list[Image.Image]], Float[Tensor, "images channels height width"]] | None = None,
) -> dict[str, Tensor]:
    """A batch of conversations, padded behind.

    Args:
        samples: at least one.
        pad_token_id: what stands behind a shorter row.
        pixels: from PIL images to pixel values, such as
            ``lambda images: image_processor(images, return_tensors="pt")["pixel_values"]``; None to leave them out.

    Returns:
        ``input_ids``, ``attention_mask`` and ``labels`` (batch, longest), int64; ``image_counts`` (batch,), int64;
        and, where there are images and ``pixels``, ``pixel_values`` (images, channels, height, width) of all rows
        one after the other.

    Raises:
        InputError: no samples, an image that cannot be read, or not as many pixel values as images.
    """
    if not samples:
        raise InputError("samples: expected at least one, got none; leave the batch out")
    longest = max(len(sample.input_ids) for sample in samples)

    def padded(rows: list[list[int]], fill: int) -> Tensor:
        return torch.tensor([row + [fill] * (longest - len(row)) for row in rows], dtype=torch.long)

    batch = {
        "input_ids": padded([sample.input_ids for sample in samples], pad_token_id),
        "attention_mask": padded([[1] * len(sample.input_ids) for sample in samples], 0),
        "labels": padded([sample.labels for sample in samples], IGNORED),
        "image_counts": torch.tensor([len(sample.images) for sample in samples], dtype=torch.long),
    }
    if pixels is None or not any(sample.images for sample in samples):
        return batch
    opened = [open_image(image, where=sample.where) for sample in samples for image in sample.images]
    values = pixels(opened)
    if values.shape[0] != len(opened):
        raise InputError(
            f"pixels: expected values of {len(opened)} images, got {values.shape[0]}; do not crop or split"
        )
    batch["pixel_values"] = values
    return batch


def _counts(length: int, ranges: Sequence[Range]) -> list[int]:
    """For each place in a text, how many characters before it are in one of the ranges."""
    marks = [0] * length
    for start, end in ranges:
        marks[start:end] = [1] * (end - start)
    return [0, *accumulate(marks)]
