"""Documents of given tokens, a tokenizer of made-up words, and tiny models with random weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

VOCAB = 64


@dataclass
class Plain:
    """A document of given tokens that notes which ranges it was asked for."""

    ids: np.ndarray
    questions: tuple[Any, ...] = ()
    asked: list[tuple[int, int]] = field(default_factory=list)

    @property
    def length(self) -> int:
        return len(self.ids)

    def tokens(self, start: int, stop: int) -> np.ndarray:
        self.asked.append((start, stop))
        return self.ids[start:stop]


def text(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, VOCAB, length)


def tokenizer(bos: bool = False) -> PreTrainedTokenizerFast:
    """Words w3 to w63; with ``bos`` it puts a token before a text, as LLaMA's does."""
    names = {"[UNK]": 0, "<s>": 1, "</s>": 2, **{f"w{n}": n for n in range(3, VOCAB - 1)}, "a": VOCAB - 1}
    inner = Tokenizer(models.WordLevel(names, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    special = {"bos_token": "<s>"} if bos else {}
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", **special)


def llama(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    shape = {
        "vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 48, "max_position_embeddings": 64, "initializer_range": 0.4, "eos_token_id": None,
    }  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**(shape | changes))).eval()


def mistral(seed: int = 0) -> MistralForCausalLM:
    """With a sliding window of its own, of 8."""
    torch.manual_seed(seed)
    shape = {
        "vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "intermediate_size": 48, "sliding_window": 8, "initializer_range": 0.4,
    }  # fmt: skip
    return MistralForCausalLM(MistralConfig(**shape)).eval()


def gpt2(seed: int = 0) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=2, n_positions=96, initializer_range=0.4)
    config.eos_token_id = config.bos_token_id = None
    return GPT2LMHeadModel(config).eval()


def naive(model: Any, context: np.ndarray, continuation: np.ndarray, window: int | None = None) -> tuple[float, bool]:
    """Nats of a continuation and whether it is the greedy one, from all logits of one forward over all tokens.

    With a ``window`` under a mask in which each token sees so many, itself with them.
    """
    ids = torch.from_numpy(np.concatenate([context, continuation])).long()[None]
    mask = None
    if window is not None:
        at = torch.arange(ids.shape[1])
        seen = (at[None] <= at[:, None]) & (at[None] > at[:, None] - window)
        mask = torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)[None, None]
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=mask).logits[0].log_softmax(-1)
    at = torch.arange(len(context) - 1, ids.shape[1] - 1)
    wanted = ids[0, len(context) :]
    return float(logits[at, wanted].sum()), bool((logits[at].argmax(-1) == wanted).all())


def greedy(model: Any, context: np.ndarray, count: int, window: int | None = None) -> np.ndarray:
    """The most likely tokens, one full forward each."""
    said: list[int] = []
    for _ in range(count):
        so_far = np.concatenate([context, np.array(said, dtype=np.int64)])
        best = max(range(VOCAB), key=lambda token: naive(model, so_far, np.array([token]), window)[0])
        said.append(best)
    return np.array(said)
