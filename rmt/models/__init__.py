"""Models users meet, known to the Auto classes of transformers."""

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
)

from rmt.config import RMTConfig
from rmt.models.base import RMTPreTrainedModel
from rmt.models.causal_lm import RMTForCausalLM
from rmt.models.question_answering import RMTForQuestionAnswering
from rmt.models.sequence_classification import RMTForSequenceClassification
from rmt.models.spans import Span

AutoConfig.register(RMTConfig.model_type, RMTConfig)
AutoModelForCausalLM.register(RMTConfig, RMTForCausalLM)
AutoModelForQuestionAnswering.register(RMTConfig, RMTForQuestionAnswering)
AutoModelForSequenceClassification.register(RMTConfig, RMTForSequenceClassification)

__all__ = [
    "RMTForCausalLM",
    "RMTForQuestionAnswering",
    "RMTForSequenceClassification",
    "RMTPreTrainedModel",
    "Span",
]
