"""Our models behind the protocols of ``evals``: read documents; answer with a place, or with any text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from evals.model import Document, Question, channel_order
from evals.tasks.memory import PLACES
from rmt.answers import classify, continue_text
from rmt.errors import InputError
from rmt.memory import Memory, MemoryMeta
from rmt.reader import Reader


@runtime_checkable
class TextReader(Protocol):
    """What asking takes of a reader, whatever it reads: :class:`rmt.Reader`, or one of documents with images."""

    model: Any
    tokenizer: Any

    @property
    def segment_size(self) -> int:
        """Tokens of a segment, at most."""

    @property
    def block(self) -> int:
        """Tokens read together."""

    def fingerprint(self) -> str:
        """Of the model."""

    def settings(self) -> dict[str, str]:
        """What the bits of a memory depend on beside model and document."""

    def initial(self, batch_size: int = 1) -> dict[str, torch.Tensor]:
        """The state before anything is read."""

    def check(self, ids: np.ndarray) -> None:
        """Refuse ids beyond the vocabulary."""


@dataclass(frozen=True)
class DocumentTokens:
    """A document of ``evals`` as something with a length and slices."""

    document: Document

    def __len__(self) -> int:
        return self.document.length

    def __getitem__(self, part: slice) -> np.ndarray:
        start, stop, _ = part.indices(self.document.length)
        return self.document.tokens(start, stop)


class ReaderModel:
    """A reader as ``evals.MemoryModel``; its states are memories of one document.

    A classifier answers with its best label; a language model with the place that it says, and -1 where it
    says none.

    Args:
        reader: of a classifier whose labels are the places, or of a language model.

    Raises:
        InputError: a classifier with other labels.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self._places: list[int] | None = None
        if reader.model.layout == "encoder":
            self._places = _places(reader.model.config)

    def fingerprint(self) -> str:
        """Of the weights, and of how they read."""
        return fingerprint(self.reader)

    def read(self, documents: Sequence[Document]) -> list[Memory]:
        """One memory for each document of one length."""
        return self.reader.read_batch([DocumentTokens(document) for document in documents])

    def answer(self, state: Memory, questions: Sequence[Question]) -> list[int]:
        """A place for each question, as an index into ``evals.tasks.memory.PLACES``."""
        ids = [np.asarray(question.ids, dtype=np.int64) for question in questions]
        state = state.to(self.reader.model.device)
        if self._places is not None:
            best = classify(self.reader.model, state, ids).argmax(dim=1).tolist()
            return [self._places[label] for label in best]
        said = continue_text(self.reader.model, state, ids, max_new_tokens=self._longest())
        return [_heard(text) for text in self.reader.tokenizer.batch_decode(said, skip_special_tokens=True)]

    def initial(self) -> Memory:
        """The memory before anything was read."""
        return initial(self.reader)

    def shuffled(self, state: Memory, seed: int) -> Memory:
        """See ``shuffled`` below."""
        return shuffled(state, seed)

    def _longest(self) -> int:
        """Tokens that the longest place takes."""
        tokenizer: Any = self.reader.tokenizer
        return max(len(tokenizer(" " + place, add_special_tokens=False)["input_ids"]) for place in PLACES)


def fingerprint(reader: TextReader) -> str:
    """Of the weights of a reader, and of how they read."""
    return " ".join([reader.fingerprint(), reader.settings()["dtype"]])


def initial(reader: TextReader) -> Memory:
    """The memory before anything was read."""
    return Memory(reader.initial(1), MemoryMeta())


def shuffled(memory: Memory, seed: int) -> Memory:
    """The same numbers with channels in another order; counts, places and scores beside them stay."""

    def shuffle(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point() or tensor.dim() < 3:
            return tensor
        return tensor[..., torch.from_numpy(channel_order(tensor.shape[-1], seed)).to(tensor.device)]

    return memory.map(shuffle)


def _places(config: Any) -> list[int]:
    """For each label, the place it means: by name, or by number where labels have no names."""
    names = [str(config.id2label[n]) for n in range(config.num_labels)]
    if sorted(names) == sorted(PLACES):
        return [PLACES.index(name) for name in names]
    if len(names) == len(PLACES) and all(name == f"LABEL_{n}" for n, name in enumerate(names)):
        return list(range(len(names)))
    raise InputError(
        f"eval memory: expected a classifier with the labels {', '.join(PLACES)}, got {', '.join(names)}; "
        "train one with `rmt train`"
    )


def _heard(text: str) -> int:
    """The place that a text begins with, -1 where it begins with none."""
    words = text.strip().lower().split()
    word = words[0].strip(".,;:!?\"'") if words else ""
    return PLACES.index(word) if word in PLACES else -1
