"""A recurrent decoder with LLaMA-Adapter, whose segments may each have pictures that cost no position."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel
from transformers import initialization as init

from efficiency.surgery import become
from multimodal.adapter.adapter import adapter_parameters, attach, trainable
from multimodal.adapter.attention import Prompts
from multimodal.adapter.config import AdapterConfig
from multimodal.adapter.picture import Picture
from multimodal.adapter.rmt_config import LlamaAdapterRMTConfig
from multimodal.adapter.segments import (
    TOKENS,
    Album,
    PicturedAssociativeMemoryCell,
    PicturedCache,
    PicturedTokenMemoryCell,
    album,
    opened,
    without_picture,
)
from multimodal.adapter.v2 import ScaledLinear
from multimodal.adapter.vision import PictureProjection, image_features
from rmt.backbone import CACHE
from rmt.cache import RMTCache
from rmt.errors import InputError
from rmt.memory import Memory
from rmt.models.building import decoder_backbone, decoder_config, new_decoder, word_spread
from rmt.models.causal_lm import RMTForCausalLM
from rmt.recurrence import State
from rmt.segments import Segment


class LlamaAdapterRMT(RMTForCausalLM):
    """LLaMA-Adapter over a decoder that reads segment by segment with a memory.

    Prompts stand in attention, so that an image, which is added to them (V1) or is prompts itself (V2), takes no place
    in a segment. What it says reaches later segments through the memory, and questions too, which see no image
    themselves. The backbone and the vision tower are frozen; the adapter, the projection of images and the memory cell
    train. Everything of :class:`rmt.RMTForCausalLM` holds.
    """

    config_class = LlamaAdapterRMTConfig
    config: LlamaAdapterRMTConfig

    def __init__(
        self,
        config: LlamaAdapterRMTConfig,
        backbone: PreTrainedModel | None = None,
        vision: PreTrainedModel | None = None,
    ) -> None:
        # Past the decoder's own, whose last step would come before the adapter is there.
        super(RMTForCausalLM, self).__init__(config, backbone if backbone is not None else new_decoder(config))
        associative = config.memory == "associative"
        become(self.cell, PicturedAssociativeMemoryCell if associative else PicturedTokenMemoryCell)
        attach(self, config.adapter_config)
        self.vision: Any = vision
        if vision is None and config.vision_config is not None:
            self.vision = AutoModel.from_config(config.vision_config)
        width = config.picture_width
        self.visual = None if width is None else PictureProjection(width, config.hidden_size)
        self.post_init()
        self.freeze_base()

    def freeze_base(self) -> None:
        """Let nothing of backbone and vision tower train but the adapter; loading weights undoes it."""
        self.backbone.requires_grad_(False)
        if self.vision is not None:
            self.vision.requires_grad_(False)
        trainable(self, "all")

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """A saved model, its backbone and tower frozen; arguments of ``PreTrainedModel.from_pretrained``."""
        loaded = super().from_pretrained(*args, **kwargs)
        model: LlamaAdapterRMT = loaded[0] if isinstance(loaded, tuple) else loaded
        model.freeze_base()
        return loaded

    @classmethod
    def from_backbone(
        cls,
        backbone: str | PreTrainedModel,
        *,
        adapter: AdapterConfig | None = None,
        vision: PreTrainedModel | None = None,
        vision_layers: list[int] | None = None,
        image_features: int | None = None,
        segment_size: int = 128,
        num_memory_tokens: int = 10,
        backbone_kwargs: dict[str, Any] | None = None,
        **config: Any,
    ) -> LlamaAdapterRMT:
        """A new model over pretrained weights; arguments as of ``RMTForCausalLM.from_backbone``, and these.

        Args:
            adapter: None for the published V1, of 10 prompts in 30 layers.
            vision: ``CLIPVisionModel`` or ``SiglipVisionModel`` (taken over); None where features are given.
            vision_layers, image_features: see :class:`LlamaAdapterRMTConfig`.

        Raises:
            InputError: see there, and :func:`multimodal.adapter.attach`.
        """
        model = decoder_backbone(backbone, backbone_kwargs)
        plain = decoder_config(model, segment_size=segment_size, num_memory_tokens=num_memory_tokens, **config)
        special = {name: getattr(plain, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        full = LlamaAdapterRMTConfig(
            backbone_config=model.config,
            segment_size=segment_size,
            num_memory_tokens=num_memory_tokens,
            adapter=adapter or AdapterConfig(),
            vision_config=None if vision is None else vision.config,
            vision_layers=vision_layers,
            image_features=image_features,
            **(special | config),
        )
        built = cls(full, model, vision)
        built.cell.reset_parameters(word_spread(model))
        if model.generation_config is not None:
            built.generation_config = model.generation_config
        return built.train(model.training)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Prompts | PictureProjection):
            module.reset_parameters(init)
            return
        if isinstance(module, ScaledLinear):
            module.reset_scale(init)
        super()._init_weights(module)

    def image_prompts(
        self,
        pixel_values: Float[Tensor, "images channels height width"] | None,
        features: Float[Tensor, "images *tokens features"] | None,
    ) -> Float[Tensor, "images tokens hidden"] | None:
        """Images in the backbone's width; None where there are none.

        Args:
            pixel_values: as the tower's processor gives them.
            features: of images, (images, features) or (images, tokens, features), instead.

        Raises:
            InputError: both, or what the model has nothing for.
        """
        if pixel_values is None and features is None:
            return None
        if pixel_values is not None and features is not None:
            raise InputError("images: expected pixel_values or image_features, got both; give one")
        if self.visual is None or (pixel_values is not None and self.vision is None):
            raise InputError(
                "images: expected a model that sees, got one without vision tower or image_features; pass vision= or "
                "image_features= to from_backbone"
            )
        if pixel_values is not None:
            whole = self.config.adapter_config.variant == "v1"
            features = image_features(self.vision, pixel_values, self.config.vision_layers, whole=whole)
        assert features is not None
        if features.dim() not in (2, 3) or features.shape[-1] != self.config.picture_width:
            raise InputError(
                f"image_features: expected (images, {self.config.picture_width}) or (images, tokens, "
                f"{self.config.picture_width}), got {tuple(features.shape)}; give them so"
            )
        return self.visual(features[:, None] if features.dim() == 2 else features)

    def forward(  # type: ignore[override]
        self,
        input_ids: Int[Tensor, "batch seq"],
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        memory: Memory | None = None,
        pixel_values: Float[Tensor, "images channels height width"] | None = None,
        image_features: Float[Tensor, "images *tokens features"] | None = None,
        image_segments: Tensor | Sequence[Sequence[int]] | None = None,
        cache: RMTCache | None = None,
        past_key_values: RMTCache | None = None,
        **rest: Any,
    ) -> Any:
        """Read, see and predict; further arguments and what comes back as of :class:`rmt.RMTForCausalLM`.

        Args:
            input_ids, attention_mask, labels, memory, cache, past_key_values: of a decoder.
            pixel_values, image_features: of images, one of the two; see :meth:`image_prompts`.
            image_segments: whole numbers (images, 2): row and segment of each image, segments counted from 0 in this
                call; several images of a segment are their mean, and a segment without sees none. None for an image a
                row, seen in all that this call reads; so it must be with a cache and with ``generate``, where it is
                also seen in what follows.

        Raises:
            InputError: images without a place, or at one that is not there; see also :meth:`image_prompts`.
        """
        cache = past_key_values if cache is None else cache
        prompts = self.image_prompts(pixel_values, image_features)
        if prompts is None:
            if image_segments is not None:
                raise InputError("image_segments: expected images with it, got none; pass pixel_values")
            return super().forward(input_ids, attention_mask, labels, memory, cache=cache, **rest)
        found = _album(prompts, image_segments, input_ids.shape[0])
        if cache is None and not rest.get("use_cache"):
            if self.config.order != "segments":
                raise InputError(
                    f"images: expected order='segments', got {self.config.order!r}, which runs layers of several "
                    "segments at once; set it for this model"
                )
            with opened(found):
                return super().forward(input_ids, attention_mask, labels, memory, **rest)
        if found.numbers is not None:
            raise InputError(
                "image_segments: expected None with a cache, got places; read the document without one first"
            )
        cache = RMTCache.begin(self, memory, len(input_ids)) if cache is None else cache
        if cache.seen or TOKENS in cache.memory.tensors:
            raise InputError("images: expected with the first tokens that a cache reads, got later; begin a new cache")
        pictured = PicturedCache.of(cache, Picture.of(prompts, found.rows, len(input_ids)))
        return super().forward(input_ids, attention_mask, labels, None, cache=pictured, **rest)

    def segments(self, input_ids: Tensor, attention_mask: Tensor | None, size: int | None = None) -> list[Segment]:
        """Cut a batch into segments; see :class:`rmt.models.base.RMTPreTrainedModel`. Images come with them."""
        made, images = super().segments(input_ids, attention_mask, size), album()
        return made if images is None else images.onto(made)

    def _ask(self, *args: Any) -> Any:
        with opened(None):  # what is asked of a memory sees no image
            return super()._ask(*args)

    def state_of(self, memory: Memory | None, batch: int) -> State:
        """The tensors of a memory, without a picture that stands beside them in a cache."""
        return super().state_of(None if memory is None else without_picture(memory), batch)

    def _read_on(self, *args: Any) -> Any:
        out: Any = super()._read_on(*args)
        out.memory = without_picture(out.memory)
        return out

    def memory_of(self, output: Any) -> Memory:
        """The memory after the prompt and all that was generated."""
        return without_picture(super().memory_of(output))

    def waited_for(self) -> Iterable[nn.Parameter]:
        """Those of the cell and of the adapter: a batch without an image has no gradient for what projects images."""
        return [*super().waited_for(), *adapter_parameters(self).values()]

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, *args: Any, is_first_iteration: bool | None = False, **kwargs: Any
    ) -> dict[str, Any]:
        """What one step of ``generate`` is given: images with the first only, behind which the cache has them."""
        kwargs["is_first_iteration"] = is_first_iteration
        given = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)
        cache = given.get(CACHE)
        if cache is not None and TOKENS in cache.memory.tensors and not is_first_iteration:
            for name in ("pixel_values", "image_features"):
                given.pop(name, None)
        return given


def _album(prompts: Tensor, places: Any, batch: int) -> Album:
    """The images and where they stand."""
    if places is None:
        if len(prompts) != batch:
            raise InputError(
                f"image_segments: expected one for each of {len(prompts)} images, got None; say where they are"
            )
        return Album(prompts, torch.arange(batch, device=prompts.device), None)
    try:
        places = torch.as_tensor(places)
    except (TypeError, ValueError) as error:
        raise InputError(f"image_segments: expected whole numbers (images, 2), got {places!r}; give these") from error
    if places.is_floating_point() or tuple(places.shape) != (len(prompts), 2):
        raise InputError(
            f"image_segments: expected a row and a segment, whole numbers, for each of {len(prompts)} images, got "
            f"{places.dtype} of shape {tuple(places.shape)}; give (images, 2)"
        )
    return Album(prompts, places[:, 0].to(prompts.device), places[:, 1])


AutoConfig.register(LlamaAdapterRMTConfig.model_type, LlamaAdapterRMTConfig, exist_ok=True)
AutoModelForCausalLM.register(LlamaAdapterRMTConfig, LlamaAdapterRMT, exist_ok=True)
