"""What a recurrent memory model is made of, validated. Knows nothing of weights."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import fields
from math import inf
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

from rmt.errors import InputError
from rmt.plugins import adapt_quantization

MEMORIES = ("tokens", "associative")
MEMORY_UPDATES = ("replace", "gated")
RETRIEVAL_KEEPS = ("recent", "spread", "surprise")
RECURRENCES = ("plain", "checkpointed")
ORDERS = ("segments", "layers", "wavefront")
Require = Callable[[bool, str, object], None]
Whole = Callable[[object, int], bool]
# What PreTrainedConfig takes beyond its fields; names with a leading underscore are its own business too.
BEYOND_FIELDS = (
    "model_type", "num_labels", "name_or_path", "attn_implementation", "experts_implementation",
    "output_attentions", "torch_dtype", "per_layer_config",
)  # fmt: skip
# Says that keys come from a file, where other programs may have left theirs.
FROM_FILE = "_keys_from_file"


class RMTConfig(PreTrainedConfig):
    """Configuration of every model in :mod:`rmt.models`.

    Args:
        backbone_config: configuration of the Hugging Face backbone, as an object or its dictionary.
        segment_size: content tokens per segment, without special and memory tokens.
        num_memory_tokens: memory tokens that pass from one segment to the next; 0 turns recurrence off.
        memory: ``"tokens"`` (what passes on are memory tokens; :class:`rmt.cells.tokens.TokenMemoryCell`) or
            ``"associative"`` (a matrix in each layer that memory tokens write to and all tokens read from;
            :class:`rmt.cells.associative.AssociativeMemoryCell`).
        memory_update: ``"replace"`` (the papers': the outputs at the memory positions are the next memory, or with
            associative memory what stood under a key gives way to them) or ``"gated"`` (a gate a memory token, with
            associative memory also a layer, and one a channel decide what is written; see the cells).
        associative_key_size: channels of keys and queries, over all heads, before DPFP.
        associative_heads: parts that a hidden state is stored in, each under keys of its own.
        associative_expansion: nu of DPFP; features of a key are 2 * nu * associative_key_size.
        associative_correction: whether what stands under a key already adds less to the normaliser (gamma of ARMT).
            Without it the normaliser grows with every write, and old values fade.
        associative_normalize: whether features are scaled to unit length. Sizes of state then depend on the number of
            writes only, which keeps long horizons and half precision out of trouble; the paper has them unscaled.
        associative_in_turn: whether a segment's memory tokens write one after another, each in view of what those
            before it wrote. The paper has them write at once, where several that write under one key overshoot, and a
            memory may grow from segment to segment without end; in turn it stays bounded, and writing costs a pass a
            token.
        retrieval_every: keep a copy of the memory every so many segments and let the cell attend to the best of them;
            0 for no retrieval. Memory tokens only; see :mod:`rmt.cells.retrieval`.
        retrieval_budget: copies that are kept at most.
        retrieval_top: copies that are attended to.
        retrieval_keep: which copies stay when the budget is full: ``"recent"``, ``"spread"`` (evenly over what was
            read) or ``"surprise"`` (those where the memory changed most).
        gate_threshold: a slot gate below this is set to exactly zero when the model is not training, so that
            a segment that says nothing worth keeping leaves the memory bit for bit as it was.
        gate_penalty: weight of the loss term that asks slot gates to stay shut (training only).
        bptt_depth: segments that gradients pass through, counted from the end of each document; None for all.
        recurrence: ``"plain"`` or ``"checkpointed"`` (activations are recomputed segment by segment, so that
            memory in training does not grow with the number of segments).
        order: in which order a forward runs layers and segments; the result is the same. ``"segments"``, or with
            associative memory ``"layers"`` (a layer over all segments before the next, so that backward finishes a
            layer before the one below) or ``"wavefront"`` (all pairs that are ready as one batch; fast on a GPU). The
            two keep activations that grow with the number of segments, ``checkpointed`` or not. See
            :mod:`rmt.orders`; for reading there are executors.
        cls_token_id, sep_token_id: special tokens of the encoder layout [CLS] memory [SEP] segment [SEP].
        classifier_dropout: dropout before a classification or span head.

    Raises:
        InputError: a value out of its range, or a key that is none of these or of ``PreTrainedConfig``.
            Unknown keys in a ``config.json`` are kept as they are: training programs write their own.
    """

    model_type = "rmt"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["memory", "cache", "past_key_values"]
    backbone_config: Any = None
    segment_size: int = 128
    num_memory_tokens: int = 10
    memory: str = "tokens"
    memory_update: str = "replace"
    associative_key_size: int = 64
    associative_heads: int = 1
    associative_expansion: int = 3
    associative_correction: bool = True
    associative_normalize: bool = False
    associative_in_turn: bool = False
    retrieval_every: int = 0
    retrieval_budget: int = 32
    retrieval_top: int = 4
    retrieval_keep: str = "spread"
    gate_threshold: float = 0.1
    gate_penalty: float = 0.0
    bptt_depth: int | None = None
    recurrence: str = "plain"
    order: str = "segments"
    cls_token_id: int | None = None
    sep_token_id: int | None = None
    pad_token_id: int | None = None
    bos_token_id: int | list[int] | None = None
    eos_token_id: int | list[int] | None = None
    tie_word_embeddings: bool = False
    classifier_dropout: float = 0.0

    def __post_init__(self, **kwargs: Any) -> None:
        if not kwargs.pop(FROM_FILE, False):
            self._refuse_unknown(kwargs)
        if isinstance(self.backbone_config, dict):
            given = dict(self.backbone_config)
            try:
                self.backbone_config = AutoConfig.for_model(given.pop("model_type", None), **given)
            except ValueError as error:
                got = self.backbone_config.get("model_type")
                raise InputError(
                    f"RMTConfig: expected backbone_config with the model_type of a Hugging Face model, got "
                    f"{got!r}; give the backbone's own configuration"
                ) from error
        self._validate()
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """A configuration from what :meth:`to_dict` gave; arguments of ``PreTrainedConfig.from_dict``."""
        made = super().from_dict({**config_dict, FROM_FILE: True}, **kwargs)
        config: RMTConfig = made[0] if isinstance(made, tuple) else made
        config._validate()  # keyword arguments are set after construction
        adapt_quantization(config)
        return made

    def _refuse_unknown(self, keys: dict[str, Any]) -> None:
        known = sorted({f.name for f in fields(self)} | set(BEYOND_FIELDS))
        for key in keys:
            if key not in known and not key.startswith("_"):
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else "see help(rmt.config.RMTConfig) for the keys"
                raise InputError(f"RMTConfig: expected a known key, got {key!r}; {hint}")

    def _validate(self) -> None:
        def require(holds: bool, expected: str, got: object) -> None:
            if not holds:
                raise InputError(f"RMTConfig: expected {expected}, got {got!r}; change it")

        def whole(value: object, least: int) -> bool:
            return isinstance(value, int) and not isinstance(value, bool) and value >= least

        def number(value: object, least: float, below: float) -> bool:
            return isinstance(value, int | float) and not isinstance(value, bool) and least <= value < below

        size, count, depth = self.segment_size, self.num_memory_tokens, self.bptt_depth
        update, drop, inner = self.memory_update, self.classifier_dropout, self.backbone_config
        require(whole(size, 1), "segment_size to be a positive integer", size)
        require(whole(count, 0), "num_memory_tokens to be an integer, 0 or more", count)
        require(update in MEMORY_UPDATES, f"memory_update in {MEMORY_UPDATES}", update)
        require(self.recurrence in RECURRENCES, f"recurrence in {RECURRENCES}", self.recurrence)
        require(number(self.gate_threshold, 0, 1), "gate_threshold in [0, 1)", self.gate_threshold)
        require(number(self.gate_penalty, 0, inf), "gate_penalty to be 0 or more", self.gate_penalty)
        require(number(drop, 0, 1), "classifier_dropout in [0, 1)", drop)
        require(depth is None or whole(depth, 1), "bptt_depth to be None or a positive integer", depth)
        self._validate_associative(require, whole)
        self._validate_retrieval(require, whole)
        known = inner is None or isinstance(inner, PreTrainedConfig)
        require(known, "backbone_config to be a Hugging Face configuration", inner)

    def _validate_associative(self, require: Require, whole: Whole) -> None:
        key, heads, inner = self.associative_key_size, self.associative_heads, self.backbone_config
        require(self.memory in MEMORIES, f"memory in {MEMORIES}", self.memory)
        require(whole(heads, 1), "associative_heads to be a positive integer", heads)
        require(whole(key, 1) and key % heads == 0, f"associative_key_size to be a multiple of {heads} heads", key)
        expansion, widest = self.associative_expansion, key // heads - 1
        # Rolled by as many channels as a head has, relu(x) meets relu(-x), and from there on products come again.
        fits = whole(expansion, 1) and expansion <= widest
        require(fits, f"associative_expansion from 1 to {widest}, one less than the key channels of a head", expansion)
        for name in ("associative_correction", "associative_normalize", "associative_in_turn"):
            require(isinstance(getattr(self, name), bool), f"{name} to be true or false", getattr(self, name))
        require(self.order in ORDERS, f"order in {ORDERS}", self.order)
        local = self.order == "segments" or self.memory == "associative"
        require(local, "order='segments' with memory='tokens', whose segments need all layers before", self.order)
        if self.memory == "associative":
            require(self.num_memory_tokens > 0, "num_memory_tokens above 0 with associative memory", 0)
            if inner is not None:
                width = inner.hidden_size
                require(width % heads == 0, f"associative_heads to divide the hidden size {width}", heads)

    def _validate_retrieval(self, require: Require, whole: Whole) -> None:
        every, budget, top, keep = (
            self.retrieval_every,
            self.retrieval_budget,
            self.retrieval_top,
            self.retrieval_keep,
        )
        require(whole(every, 0), "retrieval_every to be an integer, 0 or more", every)
        require(whole(budget, 1), "retrieval_budget to be a positive integer", budget)
        require(whole(top, 1) and top <= budget, f"retrieval_top from 1 to the budget {budget}", top)
        require(keep in RETRIEVAL_KEEPS, f"retrieval_keep in {RETRIEVAL_KEEPS}", keep)
        fits = not every or (self.memory == "tokens" and self.num_memory_tokens > 0)
        require(fits, "retrieval_every=0 without memory tokens (memory='tokens')", every)

    @property
    def hidden_size(self) -> int:
        """Width of the backbone, and of a memory token."""
        return int(self.backbone_config.hidden_size)

    @property
    def vocab_size(self) -> int:
        """Vocabulary of the backbone."""
        return int(self.backbone_config.vocab_size)

    @vocab_size.setter
    def vocab_size(self, value: int) -> None:
        self.backbone_config.vocab_size = value

    @property
    def num_hidden_layers(self) -> int:
        """Layers of the backbone."""
        return int(self.backbone_config.num_hidden_layers)
