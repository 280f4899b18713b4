"""Images for models with a memory: LLaVA and LLaMA-Adapter. Knows nothing of evaluations."""

from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from multimodal.adapter import LlamaAdapterRMT, LlamaAdapterRMTConfig
from multimodal.config import LlavaRMTConfig
from multimodal.llava import LlavaRMT
from multimodal.processing import LlavaRMTProcessor, register

AutoConfig.register(LlavaRMTConfig.model_type, LlavaRMTConfig)
AutoModelForCausalLM.register(LlavaRMTConfig, LlavaRMT)
AutoModelForImageTextToText.register(LlavaRMTConfig, LlavaRMT)
register(LlavaRMTConfig)

__all__ = ["LlamaAdapterRMT", "LlamaAdapterRMTConfig", "LlavaRMT", "LlavaRMTConfig", "LlavaRMTProcessor"]
