"""LLaVA with a memory: images and text of any length, segment by segment. Knows nothing of files or of drawing.

A segment's words are embedded, the features of its images put among them row by row, and the language model runs over
it with the memory, as :class:`rmt.RMTForCausalLM` does. Features are made for a segment when it is its turn, so that in
training with checkpoints neither pixels' activations nor features of the whole document are held.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from multimodal import splice
from multimodal.building import llava_model, new_llava, put_projector, vision_features
from multimodal.config import LlavaRMTConfig
from multimodal.pictures import PictureCache, Pictures
from multimodal.spliced import Lookup, SplicedEmbedding, concatenated, table
from rmt.backbone import CACHE, check_segment_size
from rmt.cache import RMTCache
from rmt.errors import InputError
from rmt.layers import put, shallow
from rmt.memory import Memory
from rmt.models.building import decoder_config, word_spread
from rmt.models.causal_lm import IGNORE, RMTForCausalLM
from rmt.models.outputs import RMTCausalLMOutput
from rmt.segments import Segment


@dataclass(frozen=True)
class Given:
    """Images of one call, numbered: what a view of the model is made for.

    Attributes:
        ids: with virtual ids.
        lookup: of their features.
        glue: see :func:`multimodal.splice.units`.
    """

    ids: Int[Tensor, "batch seq"]
    lookup: Lookup
    glue: Int[Tensor, "batch seq"] | None = None


class LlavaRMT(RMTForCausalLM):
    """LLaVA (arXiv 2304.08485, 2310.03744) whose language model reads segment by segment with a memory (2304.11062).

    Without memory tokens and in one segment it is transformers' ``LlavaForConditionalGeneration``.
    """

    config_class = LlavaRMTConfig
    config: LlavaRMTConfig
    backbone: LlavaForConditionalGeneration
    input_modalities = ["image", "text"]  # noqa: RUF012
    main_input_name = "input_ids"
    # Of a view alone, which lives as long as one call: what must not be cut.
    glue: Tensor | None = None

    def __init__(self, config: LlavaRMTConfig, backbone: LlavaForConditionalGeneration | None = None) -> None:
        super().__init__(config, backbone if backbone is not None else new_llava(config))
        self.vision(config.freeze_vision)

    @classmethod
    def from_backbone(  # type: ignore[override]
        cls,
        backbone: str | LlavaForConditionalGeneration,
        *,
        segment_size: int = 1024,
        num_memory_tokens: int = 16,
        projector: str = "mlp",
        backbone_kwargs: dict[str, Any] | None = None,
        **config: Any,
    ) -> LlavaRMT:
        """A new model over a LLaVA checkpoint, in eval mode; over a model, in the mode that it is in.

        Args:
            backbone: hub name, folder, or a ``LlavaForConditionalGeneration`` (taken over, not copied).
            segment_size: tokens of a segment; an image with its label must fit.
            num_memory_tokens: see :class:`rmt.RMTConfig`.
            projector: see :class:`multimodal.LlavaRMTConfig`; all but ``"mlp"`` begin with fresh weights.
            backbone_kwargs: for ``LlavaForConditionalGeneration.from_pretrained``, such as ``dtype``.
            config: further fields of :class:`multimodal.LlavaRMTConfig`.

        Raises:
            InputError: another kind of model, or a segment that no image fits into.
        """
        model = llava_model(backbone, backbone_kwargs)
        inner: Any = model.model.language_model
        shape = {"segment_size": segment_size, "num_memory_tokens": num_memory_tokens}
        special = decoder_config(inner, **shape, **{k: v for k, v in config.items() if k == "memory"})
        ends = {name: getattr(special, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        full = LlavaRMTConfig(llava_config=model.config, projector=projector, **(ends | shape | config))
        if full.tokens_per_image > segment_size:
            raise InputError(
                f"segment_size: expected at least {full.tokens_per_image}, the tokens of an image, got {segment_size}; "
                "take larger segments, or pool the image: projector='pooled' or 'resampler'"
            )
        put_projector(model, full)
        built = cls(full, model)
        built.cell.reset_parameters(word_spread(inner))
        if model.generation_config is not None:
            built.generation_config = model.generation_config
        return built.train(model.training)

    @property
    def core(self) -> nn.Module:
        """The language model from word embeddings to last hidden states."""
        return self.backbone.model.language_model

    def vision(self, frozen: bool) -> None:
        """Freeze or thaw the vision tower."""
        self.backbone.model.vision_tower.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> LlavaRMT:
        """As any module; a frozen vision tower stays in evaluation mode, as its features are those that are cached."""
        super().train(mode)
        tower = self.backbone.model.vision_tower
        if not any(p.requires_grad for p in tower.parameters()):
            tower.eval()
        return self

    def vision_features(
        self, pixel_values: Float[Tensor, "images channels height width"]
    ) -> Float[Tensor, "images patches vision"]:
        """What the projector is given: features of patches; what is worth keeping of a frozen tower."""
        return vision_features(self.backbone, pixel_values)

    def project(self, features: Float[Tensor, "images patches vision"]) -> Float[Tensor, "images tokens hidden"]:
        """Tokens of the language model from features of patches."""
        projector = self.backbone.model.multi_modal_projector
        tokens: Tensor = projector(features.to(next(projector.parameters()).dtype))
        return tokens

    def encode(
        self, pixel_values: Float[Tensor, "images channels height width"]
    ) -> Float[Tensor, "images tokens hidden"]:
        """Images as the language model sees them."""
        return self.project(self.vision_features(pixel_values))

    def forward(  # type: ignore[override]
        self,
        input_ids: Int[Tensor, "batch seq"],
        pixel_values: Shaped[Tensor, "images channels height width"] | None = None,
        vision_features: Float[Tensor, "images patches vision"] | None = None,
        attention_mask: Shaped[Tensor, "batch columns"] | None = None,
        labels: Int[Tensor, "batch seq"] | None = None,
        memory: Memory | None = None,
        glue: Int[Tensor, "batch seq"] | None = None,
        question_ids: Int[Tensor, "batch questions width"] | None = None,
        question_mask: Shaped[Tensor, "batch questions width"] | None = None,
        question_pixel_values: Shaped[Tensor, "images channels height width"] | None = None,
        pictures: Pictures | None = None,
        cache: RMTCache | None = None,
        past_key_values: RMTCache | None = None,
        use_cache: bool | None = None,
        **arguments: Any,
    ) -> RMTCausalLMOutput | tuple[Any, ...]:
        """Read text and images, and predict each next token.

        Args:
            input_ids: tokens of a document, each image a run of ``config.tokens_per_image`` image tokens.
            pixel_values: images, preprocessed, in the order of rows and within a row.
            vision_features: in place of ``pixel_values``, what :meth:`vision_features` gives for them.
            attention_mask, labels, memory, question_ids, question_mask, cache, past_key_values, use_cache: as of
                :class:`rmt.RMTForCausalLM`; labels at image tokens are ignored.
            glue: positive and equal at a label and all of its image, which are not cut from each other.
            question_pixel_values: images within questions, in the order of documents, questions and within one.
            pictures: in place of ``pixel_values``, images that know their rows (``generate`` makes them).
            arguments: further ones of :class:`rmt.RMTForCausalLM`.

        Raises:
            InputError: image tokens and images that do not match, row by row; an image larger than a segment.
        """
        size = arguments.get("segment_size")
        if size is not None:
            check_segment_size(self.config.backbone_config, size, self.config.num_memory_tokens, self.config.memory)
        before: RMTCache | None = past_key_values if cache is None else cache
        held = before.table if isinstance(before, PictureCache) else None
        given = self._given(
            input_ids,
            attention_mask,
            glue,
            self._pictures(pixel_values, vision_features, pictures),
            held,
            going_on=before is not None,
        )
        shared: dict[str, Any] = {
            "attention_mask": attention_mask,
            "memory": memory,
            "use_cache": use_cache,
            **arguments,
        }
        if before is not None or use_cache:
            return self._with_cache(given, before, labels=labels, question_ids=question_ids, **shared)
        if labels is not None:
            labels = labels.masked_fill(given.ids >= self.config.vocab_size, IGNORE)
        if question_ids is not None:
            question_ids, given = self._asked(question_ids, question_mask, question_pixel_values, given)
        elif question_pixel_values is not None:
            raise InputError("question_pixel_values: expected question_ids with them, got none; leave them out")
        view = self.seeing(given.lookup, given.glue)
        return RMTForCausalLM.forward(
            view, given.ids, labels=labels, question_ids=question_ids, question_mask=question_mask, **shared
        )

    def seeing(self, lookup: Lookup, glue: Tensor | None = None) -> LlavaRMT:
        """This model as one call sees it: with features of images behind its words.

        Weights are shared; nothing of this model changes.

        Args:
            lookup: features by row of the table.
            glue: see :meth:`forward`.
        """
        view: Any = shallow(self)
        words = self.get_input_embeddings()
        path = next(name for name, module in self.named_modules() if module is words)
        put(view, path, SplicedEmbedding(words, self.config.vocab_size, lookup))
        view.__dict__["glue"] = glue
        seen: LlavaRMT = view
        return seen

    def segments(self, input_ids: Tensor, attention_mask: Tensor | None, size: int | None = None) -> list[Segment]:
        """Cut a batch into segments of at most ``size`` tokens, never within an image and its label."""
        glue = self.glue if self.glue is not None and self.glue.shape == input_ids.shape else None
        unit = splice.units(
            input_ids, vocabulary=self.config.vocab_size, tokens=self.config.tokens_per_image, glue=glue
        )
        return splice.cut(input_ids, attention_mask, size or self.config.segment_size, unit)

    def filled(self, ids: Tensor, mask: Tensor) -> tuple[list[Segment], Segment]:
        """How tokens of open segments, and those behind them, are cut; see :func:`rmt.cache.filled`."""
        if not bool((ids >= self.config.vocab_size).any()) and self.glue is None:
            return super().filled(ids, mask)
        live = mask.any(dim=1)
        rows = live.nonzero().flatten()
        cuts = self.segments(ids[rows], mask[rows])
        last = torch.stack([s.active for s in cuts]).sum(dim=0) - 1

        def of_all(segment: Segment, keep: Tensor) -> Segment:
            parts = []
            for part in (segment.ids, segment.mask, segment.source):
                whole = part.new_zeros(len(ids), part.shape[1])
                whole[rows] = part.masked_fill(~keep[:, None], 0)
                parts.append(whole)
            return Segment(*parts)

        full = [of_all(s, last > n) for n, s in enumerate(cuts) if bool((last > n).any())]
        open_ones = [of_all(s, last == n) for n, s in enumerate(cuts)]
        width = max(int(s.mask.sum(dim=1).max()) for s in open_ones)
        ends = [torch.zeros(len(ids), width, dtype=t.dtype, device=ids.device) for t in (ids, mask, ids)]
        for segment in open_ones:
            count = min(width, segment.ids.shape[1])
            for end, part in zip(ends, (segment.ids, segment.mask, segment.source), strict=True):
                end[segment.active, :count] = part[segment.active, :count]
        return full, Segment(*ends)

    def _pictures(
        self, pixel_values: Tensor | None, features: Tensor | None, pictures: Pictures | None
    ) -> Pictures | None:
        if sum(x is not None for x in (pixel_values, features, pictures)) > 1:
            raise InputError("pixel_values: expected images in one form, got several; leave out vision_features")
        if pictures is not None:
            return pictures
        if pixel_values is not None:
            return Pictures(pixel_values)
        return None if features is None else Pictures(features, encoded=True)

    def _given(
        self,
        ids: Tensor,
        mask: Tensor | None,
        glue: Tensor | None,
        pictures: Pictures | None,
        held: Tensor | None = None,
        name: str = "pixel_values",
        going_on: bool = False,
    ) -> Given:
        if mask is not None and mask.shape[1] > ids.shape[1]:  # of all columns so far, with a cache
            mask = mask[:, mask.shape[1] - ids.shape[1] :]
        tokens, known = self.config.tokens_per_image, 0 if held is None else len(held)
        if going_on and pictures is None:  # what a model itself says is a word, whatever it is
            return Given(ids, nothing if held is None else table(held[None]), glue)
        numbered = splice.number(
            ids,
            mask,
            image_token=self.config.image_token_id,
            tokens=tokens,
            vocabulary=self.config.vocab_size,
            images=0 if pictures is None else len(pictures),
            begin=known,
            name=name,
        )
        lookup = nothing if pictures is None else pictures.lookup(self, tokens)
        if held is not None:
            lookup = concatenated(table(held[None]), known, lookup)
        return Given(numbered, lookup, glue)

    def _asked(
        self, ids: Tensor, mask: Tensor | None, pixel_values: Tensor | None, given: Given
    ) -> tuple[Tensor, Given]:
        """Questions with virtual ids behind those of the documents."""
        batch, count, width = ids.shape
        known = int((given.ids >= self.config.vocab_size).sum())
        flat_mask = None if mask is None else mask.reshape(-1, width)
        pictures = None if pixel_values is None else Pictures(pixel_values)
        asked = self._given(ids.reshape(-1, width), flat_mask, None, pictures, name="question_pixel_values")
        virtual = asked.ids >= self.config.vocab_size
        both = concatenated(given.lookup, known, asked.lookup)
        return (asked.ids + virtual * known).view(batch, count, width), replace(given, lookup=both)

    def _with_cache(
        self, given: Given, cache: RMTCache | None, **arguments: Any
    ) -> RMTCausalLMOutput | tuple[Any, ...]:
        """Read on; features of what stays open go with the cache."""
        in_tuple = arguments.pop("return_dict", None) is False
        if cache is None:
            cache = PictureCache.begin(self, arguments.pop("memory", None), given.ids.shape[0])
        if isinstance(cache, RMTCache) and not isinstance(cache, PictureCache):
            cache = PictureCache(**{f.name: getattr(cache, f.name) for f in fields(cache)})
        view = self.seeing(given.lookup, given.glue)
        out: Any = RMTForCausalLM.forward(view, given.ids, cache=cache, **arguments)
        after = getattr(out, CACHE).holding(given.lookup, self.config.vocab_size)
        out[CACHE] = after
        return out.to_tuple() if in_tuple else out

    def generate(self, inputs: Tensor | None = None, **arguments: Any) -> Any:
        """Hugging Face's ``generate`` with a memory (:class:`rmt.generation.RMTGenerationMixin`) and with images.

        Args:
            inputs: prompts, as ``input_ids``.
            arguments: ``pixel_values`` or ``vision_features`` of the prompts' images, ``glue``, ``memory``, and all
                that ``generate`` takes.
        """
        ids = arguments.get("input_ids", inputs)
        pictures = self._pictures(
            arguments.pop("pixel_values", None), arguments.pop("vision_features", None), arguments.pop("pictures", None)
        )
        if pictures is not None and ids is not None:
            mask = arguments.get("attention_mask")
            counts = ((ids == self.config.image_token_id) & (mask is None or mask.bool())).sum(dim=1)
            counts = counts // self.config.tokens_per_image
            if int(counts.sum()) == len(pictures):  # else the forward says what is wrong
                pictures = replace(pictures, rows=torch.arange(len(ids)).repeat_interleave(counts.cpu()))
            arguments["pictures"] = pictures
        elif ids is not None and bool((ids == self.config.image_token_id).any()) and not has_cache(arguments):
            raise InputError("pixel_values: expected the images of the prompts, got none; give them")
        return super().generate(inputs, **arguments)

    def prepare_inputs_for_generation(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The arguments of the next forward (called by ``generate``); images come with the prompt alone."""
        prepared = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)
        first = prepared["input_ids"].shape[1] == input_ids.shape[1] or kwargs.get("is_first_iteration", False)
        if not first:
            prepared.pop("pictures", None)
            prepared.pop("glue", None)
        return prepared


def nothing(rows: Tensor) -> Tensor:
    """Features of no images."""
    raise InputError(f"pixel_values: expected images for {len(rows)} image tokens, got none; give them")


def has_cache(arguments: dict[str, Any]) -> bool:
    """Whether ``generate`` goes on from a cache."""
    return any(arguments.get(name) is not None for name in ("cache", "past_key_values"))
