"""What a recurrent LLaVA is made of, validated. Knows nothing of weights."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from multimodal.encoders import patches_of, tower_family
from multimodal.projector import KINDS, tokens_per_image
from rmt.config import RMTConfig
from rmt.errors import InputError


class LlavaRMTConfig(RMTConfig):
    """Configuration of :class:`multimodal.LlavaRMT`: that of :class:`rmt.RMTConfig`, and what images need.

    Args:
        llava_config: transformers' ``LlavaConfig``, as an object or its dictionary. Its language model's configuration
            becomes ``backbone_config``.
        projector: how patch features become tokens of the language model: ``"mlp"`` (two layers with GELU; LLaVA-1.5,
            arXiv 2310.03744, section 3.2), ``"linear"`` (LLaVA, 2304.08485, section 4.1), ``"pooled"`` (the mean over
            ``projector_pool`` x ``projector_pool`` patches, then two layers) or ``"resampler"`` (``projector_queries``
            learned queries look at the patches; Flamingo, 2204.14198, section 2.1).
        projector_pool: patches to a side of what is averaged.
        projector_queries: tokens an image becomes with a resampler.
        freeze_vision: whether the vision tower stays as it is in training, as in LLaVA.

    Raises:
        InputError: a value out of its range, or a vision tower of another kind.
    """

    model_type = "rmt_llava"
    llava_config: Any = None
    projector: str = "mlp"
    projector_pool: int = 2
    projector_queries: int = 64
    freeze_vision: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.llava_config, dict):
            given = dict(self.llava_config)
            kind = given.pop("model_type", "llava")
            self.llava_config = AutoConfig.for_model(kind, **given)
        if self.llava_config is not None:
            self.backbone_config = self.llava_config.text_config
        super().__post_init__(**kwargs)

    def _validate(self) -> None:
        super()._validate()

        def require(holds: bool, expected: str, got: object) -> None:
            if not holds:
                raise InputError(f"LlavaRMTConfig: expected {expected}, got {got!r}; change it")

        require(self.projector in KINDS, f"projector in {KINDS}", self.projector)
        for name in ("projector_pool", "projector_queries"):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            require(whole, f"{name} to be a positive integer", value)
        llava = self.llava_config
        if llava is None:
            return
        known = isinstance(llava, PreTrainedConfig) and llava.model_type == "llava"
        require(known, "llava_config of a LLaVA model", getattr(llava, "model_type", llava))
        # What is cut off as [CLS] must be one: SigLIP has none, and would lose its first patch.
        leading, cuts = tower_family(llava.vision_config).leading, llava.vision_feature_select_strategy == "default"
        require(leading == 1 or not cuts, "vision_feature_select_strategy='full' where there is no [CLS]", "default")
        grid = self.projector != "pooled" or leading == cuts
        require(grid, "vision_feature_select_strategy='default' with projector='pooled', which wants a grid", "full")
        self.tokens_per_image  # noqa: B018 - refuses a pool that does not fit

    @property
    def image_token_id(self) -> int:
        """What stands in token ids for a token of an image."""
        return int(self.llava_config.image_token_index)

    @property
    def patches(self) -> int:
        """Positions of an image before the projector."""
        return patches_of(self.llava_config.vision_config, self.llava_config.vision_feature_select_strategy)

    @property
    def tokens_per_image(self) -> int:
        """Positions of an image in the language model."""
        return tokens_per_image(self.projector, self.patches, self.projector_pool, self.projector_queries)
