"""Any ``evals.model.Model`` as a model of lm-eval, without truncation at any length.

What a context is read into is a state of the model's own (a memory, for ours): each different context is read once,
whatever number of choices is asked of it, and only the logits of the continuations are ever made. lm-eval's own
``HFLM`` makes all of a context's. Needs lm-eval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import model_registry, register_model
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from tqdm import tqdm

from evals.lm_eval.states import States
from evals.lm_eval.texts import Context, Continuation, Ids, Split, known, split
from evals.model import Model

WINDOW = 2048  # tokens of a text scored at a time by a model without segments
# Moves a state on by tokens: state, token ids (int64) -> state.
Extend = Callable[[Any, Int[np.ndarray, " tokens"]], Any]


class RecurrentLM(TemplateLM):
    """A model of ``evals`` in lm-eval.

    Args:
        model: what is scored.
        batch_size: contexts read side by side where they have as many whole segments; "auto" is 1.
        max_batch_size: taken because lm-eval passes it; of no effect.
        add_bos_token: put the tokenizer's bos token before every text that does not begin with one. None leaves it to
            the model: one whose ``first`` is a token puts that before every text itself (a causal model of Hugging
            Face, where its tokenizer does), ours nothing.
        prefix_token_id: stands before a text that has no context; None for the model's ``first``, bos, or eos.
        max_gen_toks: tokens generated where a task says nothing.
        question_tokens: ask the last tokens of a context by themselves and read all before; None to divide it at the
            last border of segments (:func:`evals.lm_eval.texts.split`). For models that look for the question, such as
            those with retrieval, or that were trained on questions alone.
        keep_states: states kept for contexts that come again.
        extend: how a state reads on; None for the model's ``extend`` where it has one. Without, a text to be scored as
            a whole is read from the start for each window of it.
        tokenizer: a Hugging Face tokenizer; None for the model's ``tokenizer`` where it has one. Needed for special
            tokens and chat templates alone.
    """

    def __init__(
        self,
        model: Model[Any],
        *,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        max_gen_toks: int = 256,
        question_tokens: int | None = None,
        keep_states: int = 4,
        extend: Extend | None = None,
        tokenizer: Any = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer if tokenizer is not None else getattr(model, "tokenizer", None)
        self.max_gen_toks = max_gen_toks
        self.batch_size = 1 if str(batch_size).startswith("auto") else int(batch_size)
        self._states: States[Any] = States(model, self.batch_size, keep_states)
        self._question_tokens = question_tokens
        self._extend: Extend | None = extend if extend is not None else getattr(model, "extend", None)
        self._first = _first(model)
        self._prefix = prefix_token_id
        self._bos = self._leading(add_bos_token)
        self._encoded: dict[tuple[str, bool | None], list[int]] = {}

    def _leading(self, wanted: bool | None) -> int | None:
        """The token to put before every text; None for none."""
        if wanted is False and self._first is not None:
            raise ValueError("add_bos_token: expected a model that begins without a token, got one that puts it itself")
        if not wanted or self._first is not None:
            return None
        bos = getattr(self.tokenizer, "bos_token_id", None)
        if bos is None:
            raise ValueError("add_bos_token: expected a tokenizer with a bos token, got none; leave it out")
        return int(bos)

    @property
    def eot_token_id(self) -> int | None:  # type: ignore[override]
        """The tokenizer's eos token; None where it has none."""
        return getattr(self.tokenizer, "eos_token_id", None)

    @property
    def prefix_token_id(self) -> int:
        """The token that stands before a text without a context: the model's first, as given, else bos, else eos.

        Raises ValueError where there is none of them.
        """
        bos = getattr(self.tokenizer, "bos_token_id", None)
        for found in (self._first, self._prefix, bos, self.eot_token_id):
            if found is not None:
                return int(found)
        raise ValueError(
            f"{self.model.name}: expected a tokenizer with a bos or eos token, to stand before a text without a "
            "context, got neither; give prefix_token_id= in --model_args"
        )

    @property
    def tokenizer_name(self) -> str:
        """Of the tokenizer, for lm-eval's caches; the model's name where it has none."""
        name = getattr(self.tokenizer, "name_or_path", "") or self.model.name
        return str(name).replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes into its results about the model."""
        return {
            "model_name": self.model.name,
            "model_fingerprint": self.model.fingerprint(),
            "model_segment": self.model.segment,
        }

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as one text. Raises ValueError where the tokenizer has no template."""
        tokenizer: Any = self.tokenizer
        if getattr(tokenizer, "chat_template", None) is None:
            raise ValueError(
                f"{self.model.name}: expected a tokenizer with a chat template, got none; "
                "leave --apply_chat_template out"
            )
        text = tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return str(text)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids of a text, behind the bos token where one belongs there and the text has none."""
        key = (string, add_special_tokens)
        ids = self._encoded.pop(key, None)
        if ids is None:
            ids = np.asarray(self.model.encode(string)).tolist()
            if self._bos is not None and add_special_tokens is not False and ids[:1] != [self._bos]:
                ids = [self._bos, *ids]
        # The last two: lm-eval encodes the context again with each of its choices.
        self._encoded = dict([*self._encoded.items()][-1:]) | {key: ids}
        return ids

    def _encode_pair(self, context: str, continuation: str) -> tuple[Any, Any]:
        if isinstance(context, Context) and self._reads(context):
            ids = continuation.ids if isinstance(continuation, Continuation) else self.model.encode(continuation)
            return context, ids
        return super()._encode_pair(context, continuation)

    def _reads(self, context: Context) -> bool:
        """Whether the tokens of a context are this model's."""
        return self.model.decode(context.prompt) == context.asked

    def _split(self, context: str | Sequence[int]) -> Split:
        if isinstance(context, Context) and self._reads(context):
            return known(context.document, context.prompt)
        ids = self.tok_encode(context) if isinstance(context, str) else context
        if self._first is not None:
            ids = ids[1:] if ids[:1] == [self._first] else ids
            if not ids:  # the first token alone, which the model has before anything is read
                return known(Ids(np.zeros(0, dtype=np.int64)), np.zeros(0, dtype=np.int64))
        elif not ids:
            ids = [self.prefix_token_id]
        return split(np.asarray(ids, dtype=np.int64), self.model.segment, self._question_tokens)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], Any, Any]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        self._answerable([said for (_, said), _, _ in requests])
        if not all(len(end) for _, _, end in requests):
            raise ValueError("continuation: expected at least one token, got none; leave empty choices out")
        splits = [self._split(context) for _, context, _ in requests]
        results: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        with tqdm(total=len(requests), desc="Scoring", disable=disable_tqdm) as bar:
            for state, places in self._states.of(splits):
                for prompt, same in _alike(splits, places):
                    ends = [np.asarray(requests[place][2], dtype=np.int64) for place in same]
                    scores = self.model.score(state, prompt, ends)
                    for place, score in zip(same, scores, strict=True):
                        results[place] = (score.nats, score.greedy)
                        self.cache_hook.add_partial("loglikelihood", requests[place][0], results[place])
                    bar.update(len(same))
        return results

    def _answerable(self, continuations: Sequence[str]) -> None:
        if self.model.answers is None:
            return
        other = next((text for text in continuations if text.strip() not in self.model.answers), None)
        if other is not None:
            raise ValueError(
                f"{self.model.name}: expected continuations out of its answers ({', '.join(self.model.answers)}), "
                f"got {other[:40]!r}; it classifies, so choose a task with these answers, or a language model"
            )

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of each whole text in nats, behind the prefix token.

        A model with a memory reads it once more while it scores: segment by segment from the running state, exactly as
        in one piece, in memory that does not grow. A text begins with one bos token at most (HFLM reads two, and scores
        the second, where a tokenizer puts one itself). Raises ValueError for a model with a closed set of answers.
        """
        totals = []
        for request in tqdm(requests, desc="Scoring texts", disable=disable_tqdm):
            (text,) = request.args
            self._answerable([text])
            before, ids = self.prefix_token_id, self.tok_encode(text)
            if ids[:1] != [before]:
                ids = [before, *ids]
            total = sum(self._windows(np.asarray(ids, dtype=np.int64)), 0.0)
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
            totals.append(total)
        return totals

    def _windows(self, ids: Int[np.ndarray, " tokens"]) -> Iterator[float]:
        """Nats of window after window of ``ids``; each begins behind the first token of a segment."""
        step, own = self.model.segment or WINDOW, int(self._first is not None)  # a first token of its own is read
        state = self.model.initial()
        for start in range(0, len(ids) - 1, step):
            end = start + step
            prompt = ids[own:1] if not start else ids[start : start + 1]
            (score,) = self.model.score(state, prompt, [ids[start + 1 : end + 1]])
            yield score.nats
            if end >= len(ids) - 1:
                return
            if self._extend is not None and start:
                state = self._extend(state, ids[start:end])
            else:
                (state,) = self.model.read([Ids(ids[own:end])])

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy text behind each context, up to a stop text. Raises ValueError where a task asks for samples."""
        splits = [self._split(request.args[0]) for request in requests]
        texts = [""] * len(requests)
        with tqdm(total=len(requests), desc="Generating", disable=disable_tqdm) as bar:
            for state, places in self._states.of(splits):
                ways: dict[tuple[int, tuple[str, ...]], list[int]] = {}
                for place in places:
                    ways.setdefault(self._way(requests[place].args[1]), []).append(place)
                for (most, stop), same in ways.items():
                    said = self.model.generate(state, [splits[place].prompt for place in same], most, stop)
                    for place, text in zip(same, said, strict=True):
                        texts[place] = text
                        self.cache_hook.add_partial("generate_until", requests[place].args, text)
                    bar.update(len(same))
        return texts

    def _way(self, settings: dict[str, Any]) -> tuple[int, tuple[str, ...]]:
        """Tokens at most, and stop texts."""
        chosen: dict[str, Any] = dict(normalize_gen_kwargs(settings, self.max_gen_toks))
        if chosen["do_sample"]:
            raise ValueError("do_sample: expected False, as answers are greedy, got True; set it in --gen_kwargs")
        end = getattr(self.tokenizer, "eos_token", None)
        stop = handle_stop_sequences(chosen["until"], eos=end)
        return chosen["max_gen_toks"], tuple(text for text in stop if text)


def _first(model: Any) -> int | None:
    """The token that a model, or the one that it shows its text to, puts before it; None for none."""
    while (inner := getattr(model, "inner", None)) is not None:
        model = inner
    found: int | None = getattr(model, "first", None)
    return found


def _alike(splits: Sequence[Split], places: Sequence[int]) -> Iterator[tuple[Int[np.ndarray, " tokens"], list[int]]]:
    """Places by their prompt."""
    found: dict[bytes, list[int]] = {}
    for place in places:
        found.setdefault(splits[place].prompt.tobytes(), []).append(place)
    return ((splits[same[0]].prompt, same) for same in found.values())


@dataclass(frozen=True)
class Loaded:
    """A model with what :class:`RecurrentLM` may need beside it: its tokenizer, and how its states read on."""

    model: Model[Any]
    tokenizer: Any = None
    extend: Extend | None = None


def register(name: str, load: Callable[..., Loaded]) -> None:
    """Let lm-eval know a model type: ``--model NAME --model_args key=value`` scores ``load(key=value)``.

    What :class:`RecurrentLM` takes itself is not passed to ``load``. The same name may be registered again.
    """

    class Registered(RecurrentLM):
        def __init__(
            self,
            batch_size: int | str = 1,
            max_batch_size: int | None = None,
            add_bos_token: bool | None = None,
            prefix_token_id: int | None = None,
            max_gen_toks: int = 256,
            question_tokens: int | None = None,
            keep_states: int = 4,
            **arguments: Any,
        ) -> None:
            loaded = load(**arguments)
            super().__init__(
                loaded.model,
                batch_size=batch_size,
                add_bos_token=add_bos_token,
                prefix_token_id=prefix_token_id,
                max_gen_toks=max_gen_toks,
                question_tokens=question_tokens,
                keep_states=keep_states,
                extend=loaded.extend,
                tokenizer=loaded.tokenizer,
            )

    if name not in model_registry:
        register_model(name)(Registered)
