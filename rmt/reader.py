"""A document of any length into a memory, then many questions of it: the object most users hold.

Reads in constant memory, goes on after a kill, and gives the same bits whether a text comes at once or in
pieces. Knows nothing of command lines, nor of how segments are run (:mod:`rmt.executors`).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rmt import many
from rmt.answers import Answer, answer
from rmt.checkpoint import Checkpoint
from rmt.data.growing import GrowingTokens
from rmt.data.sources import iter_text
from rmt.data.tokens import TokenFile
from rmt.errors import InputError
from rmt.executors import Compiled, Executor, Look, Packed, Watched, choose, for_reading, writer
from rmt.memory import Memory, MemoryMeta
from rmt.models.base import RMTPreTrainedModel
from rmt.progress import Progress
from rmt.segments import split
from rmt.session import Session, Tokens, as_tokens, digest_of

State = dict[str, Tensor]
SIDE_BY_SIDE = ("sequential", "packed", "captured")  # executors without a batch of their own


class Reader:
    """Reads with the weights of a model as they are now.

    It works on a copy made for reading (:func:`rmt.executors.for_reading`); the model given is left as it is.

    Args:
        model: any model of :mod:`rmt.models`, on the device to read on.
        tokenizer: the backbone's.
        dtype: ``auto`` (bfloat16 where the hardware has it, else float32), or a name or a dtype. Memories are
            float32.
        executor: one of :data:`rmt.executors.EXECUTORS`; see :func:`rmt.executors.choose`.
        batch_segments: segments handed to the executor at a time.
        watch: called after every segment with the norms of the memory (:func:`rmt.executors.norms`), to see it drift;
            segments are then read in order, and documents one at a time.

    Attributes:
        model: the copy that reads.
        executor, why: how segments are run, and why so.

    Raises:
        InputError: not one of our models, or a dtype or executor that is unknown or does not suit it.
    """

    def __init__(
        self,
        model: RMTPreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        dtype: str | torch.dtype = "auto",
        executor: str = "auto",
        batch_segments: int = 32,
        watch: Look | None = None,
    ) -> None:
        _require_ours(model)
        if watch is not None and executor not in ("auto", "sequential"):
            raise InputError(f"executor: expected sequential with watch=, got {executor!r}; leave one of them out")
        name = executor if watch is None else "sequential"
        self.executor, self.why = choose(model.config, name, batch_segments, model.device.type)
        self.tokenizer = tokenizer
        self._fingerprint = model.fingerprint()
        self.model = for_reading(model, dtype)
        reads: Any = writer(self.model)
        self._writer: Any = reads if watch is None else Watched(reads, watch)
        self.dtype = next(self.model.backbone.parameters()).dtype

    def fingerprint(self) -> str:
        """Of the model, as it was given."""
        return self._fingerprint

    @property
    def block(self) -> int:
        """Tokens read together; bits depend on these borders, so checkpoints stand at multiples of it."""
        return self.segment_size * self.executor.batch_segments

    @property
    def segment_size(self) -> int:
        """Tokens of a segment."""
        return int(self.model.config.segment_size)

    def read(
        self,
        source: str | Path | Tokens | Sequence[int] | Tensor,
        *,
        memory: Memory | None = None,
        checkpoint: str | Path | None = None,
        checkpoint_every: int = 1_000_000,
        progress: bool = True,
    ) -> Memory:
        """Read a document to its end.

        Args:
            source: a path or a name that :func:`rmt.data.iter_text` knows (``-``, ``hub:NAME``,
                ``installed:``), which is tokenised into a file while it is read (before, where a checkpoint is there to
                go on from); or the tokens themselves, as anything with a length and slices (a
                :class:`rmt.data.TokenFile`, an array).
            memory: what was read before, of one document; None for nothing.
            checkpoint: a file to keep the state in. Where it is there already, reading goes on from it, and
                the result is that of an unbroken run to the bit. It stays behind at the end, for the caller
                to remove.
            checkpoint_every: tokens between two writes of it; the first has to wait until all is tokenised.
            progress: a bar on standard error with tokens/s and the time left.

        Raises:
            InputError: nothing to read, tokens of another tokenizer, a memory or checkpoint of another model,
                or a checkpoint of another source or other settings.
        """
        own = self.own(memory)
        if not isinstance(source, str | Path):
            return self._read_tokens(as_tokens(source), own, checkpoint, checkpoint_every, progress)
        with _workplace(checkpoint) as folder:
            path = folder / "tokens"
            if checkpoint is not None and Path(checkpoint).exists():
                # Whether it is of this text, the whole of it says.
                with self.tokens_of(source, path, progress=progress) as tokens:
                    return self._read_tokens(tokens, own, checkpoint, checkpoint_every, progress)
            with (
                GrowingTokens(iter_text(source), self.tokenizer, path, _name_of(source)) as growing,
                Progress("reading", None, progress) as bar,
            ):

                def blocks() -> Iterator[np.ndarray]:
                    for block in growing.blocks(self.block):
                        bar.of(growing.total)
                        yield block

                about = cache(lambda: self.describe(growing.finished()))
                keeper = self._keeper(checkpoint, about, own, checkpoint_every)
                return self._read_blocks(blocks(), about, own, keeper, bar, known=lambda: growing.total is not None)

    def tokens_of(self, source: str | Path, path: str | Path, *, progress: bool = True) -> TokenFile:
        """Write the tokens of a text source to ``path``, in a stream, and open them.

        Raises:
            InputError: the source is missing, empty or not text; see :func:`rmt.data.iter_text`.
        """
        with Progress("tokenising", None, progress) as bar:
            return TokenFile.build(iter_text(source), self.tokenizer, path, progress=bar.upto, source=_name_of(source))

    def session(self, memory: Memory | None = None) -> Session:
        """Begin to read a text that comes in pieces; see :class:`rmt.session.Session`."""
        own = self.own(memory)
        return Session(self, *self._begin(own))

    def read_many(
        self, documents: Iterable[str | Path | Tokens | Sequence[int] | Tensor], *, slots: int | None = None
    ) -> Iterator[Memory]:
        """Read any number of documents of any lengths, in constant memory: the memory of each, in the order given.

        Each is what :meth:`read` gives for that document alone, up to the rounding of a batch. Segments of several
        documents run side by side, and the next document takes a place as soon as one has ended
        (:class:`rmt.executors.Packed`). Where the executor has a batch of its own, as ``speculative`` reads one
        document ahead, they are read one after another instead; ``executor="packed"`` asks for them side by side.

        Args:
            documents: each a path or the name of a text source, or token ids, as :meth:`read` takes them. Drawn one
                at a time, when there is room, and read in slices.
            slots: documents that are open at a time; None for 8 a core on a CPU and 32 on anything else. More than
                1,024 documents never overtake a slow one: their memories wait for its.

        Raises:
            InputError: fewer than one slot, one document instead of several, a reader that is watched, or, at the
                turn of a document, what :meth:`read` would say of it and which one it is.
        """
        if isinstance(self._writer, Watched):
            raise InputError(
                "read_many: expected a reader without watch=, got one with it; read one after another with read()"
            )
        if isinstance(documents, str | Path):
            raise InputError(f"read_many: expected several documents, got one ({documents}); use read()")
        packed = Packed(self.executor.batch_segments, slots)
        if self.executor.name in SIDE_BY_SIDE:
            return many.read_packed(self, packed, self._writer, self.initial(), documents)
        return many.read_in_turn(self, documents)

    def read_batch(self, documents: Sequence[Tokens]) -> list[Memory]:
        """Read documents of one length; see :meth:`read_many`.

        Args:
            documents: token ids, of equal length.

        Raises:
            InputError: documents of different lengths, or without tokens.
        """
        lengths = {len(d) for d in documents}
        if len(lengths) > 1 or not max(lengths, default=0):
            raise InputError(f"read_batch: expected documents of one length above 0, got lengths {sorted(lengths)}")
        return list(self.read_many(documents))

    def ask(self, memory: Memory, questions: Sequence[str], **generate: Any) -> list[Answer]:
        """Answer questions, each from a copy of one memory.

        Args:
            memory: of one document.
            questions: in words.
            generate: for a language model, arguments of ``generate`` (by default greedy; see :mod:`rmt.answers`).

        Raises:
            InputError: no question, an empty one, a memory of several documents or of another model, or a
                model that does not answer from memory alone.
        """
        own = self.own(memory)
        assert own is not None
        return answer(self.model, self.tokenizer, own, list(questions), **generate)

    def run(self, ids: Int[np.ndarray, "batch tokens"], state: State, position: int = 0) -> State:
        """The state after a block of tokens of each document, without gradient.

        Args:
            ids: the block.
            state: before it.
            position: of its first token in its document; a compiled executor reads the beginning as it is.

        Raises:
            InputError: an id beyond the vocabulary.
        """
        self.check(ids)
        with torch.inference_mode():
            segments = split(torch.from_numpy(ids).to(self.model.device), None, self.segment_size)
            state = self._executor_at(position).read(self._writer, segments, state)
        # Copied outside inference mode, so that what leaves here may enter a training step.
        return {name: tensor.clone() for name, tensor in state.items()}

    def check(self, ids: Int[np.ndarray, "*batch tokens"]) -> None:
        """Refuse ids beyond the vocabulary.

        Raises:
            InputError: with the least and the greatest id.
        """
        vocabulary = self.model.config.vocab_size
        if ids.min() < 0 or ids.max() >= vocabulary:
            raise InputError(
                f"tokens: expected ids from 0 to {vocabulary - 1}, got {ids.min()} to {ids.max()}; "
                "tokenise with this model's tokenizer"
            )

    def _executor_at(self, position: int) -> Executor:
        """What reads from this token of a document on."""
        return self.executor.at(position // self.segment_size) if isinstance(self.executor, Compiled) else self.executor

    def own(self, memory: Memory | None) -> Memory | None:
        """A memory checked: of one document and of this model, by name and by shapes, moved to where the model is.

        Raises:
            InputError: of several documents, or of another model.
        """
        if memory is None:
            return None
        if memory.batch_size != 1:
            raise InputError(
                f"memory: expected that of one document, got {memory.batch_size}; take one: memory.index([0])"
            )
        if memory.meta.model not in ("", self.fingerprint()):
            raise InputError(
                f"memory: expected one of this model ({self.fingerprint()}), got one of model "
                f"{memory.meta.model}; use the model that read the document, or read it again"
            )
        own = memory.detach().to(self.model.device)
        self.model.state_of(own, 1)  # a memory that names no model says by its shapes that it is of another
        return own

    def initial(self, batch_size: int = 1) -> State:
        """The state before anything is read."""
        return {name: t.detach().clone() for name, t in self.model.initial_memory(batch_size).tensors.items()}

    def settings(self) -> dict[str, str]:
        """What the bits of a memory depend on beside model and text."""
        return {
            "dtype": str(self.dtype).removeprefix("torch."),
            "executor": self.executor.name,
            "batch_segments": str(self.executor.batch_segments),
        }

    def _read_tokens(
        self, tokens: Tokens, own: Memory | None, checkpoint: str | Path | None, every: int, progress: bool
    ) -> Memory:
        """The memory of a text whose tokens are all there."""
        about = self.describe(tokens)
        keeper = self._keeper(checkpoint, lambda: about, own, every)
        found = None if keeper is None else keeper.load()
        begin = found[1] if found else 0
        blocks = (tokens[at : at + self.block] for at in range(begin, len(tokens), self.block))
        with Progress("reading", len(tokens), progress, begin) as bar:
            return self._read_blocks(blocks, lambda: about, own, keeper, bar, found)

    def _keeper(
        self, checkpoint: str | Path | None, about: Callable[[], tuple[str, str]], own: Memory | None, every: int
    ) -> Checkpoint | None:
        if checkpoint is None:
            return None
        return Checkpoint(Path(checkpoint), self.fingerprint(), lambda: about()[1], own, self.settings(), every)

    def _read_blocks(
        self,
        blocks: Iterable[Int[np.ndarray, " tokens"]],
        about: Callable[[], tuple[str, str]],
        own: Memory | None,
        keeper: Checkpoint | None,
        bar: Progress,
        found: tuple[Memory, int] | None = None,
        known: Callable[[], bool] = lambda: True,
    ) -> Memory:
        """The memory after blocks of tokens.

        Args:
            blocks: of :attr:`block` tokens each, the last of any number.
            about: name and digest of all of them, once they are there.
            own: the memory to begin with.
            keeper: keeps what was read so far.
            bar: of progress.
            found: a memory within the text and its place there, to go on from in place of ``own``.
            known: whether ``about`` says so without waiting.
        """
        state, before = self._begin(own)
        position = 0
        if found is not None:
            state, position = dict(found[0].to(self.model.device).tensors), found[1]
        session = Session(self, state, before, position)
        for block in blocks:
            position += len(block)
            session.feed_ids(block, last=len(block) < self.block)
            bar.update(len(block))
            if keeper is not None and keeper.due(position) and known():
                keeper.keep(session.memory(*about()), position)
        if keeper is not None and keeper.saved != position:
            keeper.keep(session.memory(*about()), position)
        return session.memory(*about())

    def _begin(self, memory: Memory | None) -> tuple[State, MemoryMeta]:
        """The state to begin with, and how it came to be."""
        return (self.initial(), MemoryMeta()) if memory is None else (dict(memory.tensors), memory.meta)

    def describe(self, tokens: Tokens) -> tuple[str, str]:
        """Name and digest of a source, after a look at whether it can be read at all.

        Raises:
            InputError: no tokens, or those of another tokenizer.
        """
        if not len(tokens):
            raise InputError("source: expected at least one token, got none; give a text that is not empty")
        if isinstance(tokens, TokenFile):
            TokenFile.open(tokens.path, self.tokenizer).close()
            return tokens.source, tokens.digest
        return "tokens", digest_of(tokens)


def _name_of(source: str | Path) -> str:
    """What a memory calls its text."""
    return "standard input" if source == "-" else str(source)


def _require_ours(model: Any) -> None:
    """Refuse a wrapped model: what the copy for reading sets on a wrapper never reaches the model inside."""
    if not isinstance(model, RMTPreTrainedModel):
        merge = hasattr(model, "merge_and_unload")
        todo = "merge it first: model.merge_and_unload()" if merge else "build one with from_backbone(...)"
        raise InputError(f"model: expected one of our models, got {type(model).__name__}; {todo}")


@contextmanager
def _workplace(checkpoint: str | Path | None) -> Iterator[Path]:
    """A folder for tokens, gone afterwards; beside a checkpoint under one name, so a kill leaves one at most."""
    if checkpoint is None:
        with tempfile.TemporaryDirectory(prefix="rmt-") as name:
            yield Path(name)
        return
    path = Path(checkpoint)
    folder = path.with_name(f".{path.name}.tokens")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
