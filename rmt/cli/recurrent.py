"""Our models as ``evals.model.Model``: read a document into a memory, score continuations of it, generate from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from evals.model import Document, Sampling, Score
from evals.models.hugging_face import cut, picked
from evals.models.offers import ends
from evals.models.sampling import Draw
from evals.models.truncated import Part
from evals.models.wording import texts
from rmt.answers import classify, continue_text, pad
from rmt.cache import RMTCache, advance
from rmt.cli.adapters import DocumentTokens, TextReader, fingerprint, initial, shuffled
from rmt.errors import InputError
from rmt.memory import Memory

TOGETHER = 16  # continuations or prompts that run as one batch, each with a copy of the memory
LOGITS = 1 << 23  # numbers, 32 MB: more of them are made in parts
TINY = float(torch.finfo(torch.float32).tiny)


@dataclass(frozen=True, eq=False)
class Recalled:
    """What a model has of a document.

    Attributes:
        memory: after all of it.
        after: logits of the token that follows its last one, float32 of shape (vocabulary,): what an empty prompt goes
            on from. None of a classifier, and where nothing was read.
    """

    memory: Memory
    after: Tensor | None = None


class RecurrentModel:
    """A reader as ``evals.Model``.

    A classifier has its labels as its only answers: a continuation is a label by its text, whatever case and spaces.
    A language model reads prompt and continuation on behind the memory, as one more text that begins a new segment and
    may fill several; these logits and no others are made.

    Args:
        reader: of a classifier that gives one label, or of a language model. For :meth:`read` it is a
            :class:`rmt.Reader`; all else asks no more of it than stated.
        name: for people.

    Raises:
        InputError: a model that answers otherwise, such as with a span of the text.
    """

    controls = ("zeroed", "shuffled", "swapped")

    def __init__(self, reader: TextReader, name: str = "") -> None:
        self.reader = reader
        self._name = name or type(reader.model).__name__
        self._answers: tuple[str, ...] | None = None
        if reader.model.layout == "encoder":
            config: Any = reader.model.config
            if not hasattr(reader.model, "classifier") or config.num_labels < 2:
                raise InputError(
                    f"model: expected a classifier or a language model, got {type(reader.model).__name__}; "
                    "its answers are not texts that can be scored"
                )
            self._answers = tuple(str(config.id2label[n]) for n in range(config.num_labels))

    @property
    def name(self) -> str:
        """As given."""
        return self._name

    @property
    def segment(self) -> int:
        """Tokens of a segment."""
        return self.reader.segment_size

    @property
    def answers(self) -> tuple[str, ...] | None:
        """The labels of a classifier."""
        return self._answers

    def fingerprint(self) -> str:
        """Of the weights, and of how they read."""
        return fingerprint(self.reader)

    def encode(self, text: str) -> Int[np.ndarray, " tokens"]:
        """Token ids without special tokens, int64."""
        tokenizer: Any = self.reader.tokenizer
        return np.asarray(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], dtype=np.int64)

    def decode(self, ids: Int[np.ndarray, " tokens"]) -> str:
        """The text of token ids."""
        return str(self.reader.tokenizer.decode([int(i) for i in ids]))

    def initial(self) -> Recalled:
        """The memory before anything was read."""
        return Recalled(initial(self.reader))

    def read(self, documents: Sequence[Document]) -> list[Recalled]:
        """One memory for each document of one length.

        Of a language model the last segment is read by the model itself, which also says what it expects next; the
        memory is the same up to rounding.
        """
        reader: Any = self.reader
        if self._answers is not None:
            return [Recalled(m) for m in reader.read_batch([DocumentTokens(d) for d in documents])]
        length = documents[0].length
        begun = max(0, length - 1) // self.segment * self.segment
        memories = [initial(self.reader) for _ in documents]
        if begun:
            memories = reader.read_batch([DocumentTokens(Part(d, ((0, begun),))) for d in documents])
        return [self.read_on(m, d.tokens(begun, length)) for m, d in zip(memories, documents, strict=True)]

    def score(
        self, state: Recalled, prompt: Int[np.ndarray, " tokens"], continuations: Sequence[Int[np.ndarray, " _"]]
    ) -> list[Score]:
        """How likely each continuation is.

        Where nothing at all stands before it, neither text nor prompt, any first token is as likely as any other.

        Raises:
            InputError: of a classifier: no prompt, or a continuation that is no label.
        """
        prompt = np.asarray(prompt, dtype=np.int64)
        rows = [np.asarray(ids, dtype=np.int64) for ids in continuations]
        if self._answers is not None:
            return self._labels(state.memory, prompt, rows)
        return self._likely(state, prompt, rows)

    def generate(
        self,
        state: Recalled,
        prompts: Sequence[Int[np.ndarray, " _"]],
        max_tokens: int,
        stop: Sequence[str] = (),
        sampling: Sequence[Sampling] | None = None,
    ) -> list[str]:
        """A label for each prompt, or text behind it, cut before the first of the ``stop`` texts.

        Text is greedy, or drawn as ``sampling`` says; a classifier always gives its most likely label.

        Raises:
            InputError: an empty prompt of a classifier, or where nothing was read.
        """
        rows = [np.asarray(prompt, dtype=np.int64) for prompt in prompts]
        said: list[str] = []
        for start in range(0, len(rows), TOGETHER):
            part = rows[start : start + TOGETHER]
            if self._answers is not None:
                best = self._probabilities(state.memory, part).argmax(dim=1).tolist()
                said += [self._answers[label] for label in best]
            else:
                draw = None if sampling is None else Draw(sampling[start : start + TOGETHER])
                said += self._write(state, part, max_tokens, tuple(stop), draw)
        return said

    def shuffled(self, state: Recalled, seed: int) -> Recalled:
        """Channels of the memory in another order; what follows the last token directly is no memory, and stays."""
        return Recalled(shuffled(state.memory, seed), state.after)

    def read_on(self, memory: Memory, ids: Int[np.ndarray, " tokens"]) -> Recalled:
        """Read text behind a memory, and keep what the model expects behind it."""
        if not len(ids):
            return Recalled(memory)
        self.reader.check(ids)
        model: Any = self.reader.model
        with torch.inference_mode():
            text = torch.from_numpy(np.array(ids, dtype=np.int64))[None].to(model.device)
            out = model(input_ids=text, memory=memory.to(model.device), logits_to_keep=1)
        return Recalled(out.memory, out.logits[0, -1].float())

    def _probabilities(self, memory: Memory, prompts: list[np.ndarray]) -> Tensor:
        """Of the labels, float32 of shape (prompts, labels)."""
        if not all(len(prompt) for prompt in prompts):
            raise InputError("prompt: expected a question to classify, got no tokens; give one")
        return classify(self.reader.model, memory.to(self.reader.model.device), prompts)

    def _labels(self, memory: Memory, prompt: np.ndarray, continuations: list[np.ndarray]) -> list[Score]:
        assert self._answers is not None
        # As the tokenizer spells them: some know no capitals, some put spaces around hyphens.
        names = [_plain(self.decode(self.encode(name))) for name in self._answers]
        spelled = [_plain(self.decode(ids)) for ids in continuations]
        for text in spelled:
            if text not in names:
                raise InputError(
                    f"continuation: expected one of the labels {', '.join(self._answers)}, got {text!r}; "
                    "a classifier can give no other answer"
                )
        shares = self._probabilities(memory, [prompt])[0].float().clamp(min=TINY)
        chosen, nats = int(shares.argmax()), shares.log().tolist()
        places = [names.index(text) for text in spelled]
        return [Score(nats[n], n == chosen, len(ids)) for n, ids in zip(places, continuations, strict=True)]

    def _likely(self, state: Recalled, prompt: np.ndarray, continuations: list[np.ndarray]) -> list[Score]:
        model: Any = self.reader.model
        with torch.inference_mode():
            cache = RMTCache.begin(model, state.memory.to(model.device), 1)
            first = state.after
            for start in range(0, len(prompt), self.reader.block):
                ids = torch.from_numpy(prompt[start : start + self.reader.block])[None].to(model.device)
                kept, cache = advance(model, ids, None, cache, 1)
                first = kept[0, -1].float()
            if first is None:
                first = torch.zeros(int(model.config.vocab_size))
            first = first.cpu()
            normal, best = float(first.logsumexp(0)), int(first.argmax())
            nats = [float(first[ids[0]]) - normal if len(ids) else 0.0 for ids in continuations]
            greedy = [not len(ids) or int(ids[0]) == best for ids in continuations]
            longer = [n for n, ids in enumerate(continuations) if len(ids) > 1]
            for start in range(0, len(longer), TOGETHER):
                part = longer[start : start + TOGETHER]
                rest = self._rest(cache, [continuations[n] for n in part])
                for n, (more, top) in zip(part, rest, strict=True):
                    nats[n], greedy[n] = nats[n] + more, greedy[n] and top
        return [Score(nats[n], greedy[n], len(ids)) for n, ids in enumerate(continuations)]

    def _rest(self, cache: RMTCache, continuations: list[np.ndarray]) -> list[tuple[float, bool]]:
        """Nats of all tokens but the first, and whether each is the most likely one."""
        model: Any = self.reader.model
        text, mask = pad(continuations, model.device)
        rows, width = text.shape
        cache = cache.index(torch.zeros(rows, dtype=torch.long, device=model.device))
        step = max(1, LOGITS // (rows * int(model.config.vocab_size)))
        nats, greedy = torch.zeros(rows, dtype=torch.float64), torch.ones(rows, dtype=torch.bool)
        for start in range(0, width - 1, step):
            stop = min(start + step, width - 1)
            real = mask[:, start + 1 : stop + 1].bool()
            logits, cache = advance(model, text[:, start:stop], real, cache)
            likely, top = picked(logits, text[:, start + 1 : stop + 1])
            real = real.cpu()
            nats += likely.double().masked_fill(~real, 0).sum(dim=1)
            greedy &= (top | ~real).all(dim=1)
        return list(zip(nats.tolist(), greedy.tolist(), strict=True))

    def _write(
        self, state: Recalled, prompts: list[np.ndarray], most: int, stop: tuple[str, ...], draw: Draw | None
    ) -> list[str]:
        """Text. An empty prompt begins with the token that the document itself goes on with."""
        model, tokenizer = self.reader.model, self.reader.tokenizer
        begun: list[np.ndarray] = []
        last = ends(model, tokenizer)
        for row, prompt in enumerate(prompts):
            if len(prompt):
                begun.append(prompt)
                continue
            if state.after is None:
                raise InputError("prompt: expected tokens to go on from, got none, of text or prompt; give some")
            begun.append(np.array([int(state.after.argmax()) if draw is None else draw.one(row, state.after)]))
        until = StoppingCriteriaList([StopTexts(tokenizer, max(map(len, begun)), stop)])
        more: dict[str, Any] = {"stopping_criteria": until} if stop else {}
        if draw is not None:
            more["logits_processor"] = LogitsProcessorList([Drawn(draw)])
        memory = state.memory.to(model.device)
        ids = continue_text(model, memory, begun, max_new_tokens=most, **more).tolist()
        said = [
            [*([] if len(prompt) else first.tolist()), *own]
            for prompt, first, own in zip(prompts, begun, ids, strict=True)
        ]
        # Behind its end a row is filled up while others go on, with ids that may well be words.
        said = [list(takewhile(lambda token: token not in last, own[:most])) for own in said]
        return [cut(text, stop) for text in texts(tokenizer, said)]


class Drawn(LogitsProcessor):
    """Leaves one token of each row possible, drawn by ``draw``: what is greedy behind it is drawn."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw

    def __call__(self, input_ids: Any, scores: Float[Tensor, "rows vocabulary"]) -> Float[Tensor, "rows vocabulary"]:
        """0 for the token that was drawn, the least there is for all others."""
        chosen = self.draw(scores).to(scores.device)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen[:, None], 0.0)


class StopTexts(StoppingCriteria):
    """Ends a row whose new text holds one of some texts.

    Args:
        tokenizer: of the model.
        start: columns of the prompts.
        texts: any of which ends it.
    """

    def __init__(self, tokenizer: Any, start: int, texts: Sequence[str]) -> None:
        self.tokenizer, self.start, self.texts = tokenizer, start, texts

    def __call__(  # type: ignore[override]
        self, input_ids: Int[Tensor, "rows columns"], scores: Any, **_: Any
    ) -> Bool[Tensor, " rows"]:
        """Which rows are finished."""
        said = texts(self.tokenizer, input_ids[:, self.start :].tolist())
        done = [any(text in row for text in self.texts) for row in said]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
