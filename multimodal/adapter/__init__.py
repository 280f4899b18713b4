"""LLaMA-Adapter (arXiv 2303.16199) and LLaMA-Adapter V2 (arXiv 2304.15010), written from the papers' equations."""

from multimodal.adapter.adapter import (
    adapter_config,
    adapter_parameters,
    attach,
    parameter_groups,
    trainable,
    trainable_parameters,
)
from multimodal.adapter.config import AdapterConfig
from multimodal.adapter.picture import Picture, showing

__all__ = [
    "AdapterConfig",
    "Picture",
    "adapter_config",
    "adapter_parameters",
    "attach",
    "parameter_groups",
    "showing",
    "trainable",
    "trainable_parameters",
]
