"""Images for models with a memory: LLaVA and LLaMA-Adapter. Knows nothing of evaluations."""

from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from multimodal.adapter import LlamaAdapterRMT, LlamaAdapterRMTConfig
from multimodal.config import LlavaRMTConfig
from multimodal.llava import LlavaRMT
from multimodal.pieces import Figure
from multimodal.processing import LlavaRMTProcessor, register
from multimodal.reader import AlbumReader

AutoConfig.register(LlavaRMTConfig.model_type, LlavaRMTConfig)
AutoModelForCausalLM.register(LlavaRMTConfig, LlavaRMT)
AutoModelForImageTextToText.register(LlavaRMTConfig, LlavaRMT)
register(LlavaRMTConfig)

__all__ = [
    "AlbumReader",
    "Figure",
    "LlamaAdapterRMT",
    "LlamaAdapterRMTConfig",
    "LlavaRMT",
    "LlavaRMTConfig",
    "LlavaRMTProcessor",
]
