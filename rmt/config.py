"""What a recurrent memory model is made of, validated. Knows nothing of weights."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from rmt.errors import InputError

MEMORY_UPDATES = ("replace", "gated")
RECURRENCES = ("plain", "checkpointed")


class RMTConfig(PreTrainedConfig):
    """Configuration of every model in :mod:`rmt.models`.

    Args:
        backbone_config: configuration of the Hugging Face backbone, as an object or its dictionary.
        segment_size: content tokens per segment, without special and memory tokens.
        num_memory_tokens: memory tokens that pass from one segment to the next; 0 turns recurrence off.
        memory_update: ``"replace"`` (the paper's: the outputs at the memory positions are the next memory) or
            ``"gated"`` (memory <- (1 - z) * memory + z * write, z in [0, 1] from both; see
            :class:`rmt.cells.tokens.TokenMemoryCell`).
        gate_threshold: a slot gate below this is set to exactly zero when the model is not training, so that a
            segment that says nothing worth keeping leaves the memory bit for bit as it was.
        gate_penalty: weight of the loss term that asks slot gates to stay shut (training only).
        bptt_depth: segments that gradients pass through, counted from the end of each document; None for all.
        recurrence: ``"plain"`` or ``"checkpointed"`` (activations are recomputed segment by segment, so that memory
            in training does not grow with the number of segments).
        cls_token_id, sep_token_id: special tokens of the encoder layout [CLS] memory [SEP] segment [SEP].
        classifier_dropout: dropout before a classification or span head.
    """

    model_type = "rmt"
    backbone_config: Any = None
    segment_size: int = 128
    num_memory_tokens: int = 10
    memory_update: str = "replace"
    gate_threshold: float = 0.1
    gate_penalty: float = 0.0
    bptt_depth: int | None = None
    recurrence: str = "plain"
    cls_token_id: int | None = None
    sep_token_id: int | None = None
    pad_token_id: int | None = None
    bos_token_id: int | list[int] | None = None
    eos_token_id: int | list[int] | None = None
    tie_word_embeddings: bool = False
    classifier_dropout: float = 0.0

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.backbone_config, dict):
            fields = dict(self.backbone_config)
            self.backbone_config = AutoConfig.for_model(fields.pop("model_type"), **fields)
        self._validate()
        super().__post_init__(**kwargs)

    def _validate(self) -> None:
        def require(holds: bool, expected: str, got: object) -> None:
            if not holds:
                raise InputError(f"RMTConfig: expected {expected}, got {got!r}")

        size, count = self.segment_size, self.num_memory_tokens
        require(isinstance(size, int) and size > 0, "segment_size to be a positive integer", size)
        require(isinstance(count, int) and count >= 0, "num_memory_tokens to be 0 or more", count)
        require(self.memory_update in MEMORY_UPDATES, f"memory_update in {MEMORY_UPDATES}", self.memory_update)
        require(self.recurrence in RECURRENCES, f"recurrence in {RECURRENCES}", self.recurrence)
        require(0 <= self.gate_threshold < 1, "gate_threshold in [0, 1)", self.gate_threshold)
        require(self.gate_penalty >= 0, "gate_penalty to be 0 or more", self.gate_penalty)
        depth = self.bptt_depth
        require(depth is None or depth > 0, "bptt_depth to be None or a positive integer", depth)

    @property
    def hidden_size(self) -> int:
        """Width of the backbone, and of a memory token."""
        return int(self.backbone_config.hidden_size)

    @property
    def vocab_size(self) -> int:
        """Vocabulary of the backbone."""
        return int(self.backbone_config.vocab_size)

    @property
    def num_hidden_layers(self) -> int:
        """Layers of the backbone."""
        return int(self.backbone_config.num_hidden_layers)
