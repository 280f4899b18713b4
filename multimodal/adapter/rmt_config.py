"""Configuration of a recurrent decoder with an adapter and a vision tower. Knows nothing of weights."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from multimodal.adapter.config import AdapterConfig
from multimodal.adapter.vision import check_layers
from rmt.config import RMTConfig
from rmt.errors import InputError


class LlamaAdapterRMTConfig(RMTConfig):
    """Configuration of :class:`multimodal.adapter.model.LlamaAdapterRMT`.

    Args:
        adapter: an :class:`multimodal.adapter.AdapterConfig` or its dictionary, as which it is kept.
        vision_config: of the vision tower, CLIP's or SigLIP's, as an object or its dictionary; None where features of
            images are given, or there are none.
        vision_layers: layers of the tower whose outputs stand side by side, -1 for the last.
        image_features: width of the features of an image that are given; None with a tower, and where there are none.

    Raises:
        InputError: see :class:`rmt.config.RMTConfig`; a tower that is not known; both a tower and features; images for
            a ``"v2"`` without ``visual_layers``, which nothing would look at.
    """

    model_type = "rmt_llama_adapter"
    adapter: Any = None
    vision_config: Any = None
    vision_layers: Any = None
    image_features: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        given = self.adapter if isinstance(self.adapter, AdapterConfig) else AdapterConfig.from_dict(self.adapter or {})
        self.adapter = given.to_dict()
        if isinstance(self.vision_config, dict):
            fields = dict(self.vision_config)
            self.vision_config = AutoConfig.for_model(fields.pop("model_type", ""), **fields)
        self.vision_layers = list(self.vision_layers or (-1,))
        super().__post_init__(**kwargs)

    def _validate(self) -> None:
        super()._validate()
        if isinstance(self.vision_config, PreTrainedConfig):
            if self.image_features is not None:
                raise InputError(
                    "image_features: expected None with a vision tower, which says so itself, got a number"
                )
            check_layers(self.vision_config, self.vision_layers)
        adapter = self.adapter_config
        if self.picture_width is not None and adapter.variant == "v2" and not adapter.visual_layers:
            raise InputError(
                "adapter: expected visual_layers of 1 or more for variant 'v2' that is given images, got 0; the paper "
                "has 1"
            )

    @property
    def adapter_config(self) -> AdapterConfig:
        """What the adapter is made of."""
        return AdapterConfig.from_dict(self.adapter)

    @property
    def picture_width(self) -> int | None:
        """Features of an image or of each of its tokens, None where the model sees none."""
        if self.vision_config is None:
            return self.image_features
        return int(self.vision_config.hidden_size) * len(self.vision_layers)
