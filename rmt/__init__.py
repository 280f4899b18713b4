"""Recurrent memory over Hugging Face backbones: inputs of any length, a memory of constant size."""

from rmt.cache import RMTCache
from rmt.config import RMTConfig
from rmt.errors import InputError
from rmt.memory import Memory, MemoryMeta
from rmt.models import RMTForCausalLM, RMTForQuestionAnswering, RMTForSequenceClassification
from rmt.reader import Reader

__all__ = [
    "InputError",
    "Memory",
    "MemoryMeta",
    "RMTCache",
    "RMTConfig",
    "RMTForCausalLM",
    "RMTForQuestionAnswering",
    "RMTForSequenceClassification",
    "Reader",
]
