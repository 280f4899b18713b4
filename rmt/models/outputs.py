"""What models return."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.modeling_outputs import CausalLMOutputWithPast
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
class RMTCausalLMOutput(CausalLMOutputWithPast):
    """Of :class:`rmt.models.RMTForCausalLM`: transformers' output, and a memory.

    Attributes:
        loss: mean next-token cross entropy in nats, where labels were given.
        logits: (batch, kept, vocabulary); see ``logits_to_keep``.
        cache: while generating, the :class:`rmt.RMTCache` that holds the open segment; ``past_key_values`` before
            transformers 5.24.
        hidden_states, attentions: never there, as they would grow with the input.
        memory: after the input.
    """

    memory: Memory | None = None
