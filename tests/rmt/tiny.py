"""Models small enough for a test: random weights, hidden size 32, two layers, no downloads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from rmt.models.causal_lm import RMTForCausalLM
from rmt.models.sequence_classification import RMTForSequenceClassification

VOCAB = 64
CLS, SEP = 1, 2
FIRST = 3  # content tokens are FIRST to VOCAB - 1


def bert_config(**changes: Any) -> BertConfig:
    """A BERT of two layers; without dropout unless asked for."""
    fields: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "cls_token_id": CLS,
        "sep_token_id": SEP,
        "initializer_range": 0.2,
    }
    return BertConfig(**(fields | changes))


def llama_config(**changes: Any) -> LlamaConfig:
    """A LLaMA of two layers."""
    fields: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,
    }
    return LlamaConfig(**(fields | changes))


def classifier(
    *, dropout: float = 0.0, seed: int = 0, segment_size: int = 4, num_memory_tokens: int = 3, **fields: Any
) -> RMTForSequenceClassification:
    """A recurrent BERT with six classes."""
    torch.manual_seed(seed)
    inner = BertModel(
        bert_config(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout),
        add_pooling_layer=False,
    )
    fields = {"num_labels": 6, "classifier_dropout": dropout} | fields
    return RMTForSequenceClassification.from_backbone(
        inner, segment_size=segment_size, num_memory_tokens=num_memory_tokens, **fields
    )


def causal(
    *, dropout: float = 0.0, seed: int = 0, segment_size: int = 4, num_memory_tokens: int = 3, **fields: Any
) -> RMTForCausalLM:
    """A recurrent LLaMA."""
    torch.manual_seed(seed)
    inner = LlamaForCausalLM(llama_config(attention_dropout=dropout))
    return RMTForCausalLM.from_backbone(inner, segment_size=segment_size, num_memory_tokens=num_memory_tokens, **fields)


def content(batch: int, length: int, seed: int = 0) -> Tensor:
    """Random content tokens, int64 of shape (batch, length)."""
    return torch.randint(FIRST, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


def ragged(lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """A right-padded batch of documents of these lengths and its mask, both (batch, longest)."""
    ids = content(len(lengths), max(lengths), seed)
    mask = (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).long()
    return ids * mask, mask


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    """Gradients by parameter name; zeros where there is none."""
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def largest_gap(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest absolute difference between two sets of tensors of the same names."""
    assert one.keys() == other.keys()
    return max(float((one[name].float() - other[name].float()).abs().max()) for name in one)
