"""Our models that see as ``evals.model.Model``: read text and images into a memory, answer from it.

Text goes in and out as it does with :class:`rmt.cli.recurrent.RecurrentModel`; what is here is how a document with
images is read. Knows nothing of tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from evals.model import Document, Sampling, Score
from rmt.cli.recurrent import Recalled, RecurrentModel
from rmt.errors import InputError
from rmt.session import Tokens

if TYPE_CHECKING:
    import multimodal.reader


@dataclass(frozen=True)
class Words:
    """Token ids of a text in which nothing is an image, though it may say ``<image>``.

    Attributes:
        tokens: ids with a length, read in slices.
        image_token: what is no word.
        instead: the id that stands in its place.
    """

    tokens: Tokens
    image_token: int
    instead: int

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, part: slice) -> Int[np.ndarray, " tokens"]:
        ids = np.asarray(self.tokens[part], dtype=np.int64)
        return np.where(ids == self.image_token, self.instead, ids)


@dataclass(frozen=True)
class Beginning:
    """The first ``length`` tokens of a document of text, as one that has no images."""

    whole: Document
    length: int

    def tokens(self, begin: int, end: int) -> Int[np.ndarray, " length"]:
        """Token ids, int64."""
        return self.whole.tokens(begin, end)

    def figures(self, begin: int, end: int) -> tuple[()]:
        """None."""
        return ()


class PicturedModel:
    """A reader of albums as ``evals.Model``.

    Args:
        reader: of a :class:`multimodal.LlavaRMT`.
        name: for people.
    """

    controls = RecurrentModel.controls

    def __init__(self, reader: multimodal.reader.AlbumReader, name: str = "") -> None:
        self.reader = reader
        self._words = RecurrentModel(reader, name)

    @property
    def name(self) -> str:
        """As given."""
        return self._words.name

    @property
    def segment(self) -> int:
        """Most tokens of a segment."""
        return self._words.segment

    @property
    def answers(self) -> None:
        """It says anything."""
        return None

    @property
    def image_token(self) -> int:
        """The id that stands for a part of an image."""
        return int(self.reader.model.config.image_token_id)

    @property
    def tokens_per_image(self) -> int:
        """How many of them an image is."""
        return int(self.reader.model.config.tokens_per_image)

    @property
    def image_size(self) -> int:
        """Pixels of a side of what the vision tower looks at."""
        return int(self.reader.model.config.llava_config.vision_config.image_size)

    def fingerprint(self) -> str:
        """Of the weights, and of how they read."""
        return self._words.fingerprint()

    def encode(self, text: str) -> Int[np.ndarray, " tokens"]:
        """Token ids without special tokens, int64; no image is among them."""
        return self.words(self._words.encode(text))[:]

    def words(self, tokens: Tokens) -> Words:
        """A text of this model's tokens without what would be taken for images."""
        return Words(tokens, self.image_token, int(self._words.encode("image")[0]))

    def decode(self, ids: Int[np.ndarray, " tokens"]) -> str:
        """The text of token ids."""
        return self._words.decode(ids)

    def initial(self) -> Recalled:
        """The memory before anything was read."""
        return self._words.initial()

    def read(self, documents: Sequence[Document]) -> list[Recalled]:
        """One memory for each document, read one after another; a document with images has ``figures``.

        The last segment of a text alone is read by the model itself, which also says what it expects next.
        """
        return [self._read(document) for document in documents]

    def score(
        self, state: Recalled, prompt: Int[np.ndarray, " tokens"], continuations: Sequence[Int[np.ndarray, " _"]]
    ) -> list[Score]:
        """How likely each continuation is; see :meth:`rmt.cli.recurrent.RecurrentModel.score`.

        Raises:
            InputError: no prompt behind a document with images, of which the memory alone is left.
        """
        if not len(prompt) and state.after is None and state.memory.meta.tokens_read:
            raise InputError("prompt: expected a question behind a document with images, got none; ask one")
        return self._words.score(state, prompt, continuations)

    def generate(
        self,
        state: Recalled,
        prompts: Sequence[Int[np.ndarray, " _"]],
        max_tokens: int,
        stop: Sequence[str] = (),
        sampling: Sequence[Sampling] | None = None,
    ) -> list[str]:
        """Text behind each prompt; see :meth:`rmt.cli.recurrent.RecurrentModel.generate`."""
        return self._words.generate(state, prompts, max_tokens, stop, sampling)

    def shuffled(self, state: Recalled, seed: int) -> Recalled:
        """Channels of the memory in another order."""
        return self._words.shuffled(state, seed)

    def _read(self, document: Document) -> Recalled:
        if hasattr(document, "figures"):
            return Recalled(self.reader.read_tokens(document))
        begun = max(0, document.length - 1) // self.segment * self.segment
        memory = self.reader.read_tokens(Beginning(document, begun)) if begun else self.initial().memory
        return self._words.read_on(memory, document.tokens(begun, document.length))
