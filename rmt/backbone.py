"""What we ask of a Hugging Face model, per family. The only place that knows one family from another.

A backbone must offer: word embeddings through ``get_input_embeddings()``, a forward that takes
``inputs_embeds`` and ``attention_mask`` (a decoder also ``position_ids``) and returns ``last_hidden_state``,
and a configuration with ``hidden_size`` and ``vocab_size``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from torch import nn
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from rmt.errors import InputError

Layout = Literal["encoder", "decoder"]
# What this release of transformers calls keys and values, as an argument and in outputs: "cache" since 5.24.
CACHE = "cache" if "cache" in {field.name for field in fields(BaseModelOutputWithPast)} else "past_key_values"


@dataclass(frozen=True)
class Family:
    """What differs between model families, as data.

    Attributes:
        layout: how a segment is laid out around the memory.
        special: the configuration's own names of the tokens that open and close a text (encoders).
        position_offset: positions at the start of the table that no token uses.
        no_pooler: the base model takes ``add_pooling_layer=False``.
        layers: where the base model keeps its layers.
        norm: where it keeps the norm behind them, empty where there is none.
        like_bert: whether the layers are built as BERT's are.
        pairs: whether a layer gives a pair of which hidden states are the first.
    """

    layout: Layout
    special: tuple[str, str] = ("cls_token_id", "sep_token_id")
    position_offset: int = 0
    no_pooler: bool = False
    layers: str = "layers"
    norm: str = "norm"
    like_bert: bool = False
    pairs: bool = False


FAMILIES: dict[str, Family] = {
    "bert": Family("encoder", no_pooler=True, layers="encoder.layer", norm="", like_bert=True),
    "roberta": Family(
        "encoder",
        special=("bos_token_id", "eos_token_id"),
        position_offset=2,
        no_pooler=True,
        layers="encoder.layer",
        norm="",
        like_bert=True,
    ),
    "distilbert": Family("encoder", layers="transformer.layer", norm=""),
    "deberta-v2": Family("encoder", layers="encoder.layer", norm="", pairs=True),
    "modernbert": Family("encoder", norm="final_norm"),
    "llama": Family("decoder"),
    "mistral": Family("decoder"),
    "qwen2": Family("decoder"),
    "qwen3": Family("decoder"),
    "gemma": Family("decoder"),
    "gpt2": Family("decoder", layers="h", norm="ln_f"),
    "gpt_neox": Family("decoder", norm="final_layer_norm"),
}


def family_of(config: PreTrainedConfig, layout: Layout | None = None) -> Family:
    """The family of a backbone.

    Args:
        config: the backbone's configuration.
        layout: where given, the family must have it.

    Raises:
        InputError: an unknown family, or one of the other layout.
    """
    kind = getattr(config, "model_type", "")
    family = FAMILIES.get(kind)
    if family is None:
        raise InputError(
            f"expected a backbone of a known family ({', '.join(sorted(FAMILIES))}), got model_type {kind!r}; "
            "to add one, enter it in rmt.backbone.FAMILIES: it must offer get_input_embeddings(), a forward "
            "that takes inputs_embeds and attention_mask (a decoder also position_ids) and returns "
            "last_hidden_state, and a config with hidden_size and vocab_size"
        )
    if layout is not None and family.layout != layout:
        known = ", ".join(sorted(k for k, f in FAMILIES.items() if f.layout == layout))
        raise InputError(f"expected a backbone with the {layout} layout ({known}), got {kind!r} ({family.layout})")
    return family


def max_segment_size(config: PreTrainedConfig, num_memory_tokens: int, memory: str = "tokens") -> int | None:
    """Content tokens that fit between the other tokens of a segment; None where nothing bounds them.

    Args:
        config: the backbone's.
        num_memory_tokens: at one end of a segment; with memory ``tokens`` a decoder has them at both.
        memory: kind of memory, see :class:`rmt.RMTConfig`.
    """
    family = family_of(config)
    positions = getattr(config, "max_position_embeddings", None)
    # A decoder's window must reach from the last memory token back over the whole segment to the first.
    window = getattr(config, "sliding_window", None) if family.layout == "decoder" else None
    bounds = [] if positions is None else [int(positions) - family.position_offset]
    bounds += [] if window is None else [int(window)]
    if not bounds:
        return None
    count, ends = num_memory_tokens, 2 if memory == "tokens" else 1
    around = count + 2 + (count > 0) if family.layout == "encoder" else ends * count
    return min(bounds) - around


def check_segment_size(
    config: PreTrainedConfig, segment_size: int, num_memory_tokens: int, memory: str = "tokens"
) -> None:
    """Refuse a segment that the backbone has no positions for.

    Raises:
        InputError: with the largest size that fits.
    """
    most = max_segment_size(config, num_memory_tokens, memory)
    if most is not None and segment_size > most:
        raise InputError(
            f"segment_size: expected at most {most} tokens (of the backbone's positions {num_memory_tokens} "
            f"memory tokens and what surrounds a segment take some), got {segment_size}; choose a smaller one"
        )


def special_tokens(config: PreTrainedConfig, given: tuple[int | None, int | None], name: str | None) -> tuple[int, int]:
    """Ids of the tokens that open and close a text: as given, else of the configuration, else of the tokenizer.

    Args:
        config: of an encoder backbone.
        given: what the user said, None where nothing.
        name: where the backbone came from, to look for its tokenizer.

    Raises:
        InputError: where none of the three says.
    """
    family = family_of(config, "encoder")
    found = [g if g is not None else getattr(config, key, None) for g, key in zip(given, family.special, strict=True)]
    if None in found and name:
        try:
            tokenizer = AutoTokenizer.from_pretrained(name)
            found = [tokenizer.cls_token_id, tokenizer.sep_token_id]
        except (OSError, ValueError):
            pass
    opening, closing = found
    if opening is None or closing is None:
        raise InputError(
            "expected the ids of the tokens that open and close a text, got none from the backbone's "
            "configuration or tokenizer; pass cls_token_id= and sep_token_id="
        )
    return int(opening), int(closing)


def base_model(model: PreTrainedModel) -> nn.Module:
    """The transformer below any head: from word embeddings to last hidden states."""
    inner: Any = model.base_model
    return inner
