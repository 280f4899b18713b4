"""A tokenizer, and models behind ``evals.model.Model`` written as plainly as can be, for the tests of the plug-in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from evals import Score
from rmt.models import RMTForCausalLM
from tests.rmt.tiny import llama_config

WORDS = 60


def tokenizer(bos: bool) -> PreTrainedTokenizerFast:
    """A token a word, w0 to w59; puts <s> before a text where ``bos``."""
    vocabulary = {"<s>": 0, "</s>": 1, "<u>": 2, "<p>": 3, **{f"w{n}": n + 4 for n in range(WORDS)}}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<u>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<u>", pad_token="<p>"
    )


def llama(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(llama_config(vocab_size=WORDS + 4)).eval()


def recurrent(memory: str, segment: int = 8, seed: int = 0) -> RMTForCausalLM:
    """A tiny recurrent model whose memory matters: what is written there is not zero."""
    extra: dict[str, Any] = {"memory": "associative", "associative_key_size": 4} if memory == "associative" else {}
    model = RMTForCausalLM.from_backbone(llama(seed), segment_size=segment, num_memory_tokens=2, **extra).eval()
    for name, weight in model.cell.named_parameters():
        if "value" in name or "W_v" in name:
            torch.nn.init.normal_(weight, std=0.5)
    return model


def text(ids: Sequence[int]) -> str:
    return " ".join(f"w{i - 4}" for i in ids)


def random_ids(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, count)).integers(4, WORDS + 4, count)


class Plain:
    """State: all ids so far. Each question runs everything again.

    Args:
        logits: ids (tokens,) to logits (tokens, vocabulary).
        tokenizer: puts its first token here, as a causal model would.
    """

    answers = None
    controls: tuple[str, ...] = ()
    name = "plain"

    def __init__(
        self, logits: Callable[[np.ndarray], torch.Tensor], tokenizer: Any, segment: int | None = None, own: bool = True
    ) -> None:
        self.logits, self.tokenizer, self.segment = logits, tokenizer, segment
        begins = tokenizer("w1")["input_ids"][0] == tokenizer.bos_token_id
        self.first = tokenizer.bos_token_id if own and begins else None
        self.reads: list[list[int]] = []
        self.scored = 0

    def fingerprint(self) -> str:
        return "plain"

    def encode(self, text: str) -> np.ndarray:
        return np.asarray(self.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)

    def decode(self, ids: Any) -> str:
        return self.tokenizer.decode(ids)

    def initial(self) -> list[int]:
        return [] if self.first is None else [self.first]

    def read(self, documents: Sequence[Any]) -> list[list[int]]:
        self.reads.append([d.length for d in documents])
        assert len({d.length for d in documents}) == 1
        return [[*self.initial(), *d.tokens(0, d.length).tolist()] for d in documents]

    def score(self, state: list[int], prompt: np.ndarray, continuations: Sequence[np.ndarray]) -> list[Score]:
        scores = []
        for ids in continuations:
            self.scored += len(ids)
            whole = np.array([*state, *prompt, *ids])
            likely = self.logits(whole[:-1]).log_softmax(-1)[-len(ids) :]
            nats = likely[torch.arange(len(ids)), torch.as_tensor(ids)]
            scores.append(Score(float(nats.sum()), bool((likely.argmax(-1).numpy() == ids).all()), len(ids)))
        return scores

    def generate(
        self,
        state: list[int],
        prompts: Sequence[np.ndarray],
        max_tokens: int,
        stop: Sequence[str] = (),
        sampling: Any = None,
    ) -> list[str]:
        said = []
        for prompt in prompts:
            ids = [*state, *prompt.tolist()]
            begin = len(ids)
            for _ in range(max_tokens):
                ids.append(int(self.logits(np.array(ids))[-1].argmax()))
            words = self.decode(ids[begin:])
            said.append(words[: min((words.index(end) for end in stop if end in words), default=len(words))])
        return said

    def shuffled(self, state: list[int], seed: int) -> list[int]:
        raise NotImplementedError


class Remembering(Plain):
    """State: the memory of whole segments, made by the model's own forward; a question goes on from there."""

    def __init__(self, model: RMTForCausalLM, tokenizer: Any) -> None:
        super().__init__(lambda ids: joined(model, ids), tokenizer, int(model.config.segment_size), own=False)
        self.model = model

    def initial(self) -> Any:
        return self.model.initial_memory(1)

    def read(self, documents: Sequence[Any]) -> list[Any]:
        self.reads.append([d.length for d in documents])
        return [self.extend(None, d.tokens(0, d.length)) for d in documents]

    def extend(self, state: Any, ids: np.ndarray) -> Any:
        with torch.no_grad():
            return self.model(torch.as_tensor(ids)[None], memory=state, logits_to_keep=1).memory

    def score(self, state: Any, prompt: np.ndarray, continuations: Sequence[np.ndarray]) -> list[Score]:
        scores = []
        for ids in continuations:
            whole = torch.as_tensor(np.array([*prompt, *ids]))
            with torch.no_grad():
                likely = self.model(whole[None, :-1], memory=state).logits[0].log_softmax(-1)[-len(ids) :]
            scores.append(Score(float(likely[torch.arange(len(ids)), whole[-len(ids) :]].sum()), False, len(ids)))
        return scores


def joined(model: Any, ids: np.ndarray) -> torch.Tensor:
    """Logits (tokens, vocabulary) of one forward over all of it."""
    with torch.no_grad():
        return model(torch.as_tensor(ids)[None]).logits[0]


def likelihood(model: Any, context: Sequence[int], continuation: Sequence[int]) -> float:
    """Nats of the continuation, of one forward over all of it."""
    whole = np.array([*context, *continuation])
    likely = joined(model, whole).log_softmax(-1)[len(context) - 1 : -1]
    return float(likely[torch.arange(len(continuation)), torch.as_tensor(np.array(continuation))].sum())
