"""LLaMA-Adapter (arXiv 2303.16199) and LLaMA-Adapter V2 (arXiv 2304.15010), written from the papers' equations."""

from multimodal.adapter.adapter import (
    adapter_config,
    adapter_parameters,
    attach,
    detach,
    parameter_groups,
    trainable,
    trainable_parameters,
)
from multimodal.adapter.config import AdapterConfig
from multimodal.adapter.files import load_adapter, save_adapter
from multimodal.adapter.model import LlamaAdapterRMT
from multimodal.adapter.picture import Picture, showing
from multimodal.adapter.rmt_config import LlamaAdapterRMTConfig

__all__ = [
    "AdapterConfig",
    "LlamaAdapterRMT",
    "LlamaAdapterRMTConfig",
    "Picture",
    "adapter_config",
    "adapter_parameters",
    "attach",
    "detach",
    "load_adapter",
    "parameter_groups",
    "save_adapter",
    "showing",
    "trainable",
    "trainable_parameters",
]
