"""Models of real sizes with random weights, made where they are to run, and the operations that reading takes them.

Nothing is downloaded and nothing copied: a model of eight billion weights is built on the GPU, in its number format.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import roofline
import torch
from torch import nn

from rmt import pretrained
from rmt.config import RMTConfig
from rmt.errors import InputError
from rmt.executors.precision import as_dtype
from rmt.models import RMTForCausalLM, RMTForSequenceClassification

VALUES, WEAK = 0.3, -4.0  # spread of what is stored, over that of keys; strength of writes before the sigmoid
LLAMA3 = {"vocab": 128_256, "heads_of_keys": 8}


@dataclass(frozen=True)
class Size:
    """A backbone's shape.

    Attributes:
        hidden, inner, layers, heads: of the transformer.
        vocab: tokens.
        heads_of_keys: where several heads share keys and values; None for one each.
        tied: whether the words' embeddings are the head too, in training; the head has no part in reading.
        bert: an encoder with memory tokens, the paper's update; else a decoder of the LLaMA family with associative
            memory.
    """

    hidden: int
    inner: int
    layers: int
    heads: int
    vocab: int = 32_000
    heads_of_keys: int | None = None
    tied: bool = True
    bert: bool = False


SIZES = {
    "tiny": Size(32, 64, 3, 2, vocab=300, heads_of_keys=1),
    "tiny-bert": Size(32, 64, 2, 2, vocab=300, bert=True),
    "minilm": Size(384, 1536, 6, 12, vocab=30_522, bert=True),
    "llama-30m": Size(384, 1024, 10, 6),
    "llama-160m": Size(768, 3072, 12, 12),
    "llama-1b": Size(2048, 8192, 16, 32, **LLAMA3),
    "llama-3b": Size(3072, 8192, 28, 24, **LLAMA3),
    "llama-8b": Size(4096, 14_336, 32, 32, tied=False, **LLAMA3),
}


def memory_tokens(name: str, device: str) -> int:
    """As the paper has them: 10 in an encoder; 128 in a decoder on a GPU, a few where segments are small."""
    if SIZES[name].bert:
        return 10
    return 4 if name == "tiny" else 128 if device == "cuda" else 16


def build(name: str, positions: int, device: str, dtype: str = "auto") -> Any:
    """A model of ours ready for reading: what :func:`rmt.executors.for_reading` gives, built in place.

    Its segment size is set later, on its configuration. Associative values start at zero in a fresh model, so that
    nothing would be stored; here they are drawn. Features of keys are scaled to unit length, as fresh hidden states are
    small, and writes are weak: with strong ones a random model drives its memory out of any bounds within a hundred
    segments, where the rounding of one operation changes all of it and no two memories could be compared.

    Args:
        name: of :data:`SIZES`.
        positions: tokens of the longest text in one forward; the table of an encoder is made that long.
        device: type of it.
        dtype: as :func:`rmt.executors.precision.as_dtype` takes it.

    Raises:
        InputError: an unknown name.
    """
    if name not in SIZES:
        raise InputError(f"--models: expected some of {', '.join(SIZES)}, got {name}; choose among these")
    size, wanted = SIZES[name], as_dtype(dtype, torch.device(device))
    torch.manual_seed(0)
    with pretrained.quiet(), torch.device(device):
        model = _encoder(size, positions, wanted) if size.bert else _decoder(size, positions, wanted, name, device)
        cell = model.cell.float()
        if not size.bert:
            _fill(cell, size)
    model.eval().requires_grad_(False)
    attention(model, "eager" if device == "cpu" and wanted == torch.bfloat16 else "sdpa")
    return model


def attention(model: Any, name: str) -> None:
    """Let the backbone use this attention from now on."""
    if model.core.config._attn_implementation != name:
        model.set_attn_implementation(name)


def _encoder(size: Size, positions: int, dtype: torch.dtype) -> Any:
    from transformers import AutoModel, BertConfig

    inner = BertConfig(
        vocab_size=size.vocab,
        hidden_size=size.hidden,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        max_position_embeddings=max(512, positions),
    )
    backbone = AutoModel.from_config(inner, dtype=dtype, add_pooling_layer=False)
    special = {"cls_token_id": size.vocab - 2, "sep_token_id": size.vocab - 1}
    return RMTForSequenceClassification.from_backbone(backbone, num_memory_tokens=10, num_labels=6, **special)


def _decoder(size: Size, positions: int, dtype: torch.dtype, name: str, device: str) -> Any:
    from transformers import AutoModelForCausalLM

    backbone = AutoModelForCausalLM.from_config(llama(size, positions), dtype=dtype)
    return RMTForCausalLM.from_backbone(
        backbone,
        num_memory_tokens=memory_tokens(name, device),
        memory="associative",
        associative_key_size=16 if name == "tiny" else 64,
        associative_normalize=True,
    )


def llama(size: Size, positions: int, tied: bool = True) -> Any:
    """The configuration of a decoder."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=size.vocab,
        hidden_size=size.hidden,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads_of_keys or size.heads,
        max_position_embeddings=max(8192, positions),
        tie_word_embeddings=tied,
    )


def _fill(cell: Any, size: Size) -> None:
    """Something to store in an associative memory, which a fresh one has not; see :func:`build`."""
    nn.init.normal_(cell.value, std=VALUES * size.hidden**-0.5)
    nn.init.zeros_(cell.strength)
    nn.init.constant_(cell.strength_bias, WEAK)


def for_training(name: str, memory: str, segment: int, tokens: int, device: str) -> Any:
    """A decoder of ours in bfloat16 that is to be trained, with random weights, built in place.

    Args:
        name: of a decoder of :data:`SIZES`.
        memory: ``tokens`` or ``associative``.
        segment: tokens of one.
        tokens: memory tokens.
        device: type of it; ``meta`` for shapes without weights.
    """
    from transformers import AutoModelForCausalLM

    size = SIZES[name]
    config = llama(size, segment, size.tied)
    fields: dict[str, Any] = {"segment_size": segment, "num_memory_tokens": tokens, "memory": memory}
    if memory == "associative":
        fields |= {"associative_key_size": 16 if name == "tiny" else 64, "associative_normalize": True}
    torch.manual_seed(0)
    with pretrained.quiet(), torch.device(device):
        if device == "meta":  # where there are no words for memory tokens to be like
            model: Any = RMTForCausalLM(RMTConfig(backbone_config=config, **fields))
            model.backbone.to(torch.bfloat16)
        else:
            backbone = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
            model = RMTForCausalLM.from_backbone(backbone, **fields)
        if memory == "associative":
            _fill(model.cell, size)
    return model.train()


def weights(config: Any) -> int:
    """Weights of a layer's products."""
    hidden, inner = config.hidden_size, config.intermediate_size
    if config.model_type == "bert":
        return int(4 * hidden * hidden + 2 * hidden * inner)
    size = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    own, shared = config.num_attention_heads * size, config.num_key_value_heads * size
    return int(2 * hidden * (own + shared) + 3 * hidden * inner)


def attending(config: Any, width: int) -> int:
    """Operations of a layer's attention over so many positions; half of the square where it is causal."""
    return int(width * width * config.hidden_size * (4 if config.model_type == "bert" else 2))


def operations(config: Any) -> int:
    """Floating-point operations that one full segment needs, products and attention, memory with them.

    A multiplication and an addition are two.

    Args:
        config: of a model that :func:`build` made.
    """
    if (known := roofline.operations(config)) is not None:
        return known
    inner, hidden, m = config.backbone_config, config.hidden_size, config.num_memory_tokens
    width, keys, heads = config.segment_size + m, config.associative_key_size, config.associative_heads
    features = 2 * config.associative_expansion * keys
    stored = features * hidden // heads
    read = width * (keys * hidden + stored + features)
    write = m * (hidden * (keys + hidden + heads) + features + 2 * stored)
    layer = 2 * width * weights(inner) + attending(inner, width) + 2 * (read + write)
    return int(inner.num_hidden_layers * layer)


def full_operations(config: Any, length: int) -> int:
    """The same of one forward of the backbone over a whole text."""
    return int(config.num_hidden_layers * (2 * length * weights(config) + attending(config, length)))


def full_bytes(config: Any, length: int, dtype: torch.dtype) -> int:
    """About what that forward holds at its worst moment beside the weights: three inner tensors and six hidden ones."""
    return length * (3 * config.intermediate_size + 6 * config.hidden_size) * dtype.itemsize
