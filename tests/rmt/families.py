"""Tiny backbones of every family, with weights large enough that a wrong position or mask shows."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel

VOCAB = 61
SPECIAL = {"cls_token_id": 1, "sep_token_id": 2}
COMMON = {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
WIDE = COMMON | {"intermediate_size": 32, "max_position_embeddings": 64, "pad_token_id": 0}
HEADS = WIDE | {"num_key_value_heads": 1, "head_dim": 8, "bos_token_id": 1, "eos_token_id": 2}
OLD = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "bos_token_id": 1, "eos_token_id": 2}
SMALL_BERT = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 64}
RELATIVE = {
    "relative_attention": True,
    "position_buckets": 8,
    "pos_att_type": ["p2c", "c2p"],
    "type_vocab_size": 0,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": WIDE,
    "roberta": WIDE | {"max_position_embeddings": 66, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
    "distilbert": {"vocab_size": VOCAB, "pad_token_id": 0} | SMALL_BERT,
    "deberta-v2": WIDE
    | RELATIVE
    | {"norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False},
    "modernbert": WIDE | SPECIAL | {"bos_token_id": 1, "eos_token_id": 2, "local_attention": 64},
    "llama": HEADS,
    "mistral": HEADS | {"sliding_window": 64},
    "qwen2": HEADS,
    "qwen3": HEADS,
    "gemma": HEADS,
    "gpt2": {"vocab_size": VOCAB} | OLD,
    "gpt_neox": WIDE | {"bos_token_id": 1, "eos_token_id": 2},
}
ENCODERS = ("bert", "roberta", "distilbert", "deberta-v2", "modernbert")


def build(kind: str, **changes: Any) -> PreTrainedModel:
    """A backbone with fresh weights, in eval mode: a base model of an encoder, a decoder with its head."""
    config = AutoConfig.for_model(kind, **(FAMILIES[kind] | changes))
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    kit = AutoModel if kind in ENCODERS else AutoModelForCausalLM
    model = kit.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.2)
            elif "norm" not in name.lower() and "ln_" not in name:
                parameter.normal_(0.0, 0.05)
    return model.eval()
