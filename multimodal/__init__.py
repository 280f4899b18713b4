"""Images for models with a memory: LLaVA and LLaMA-Adapter. Knows nothing of evaluations."""

from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from multimodal.config import LlavaRMTConfig
from multimodal.llava import LlavaRMT

AutoConfig.register(LlavaRMTConfig.model_type, LlavaRMTConfig)
AutoModelForCausalLM.register(LlavaRMTConfig, LlavaRMT)
AutoModelForImageTextToText.register(LlavaRMTConfig, LlavaRMT)

__all__ = ["LlavaRMT", "LlavaRMTConfig"]
