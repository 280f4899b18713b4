"""What a recurrent LLaVA is made of, validated. Knows nothing of weights."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from rmt.config import RMTConfig
from rmt.errors import InputError

PROJECTORS = ("mlp", "linear", "pooled", "resampler")
# Vision towers by model_type, and the tokens that each puts in front of its patches ([CLS]).
TOWERS = {"clip_vision_model": 1, "siglip_vision_model": 0}


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
    projector_queries: int = 16
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

        require(self.projector in PROJECTORS, f"projector in {PROJECTORS}", self.projector)
        for name in ("projector_pool", "projector_queries"):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            require(whole, f"{name} to be a positive integer", value)
        llava = self.llava_config
        if llava is None:
            return
        known = isinstance(llava, PreTrainedConfig) and llava.model_type == "llava"
        require(known, "llava_config of a LLaVA model", getattr(llava, "model_type", llava))
        tower = llava.vision_config.model_type
        require(tower in TOWERS, f"a vision tower of a known kind {tuple(TOWERS)}", tower)
        # What is cut off as [CLS] must be one: SigLIP has none, and would lose its first patch.
        cuts = llava.vision_feature_select_strategy == "default"
        require(TOWERS[tower] == 1 or not cuts, "vision_feature_select_strategy='full' without [CLS]", "default")
        side, patch = llava.vision_config.image_size, llava.vision_config.patch_size
        plain = isinstance(side, int) and isinstance(patch, int) and patch > 0
        require(plain, "one image_size and one patch_size, both whole numbers", (side, patch))
        chosen, depth = llava.vision_feature_layer, llava.vision_config.num_hidden_layers
        layers = [chosen] if isinstance(chosen, int) else list(chosen or [])
        there = bool(layers) and all(-depth - 1 <= layer <= depth for layer in layers)
        require(there, f"vision_feature_layer from {-depth - 1} to {depth}", chosen)
        require(side % patch == 0, f"image_size in whole patches of {patch}", side)
        if self.projector == "pooled":
            grid = side // patch
            fits = grid % self.projector_pool == 0 and (cuts or not TOWERS[tower])
            require(fits, f"projector_pool that divides a grid of {grid} patches without [CLS]", self.projector_pool)

    @property
    def image_token_id(self) -> int:
        """What stands in token ids for a token of an image."""
        return int(self.llava_config.image_token_index)

    @property
    def patches(self) -> int:
        """Positions of an image before the projector."""
        llava = self.llava_config
        grid = (llava.vision_config.image_size // llava.vision_config.patch_size) ** 2
        return int(grid + TOWERS[llava.vision_config.model_type] - (llava.vision_feature_select_strategy == "default"))

    @property
    def vision_width(self) -> int:
        """Numbers of a position before the projector: those of all layers that are taken."""
        llava = self.llava_config
        chosen = llava.vision_feature_layer
        return int(llava.vision_config.hidden_size * (1 if isinstance(chosen, int) else len(chosen)))

    @property
    def tokens_per_image(self) -> int:
        """Positions of an image in the language model."""
        if self.projector == "resampler":
            return self.projector_queries
        return self.patches // self.projector_pool**2 if self.projector == "pooled" else self.patches
