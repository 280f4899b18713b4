"""Text and images of any length into a memory, then questions of it: :class:`rmt.reader.Reader` for documents with
images.

Reads in constant memory however many images there are, goes on after a kill, and gives the same bits however a text is
cut into pieces. Knows nothing of command lines, file formats (:mod:`multimodal.documents`) or how segments are run
(:mod:`rmt.executors`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from multimodal.course import Course
from multimodal.documents import iter_pieces
from multimodal.gallery import Gallery, Shelf
from multimodal.llava import LlavaRMT
from multimodal.pieces import Piece
from multimodal.stream import IMAGE, Page, Unit, of_document, of_pieces, pages
from rmt.answers import Answer
from rmt.checkpoint import Checkpoint
from rmt.errors import InputError
from rmt.executors import Captured, Compiled, Executor, Sequential, Speculative
from rmt.memory import Memory
from rmt.progress import Progress
from rmt.reader import Reader
from rmt.segments import Segment

State = dict[str, Tensor]


class AlbumReader:
    """Reads documents with images, with the weights of a model as they are now.

    It works on a copy made for reading; the model given is left as it is.

    Args:
        model: on the device to read on.
        processor: with ``tokenizer`` and ``image_processor``, as transformers' ``LlavaProcessor`` has them.
        dtype, executor, batch_segments: as of :class:`rmt.reader.Reader`. What ``compiled`` and ``captured`` have
            prepared serves segments in groups without images; the others are read by the executor below.
        features: a :class:`multimodal.feature_cache.FeatureCache` for images that come again; None to encode each
            image when it comes.

    Attributes:
        model: the copy that reads.
        tokenizer: the processor's.
        executor, why: how segments are run, and why so.
        dtype: of the weights; memories are float32.

    Raises:
        InputError: not a model that sees, a processor without one of the two, or a dtype or executor that is unknown
            or does not suit the model.
    """

    def __init__(
        self,
        model: LlavaRMT,
        processor: Any,
        *,
        dtype: str | torch.dtype = "auto",
        executor: str = "auto",
        batch_segments: int = 32,
        features: Any = None,
    ) -> None:
        if not isinstance(model, LlavaRMT):
            raise InputError(
                f"model: expected a LlavaRMT, got {type(model).__name__}, which does not see; read text with rmt.Reader"
            )
        for part in ("tokenizer", "image_processor"):
            if getattr(processor, part, None) is None:
                raise InputError(
                    f"processor: expected tokenizer and image_processor, got a {type(processor).__name__} without "
                    f"{part}; give a LlavaProcessor"
                )
        self._reader = Reader(model, processor.tokenizer, dtype=dtype, executor=executor, batch_segments=batch_segments)
        copied: Any = self._reader.model
        self.model: LlavaRMT = copied
        self.tokenizer, self.dtype = processor.tokenizer, self._reader.dtype
        self.executor, self.why = self._reader.executor, self._reader.why
        self._image_processor, self._features = processor.image_processor, features
        self._shelf = Shelf()
        # One for all groups: executors keep what they know of a model by what it is.
        self._seeing: Any = self.model.seeing(self._shelf.lookup)

    def fingerprint(self) -> str:
        """Of the model, as it was given."""
        return self._reader.fingerprint()

    @property
    def segment_size(self) -> int:
        """Most tokens of a segment."""
        return self._reader.segment_size

    @property
    def block(self) -> int:
        """Most tokens read together: those of a group of segments, at whose ends checkpoints stand."""
        return self._reader.block

    def settings(self) -> dict[str, str]:
        """What the bits of a memory depend on beside model and document."""
        return self._reader.settings()

    def initial(self, batch_size: int = 1) -> State:
        """The state before anything is read."""
        return self._reader.initial(batch_size)

    def check(self, ids: np.ndarray) -> None:
        """Refuse ids beyond the vocabulary; see :meth:`rmt.reader.Reader.check`."""
        self._reader.check(ids)

    def read(
        self,
        source: str | Path | Iterable[Piece],
        *,
        name: str | None = None,
        memory: Memory | None = None,
        checkpoint: str | Path | None = None,
        checkpoint_every: int = 1_000_000,
        progress: bool = True,
    ) -> Memory:
        """Read a document to its end.

        Args:
            source: a path or a name that :func:`multimodal.documents.iter_pieces` knows (a folder of images, Markdown,
                PDF, an image, text), or the document itself as text and figures in order.
            name: what a memory calls the document; None for the path.
            memory: what was read before, of one document; None for nothing.
            checkpoint: a file to keep the state in. Where it is there already, the document up to there is looked
                through without being read, reading goes on from it, and the result is that of an unbroken run to the
                bit. It is also written when something in the document cannot be read, so that reading can go on when
                that is mended. It stays behind at the end, for the caller to remove.
            checkpoint_every: tokens between two writes of it.
            progress: a bar on standard error with tokens/s.

        Returns:
            The memory; ``meta.extra["images"]`` says how many images were read into it.

        Raises:
            InputError: nothing to read; an image that cannot be read, with its number and place; one that is larger
                than a segment; a memory or checkpoint of another model, or a checkpoint of another document or other
                settings.
        """
        own = self._reader.own(memory)
        pieces: Iterable[Any] = iter_pieces(source) if isinstance(source, str | Path) else source
        course = Course(self, name or _name_of(source), own)
        keeper = None if checkpoint is None else course.keep_at(Path(checkpoint), checkpoint_every)
        with Progress("reading", None, progress) as bar:
            return self._read(of_pieces(pieces, self.tokenizer), course, keeper, bar)

    def read_tokens(self, document: Any, *, memory: Memory | None = None, progress: bool = False) -> Memory:
        """Read a document that makes its tokens and images when asked for; see :class:`multimodal.stream.Illustrated`.

        Args:
            document: has ``length``, ``tokens(begin, end)`` with runs of image tokens, and ``figures(begin, end)``.
            memory, progress: as of :meth:`read`.

        Raises:
            InputError: ids and figures that do not match; and as of :meth:`read`.
        """
        own, config = self._reader.own(memory), self.model.config
        items = of_document(document, config.image_token_id, config.tokens_per_image, self.block)
        with Progress("reading", int(document.length), progress) as bar:
            return self._read(items, Course(self, "tokens", own), None, bar)

    def ask(self, memory: Memory, questions: Sequence[str], **generate: Any) -> list[Answer]:
        """Answer questions, each from a copy of one memory; see :meth:`rmt.reader.Reader.ask`.

        Raises:
            InputError: as there, or a question that asks for an image of its own.
        """
        token = self.model.config.image_token_id
        for question in questions:
            if token in self.tokenizer(question, add_special_tokens=False)["input_ids"]:
                raise InputError(
                    f"questions: expected words, got {self.tokenizer.decode([token])} in {question!r}; an image is "
                    "read into a memory first"
                )
        return self._reader.ask(memory, questions, **generate)

    def _read(
        self, items: Iterator[np.ndarray | Unit], course: Course, keeper: Checkpoint | None, bar: Progress
    ) -> Memory:
        """The memory after all items, group by group."""
        gallery = Gallery(self.model, self._image_processor, self._features, course.begin)
        stream = pages(items, self.segment_size, self.model.config.tokens_per_image, gallery.look)
        try:
            while group := list(islice(stream, self.executor.batch_segments)):
                features, names = gallery.take()
                if not course.skips:
                    course.state = self._run(group, features, course.state, course.segments)
                course.passed(group, names)
                bar.update(sum(len(page.ids) for page in group))
                if keeper is not None:
                    course.arrive(keeper, self.model.device)
                    if keeper.due(course.position):
                        keeper.keep(course.memory(), course.position)
        except InputError:
            if keeper is not None and not course.skips and course.position > keeper.saved:
                keeper.keep(course.memory(), course.position)
            raise
        if not course.position:
            raise InputError(f"{course.name}: expected text or images, got neither; give a document that holds some")
        if keeper is not None:
            course.arrive(keeper, self.model.device, ended=True)
            if keeper.saved != course.position:
                keeper.keep(course.memory(), course.position)
        return course.memory()

    def _run(self, group: list[Page], features: Tensor | None, state: State, before: int) -> State:
        """The state after a group of segments, of which there were ``before`` in the document, without gradient."""
        executor, model = self._how(features is not None, before)
        with self._shelf.holding(features) as row, torch.inference_mode():
            segments = self._segments(group, self.model.config.vocab_size + row, features is not None)
            state = executor.read(model, segments, state)
        # Copied outside inference mode, so that what leaves here may enter a training step.
        return {name: tensor.clone() for name, tensor in state.items()}

    def _how(self, images: bool, before: int) -> tuple[Executor, Any]:
        """What reads a group, and with what: nothing is compiled or recorded that looks features up."""
        executor = self.executor.at(before) if isinstance(self.executor, Compiled) else self.executor
        if not isinstance(executor, Compiled | Captured):
            return executor, self._seeing
        if not images:
            return executor, self.model
        return (executor.order if isinstance(executor, Compiled) else Sequential(executor.batch_segments)), self._seeing

    def _segments(self, group: list[Page], first: int, images: bool) -> list[Segment]:
        """Segments with virtual ids from ``first`` on.

        Where they are read ahead as one batch, those that end before an image are filled up to the widest of their
        group, or each would be a batch of its own.
        """
        executor = self.executor.order if isinstance(self.executor, Compiled) else self.executor
        width = max(len(page.ids) for page in group) if images and isinstance(executor, Speculative) else 0
        made = []
        for page in group:
            ids = torch.from_numpy(page.ids).clone()
            virtual = ids == IMAGE
            if not bool(virtual.all()):
                self.check(page.ids[page.ids != IMAGE])
            count = int(virtual.sum())
            ids[virtual] = torch.arange(first, first + count)
            first += count
            fill = max(0, width - len(ids))
            mask = torch.ones(len(ids) + fill, dtype=torch.bool)
            mask[len(ids) :] = False
            source = torch.arange(len(mask)) * mask
            ids = torch.nn.functional.pad(ids, (0, fill))
            made.append(Segment(*(t[None].to(self.model.device) for t in (ids, mask, source))))
        return made


def _name_of(source: Any) -> str:
    """What a memory calls its document."""
    if not isinstance(source, str | Path):
        return "pieces"
    return "standard input" if source == "-" else str(source)
