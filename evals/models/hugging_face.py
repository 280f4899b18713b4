"""Any causal language model of Hugging Face: reads a document into keys and values, and writes on behind them.

Three ways to read. "full" keeps the keys and values of every token. "sliding" keeps those of the last ``size`` tokens,
as a model with a sliding window does: a token sees itself and the ``size`` - 1 before it in each layer, so what is
older comes through the layers only. "truncate" forgets all but ``size`` tokens and reads these as the document.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPast

from evals.model import Document, Sampling, Score
from evals.models import keys
from evals.models.offers import (
    arguments,
    check_model,
    check_window,
    ends,
    first_token,
    learned_positions,
    weights_digest,
)
from evals.models.sampling import Draw
from evals.models.truncated import kept
from evals.models.wording import texts as worded

# What this release of transformers calls keys and values: "cache" since 5.24.
CACHE = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"
CHUNK = 1024  # tokens read at a time: their attention scores are the largest thing made while reading
LOGITS = 1 << 24  # numbers, 64 MB: a continuation whose logits are more is scored in parts
ROWS = 256 << 20  # bytes of keys and values that rows asked together may take


@dataclass(frozen=True, eq=False)
class Context:
    """What a model has of a document.

    Attributes:
        cache: keys and values of its tokens but the last, one row; None before any.
        seen: how many tokens went into it, which is the position of ``last``.
        last: id of the last token, which is read when something is asked, so that it predicts what follows.
    """

    cache: Any
    seen: int
    last: int | None


class CausalModel:
    """A causal language model as ``evals.Model``.

    Args:
        model: of ``AutoModelForCausalLM``, on its device, in the dtype it is to read in.
        tokenizer: its own.
        window: "full", "sliding" or "truncate"; see above. Positions count from the beginning of what is read: of the
            document for "full" and "sliding" (rotary angles of a position p are rounded by p / 2^24, 0.06 rad at a
            million), of the ``size`` tokens kept for "truncate".
        size: tokens of the window; the question comes on top of them for "truncate", into them for "sliding".
        keep: which tokens "truncate" keeps: the "last", or "ends", the first and the last half each.
        chunk: tokens read at a time.
        name: for people.

    A text begins with the token that the tokenizer puts first (BOS), on top of ``size``.

    Raises:
        ValueError: an unknown window or keep, a size missing or too much, a model without ``logits_to_keep``, or one
            that cannot slide: it has a window of its own, or takes no positions.
    """

    segment = None
    answers = None

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        window: str = "full",
        size: int | None = None,
        keep: str = "last",
        *,
        chunk: int = CHUNK,
        name: str | None = None,
    ) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.window, self.size, self.keep, self.chunk = window, size, keep, chunk
        self._takes = arguments(model)
        check_window(window, size, keep, chunk)
        check_model(model.config, self._takes, window)
        self._limit = learned_positions(model)
        self._first = first_token(tokenizer)
        self._ends = ends(model, tokenizer)
        self._fingerprint: str | None = None
        own = name or str(getattr(model.config, "name_or_path", "")).rstrip("/").rpartition("/")[2]
        how = "" if window == "full" else f", {window} {size}" + (f" {keep}" if window == "truncate" else "")
        self._name = (own or model.config.model_type) + how

    @property
    def name(self) -> str:
        """The model's, and the window."""
        return self._name

    @property
    def first(self) -> int | None:
        """The token that it puts before every text; None for none."""
        return self._first

    @property
    def controls(self) -> tuple[str, ...]:
        """All; without channels to shuffle where a layer keeps something else than keys and values."""
        plain = {"full_attention", "sliding_attention", "chunked_attention"}
        if set(getattr(self.model.config, "layer_types", None) or plain) <= plain:
            return ("zeroed", "shuffled", "swapped")
        return ("zeroed", "swapped")

    def fingerprint(self) -> str:
        """Hash of all weights, their dtype and the way of reading."""
        if self._fingerprint is None:
            settings = repr((self.window, self.size, self.keep, self._first, type(self.model).__name__))
            self._fingerprint = hashlib.sha256((weights_digest(self.model) + settings).encode()).hexdigest()[:16]
        return self._fingerprint

    def encode(self, text: str) -> Int[np.ndarray, " tokens"]:
        """Token ids without special tokens, int64."""
        return np.asarray(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], dtype=np.int64)

    def decode(self, ids: Int[np.ndarray, " tokens"]) -> str:
        """The text of token ids."""
        return str(self.tokenizer.decode([int(i) for i in ids]))

    def initial(self) -> Context:
        """Nothing read."""
        return Context(None, 0, self._first)

    def read(self, documents: Sequence[Document]) -> list[Context]:
        """Keys and values of each document, ``chunk`` tokens at a time.

        Raises:
            ValueError: documents of different lengths, or more positions than the model has learned.
        """
        lengths = {document.length for document in documents}
        if len(lengths) > 1:
            raise ValueError(f"read: expected documents of one length, got {sorted(lengths)}; read them apart")
        rows = len(documents)
        cache, seen = None, 0
        pending = torch.full((rows, 0 if self._first is None else 1), self._first or 0)
        with torch.inference_mode():
            for block in self._blocks(documents):
                ids = torch.cat([pending, block], dim=1)
                cache = self._grow(cache, ids[:, :-1], seen)
                seen, pending = seen + ids.shape[1] - 1, ids[:, -1:]
        caches = [None] * rows if cache is None else keys.split(cache, rows)
        last = [ids[-1] if ids else None for ids in pending.tolist()]
        return [Context(own, seen, token) for own, token in zip(caches, last, strict=True)]

    def score(
        self,
        state: Context,
        prompt: Int[np.ndarray, " tokens"],
        continuations: Sequence[Int[np.ndarray, " _"]],
    ) -> list[Score]:
        """How likely each continuation is; the prompt runs once, and so do first tokens.

        Where nothing at all stands before it, the tokenizer's BOS or else EOS stands for it, as in lm-eval; without
        these any first token is as likely as any other.

        Raises:
            ValueError: more positions than the model has learned.
        """
        with torch.inference_mode():
            begun = self._begin(state, prompt)
            seen = state.seen + begun.shape[1]
            cache = self._grow(state.cache, begun[:, :-1], state.seen)
            cache = keys.new(self.model.config, self.window == "sliding") if cache is None else keys.fork(cache)
            logits = torch.zeros(1, self.model.config.get_text_config().vocab_size)
            if begun.shape[1]:
                logits = self._logits(cache, begun[:, -1:], seen - 1, 1)[0].float()
            normal = logits.logsumexp(-1)
            best = int(logits[0].argmax())
            scores: list[Score] = []
            for ids in continuations:
                first = int(ids[0]) if len(ids) else best
                nats = float(logits[0, first] - normal[0]) if len(ids) else 0.0
                scores.append(Score(nats, first == best, len(ids)))
            longer = [n for n, ids in enumerate(continuations) if len(ids) > 1]
            for part in self._parts(longer, cache):
                rest = self._rest(cache, [continuations[n] for n in part], seen)
                for n, (nats, greedy) in zip(part, rest, strict=True):
                    scores[n] = Score(scores[n].nats + nats, scores[n].greedy and greedy, scores[n].tokens)
            return scores

    def generate(
        self,
        state: Context,
        prompts: Sequence[Int[np.ndarray, " _"]],
        max_tokens: int,
        stop: Sequence[str] = (),
        sampling: Sequence[Sampling] | None = None,
    ) -> list[str]:
        """Text behind each prompt, greedy or drawn; prompts of one length run together, so that none needs padding.

        Raises:
            ValueError: nothing to go on from, or more positions than the model has learned.
        """
        said = [""] * len(prompts)
        lengths: dict[int, list[int]] = {}
        for n, prompt in enumerate(prompts):
            lengths.setdefault(len(prompt), []).append(n)
        with torch.inference_mode():
            for same in lengths.values():
                for part in self._parts(same, state.cache):
                    ids = torch.cat([self._begin(state, prompts[n]) for n in part])
                    if not ids.shape[1]:
                        raise ValueError(
                            "prompt: expected tokens to go on from, got none, of text or prompt; give some"
                        )
                    draw = None if sampling is None else Draw([sampling[n] for n in part])
                    for n, text in zip(part, self._write(state, ids, max_tokens, stop, draw), strict=True):
                        said[n] = text
        return said

    def shuffled(self, state: Context, seed: int) -> Context:
        """The same numbers in another order within each head; the last token, which is not among them, stays."""
        cache = None if state.cache is None else keys.shuffled(state.cache, seed)
        return Context(cache, state.seen, state.last)

    def _blocks(self, documents: Sequence[Document]) -> Iterator[Tensor]:
        """Token ids that the window lets in, int64 of shape (documents, at most ``chunk``)."""
        length = documents[0].length if documents else 0
        ranges = [(0, length)]
        if self.window == "truncate":
            assert self.size is not None
            ranges = kept(length, self.size, self.keep)
        for begin, end in ranges:
            for start in range(begin, end, self.chunk):
                stop = min(start + self.chunk, end)
                yield torch.from_numpy(np.stack([np.asarray(d.tokens(start, stop), np.int64) for d in documents]))

    def _begin(self, state: Context, prompt: Int[np.ndarray, " tokens"]) -> Tensor:
        """The last token of the document and the prompt, (1, tokens)."""
        last = [] if state.last is None else [state.last]
        if not last and not len(prompt):
            last = [i for i in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id) if i is not None][:1]
        return torch.tensor([[*last, *(int(i) for i in prompt)]], dtype=torch.long)

    def _grow(self, cache: Any, ids: Tensor, seen: int) -> Any:
        """A cache with ``ids`` (rows, tokens) behind it; the given one as it was."""
        if not ids.shape[1]:
            return cache
        cache = keys.new(self.model.config, self.window == "sliding") if cache is None else keys.fork(cache)
        for start in range(0, ids.shape[1], self.chunk):
            self._logits(cache, ids[:, start : start + self.chunk], seen + start, 1)
        return cache

    def _logits(self, cache: Any, ids: Tensor, seen: int, keep: int) -> Tensor:
        """Read ``ids`` (rows, tokens) into ``cache``; the logits of the last ``keep`` of them."""
        rows, count = ids.shape
        if self._limit is not None and seen + count > self._limit:
            raise ValueError(
                f"expected at most {self._limit:,} positions, which this model has learned, got {seen + count:,}; "
                "use window='truncate' with a smaller size"
            )
        device = self.model.device
        more: dict[str, Any] = {CACHE: cache, "use_cache": True, "logits_to_keep": keep}
        if "position_ids" in self._takes:
            more["position_ids"] = torch.arange(seen, seen + count, device=device).expand(rows, -1)
        if self.window == "sliding":
            assert self.size is not None
            held = min(seen, self.size - 1)
            more["attention_mask"] = _band(held, count, self.size, self.model.dtype, device).expand(rows, -1, -1, -1)
        logits: Tensor = self.model(input_ids=ids.to(device), **more).logits
        if self.window == "sliding":
            assert self.size is not None
            keys.trim(cache, self.size - 1)
        return logits

    def _parts(self, which: Sequence[int], cache: Any) -> list[list[int]]:
        """As many together as keys and values allow."""
        rows = max(1, min(32, ROWS // max(1, 0 if cache is None else keys.nbytes(cache))))
        return [list(which[start : start + rows]) for start in range(0, len(which), rows)]

    def _rest(self, cache: Any, continuations: Sequence[Int[np.ndarray, " _"]], seen: int) -> list[tuple[float, bool]]:
        """Nats of all tokens but the first, and whether each is the most likely one.

        Shorter rows are filled up behind their end, where no token that counts looks.
        """
        width = max(len(ids) for ids in continuations)
        text = torch.zeros(len(continuations), width, dtype=torch.long)
        for row, whole in enumerate(continuations):
            text[row, : len(whole)] = torch.from_numpy(np.array(whole, dtype=np.int64))
        cache = keys.fork(cache, len(continuations))
        step = max(1, min(self.chunk, LOGITS // (len(continuations) * self.model.config.get_text_config().vocab_size)))
        nats, greedy = torch.zeros(len(continuations), dtype=torch.float64), [True] * len(continuations)
        for start in range(0, width - 1, step):
            ids = text[:, start : min(start + step, width - 1)]
            wanted = text[:, start + 1 : start + 1 + ids.shape[1]]
            likely, best = picked(self._logits(cache, ids, seen + start, ids.shape[1]), wanted)
            for row, whole in enumerate(continuations):
                real = max(0, min(ids.shape[1], len(whole) - 1 - start))
                nats[row] += likely[row, :real].double().sum()
                greedy[row] &= bool(best[row, :real].all())
        return list(zip(nats.tolist(), greedy, strict=True))

    def _write(
        self, state: Context, ids: Tensor, max_tokens: int, stop: Sequence[str], draw: Draw | None = None
    ) -> list[str]:
        """Text behind rows of ``ids``, all of one length; the most likely tokens, or those that ``draw`` chooses."""
        rows = len(ids)
        cache = keys.new(self.model.config, self.window == "sliding")
        if state.cache is not None:
            cache = keys.fork(state.cache, rows)
        cache, seen = self._grow(cache, ids[:, :-1], state.seen), state.seen + ids.shape[1] - 1
        said: list[list[int]] = [[] for _ in range(rows)]
        texts, going, new = [""] * rows, set(range(rows)), ids[:, -1:]
        for step in range(max_tokens):
            logits = self._logits(cache, new, seen + step, 1)[:, -1]
            new = (logits.argmax(-1).cpu() if draw is None else draw(logits))[:, None]
            for row in sorted(going):
                token = int(new[row, 0])
                if token not in self._ends:
                    said[row].append(token)
                    (texts[row],) = worded(self.tokenizer, [said[row]])
                if token in self._ends or any(text in texts[row] for text in stop):
                    going.discard(row)
            if not going:
                break
        return [cut(text, stop) for text in texts]


def picked(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Log-likelihoods of the tokens ``wanted`` (rows, tokens), float32, and whether each is the most likely one."""
    logits, wanted = logits.float(), wanted.to(logits.device)
    likely = logits.gather(-1, wanted[:, :, None])[:, :, 0] - logits.logsumexp(-1)
    return likely.cpu(), (logits.argmax(-1) == wanted).cpu()


def cut(text: str, stop: Sequence[str]) -> str:
    """The text before the first of the ``stop`` texts in it."""
    return text[: min((text.index(end) for end in stop if end in text), default=len(text))]


def _band(held: int, count: int, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What new tokens see of ``held`` earlier ones and of each other: 0, or the least number; (1, 1, count, all)."""
    query = torch.arange(held, held + count, device=device)[:, None]
    key = torch.arange(held + count, device=device)[None]
    seen = (key <= query) & (key > query - size)
    return torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill(~seen, torch.finfo(dtype).min)[None, None]
