"""What models return."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput

from rmt.memory import Memory


@dataclass
class RMTClassifierOutput(ModelOutput):
    """Of :class:`rmt.models.RMTForSequenceClassification`.

    Attributes:
        loss: scalar, where labels were given.
        logits: (batch, num_labels), or (batch, questions, num_labels) where questions were given.
        memory: after the document.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    memory: Memory | None = None


@dataclass
class RMTQuestionAnsweringOutput(ModelOutput):
    """Of :class:`rmt.models.RMTForQuestionAnswering`.

    Attributes:
        loss: scalar, where positions were given.
        start_logits, end_logits: (batch, seq), minus infinity at padding.
        memory: after the document.
    """

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    memory: Memory | None = None


@dataclass
class RMTCausalLMOutput(ModelOutput):
    """Of :class:`rmt.models.RMTForCausalLM`.

    Attributes:
        loss: mean next-token cross entropy in nats, where labels were given.
        logits: (batch, kept, vocabulary); see ``logits_to_keep``.
        memory: after the input.
        past_key_values: while generating, the cache that holds the open segment.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    memory: Memory | None = None
    past_key_values: object | None = None
