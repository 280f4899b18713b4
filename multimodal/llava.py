"""LLaVA with a memory: images and text of any length, segment by segment. Knows nothing of files or of drawing.

A segment's words are embedded, the features of its images put among them row by row, and the language model runs over
it with the memory, as :class:`rmt.RMTForCausalLM` does. Features are made for a segment when it is its turn, so that in
training with checkpoints neither pixels' activations nor features of the whole document are held.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration

from multimodal import building, splice
from multimodal.config import LlavaRMTConfig
from multimodal.decoding import ImageGenerationMixin
from multimodal.pictures import PictureCache, Pictures
from multimodal.spliced import Lookup, SplicedEmbedding, concatenated, table
from rmt.backbone import CACHE, check_segment_size
from rmt.cache import RMTCache
from rmt.errors import InputError
from rmt.layers import put, shallow
from rmt.memory import Memory
from rmt.models.building import word_spread
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
    glue: Int[Tensor, "batch columns"] | None = None


class LlavaRMT(ImageGenerationMixin, RMTForCausalLM):
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
        super().__init__(config, backbone if backbone is not None else building.new_llava(config))
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
        model = building.llava_model(backbone, backbone_kwargs)
        inner: Any = model.model.language_model
        shape = {"segment_size": segment_size, "num_memory_tokens": num_memory_tokens}
        full = building.full_config(model, projector=projector, **shape, **config)
        building.put_projector(model, full)
        built = cls(full, model)
        built.cell.reset_parameters(word_spread(inner))
        if model.generation_config is not None:
            built.generation_config = model.generation_config
        return built.train(model.training)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As of any transformers model; loading gives a vision tower new parameters, which are frozen again."""
        made = super().from_pretrained(*args, **kwargs)
        model: LlavaRMT = made[0] if isinstance(made, tuple) else made
        model.vision(model.config.freeze_vision)
        return made

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As of any transformers model, with weights under the names that they have here.

        Under those of older LLaVA files, as transformers would write them, Trainer does not find them again: it goes on
        from a checkpoint with ``load_state_dict``, and only warns. Both load with ``from_pretrained``.
        """
        super().save_pretrained(*args, **{"save_original_format": False, **kwargs})

    @property
    def core(self) -> nn.Module:
        """The language model from word embeddings to last hidden states."""
        return self.backbone.model.language_model

    def vision(self, frozen: bool) -> None:
        """Freeze or thaw the vision tower, and remember it in the configuration."""
        self.config.freeze_vision = frozen
        self.backbone.model.vision_tower.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> LlavaRMT:
        """As any module; a frozen vision tower stays in evaluation mode, as its features are those that are cached."""
        super().train(mode)
        tower = self.backbone.model.vision_tower
        if not any(p.requires_grad for p in tower.parameters()):
            tower.eval()
        return self

    def fingerprint(self) -> str:
        """A short name for these weights and for how they see and read; see :meth:`rmt.RMTPreTrainedModel.fingerprint`.

        What of the tower is taken, and how it is projected, no weight shows.
        """
        config, llava = self.config, self.config.llava_config
        sees = (config.projector, config.projector_pool, config.tokens_per_image, llava.vision_feature_layer)
        strategy = llava.vision_feature_select_strategy
        return hashlib.sha256(repr((super().fingerprint(), sees, strategy)).encode()).hexdigest()[:16]

    def vision_features(self, pixel_values: Shaped[Tensor, "images ..."]) -> Float[Tensor, "images patches vision"]:
        """What the projector is given: features of patches; what is worth keeping of a frozen tower."""
        return building.vision_features(self.backbone, pixel_values)

    def project(self, features: Float[Tensor, "images patches vision"]) -> Float[Tensor, "images tokens hidden"]:
        """Tokens of the language model from features of patches."""
        projector = self.backbone.model.multi_modal_projector
        # Of 4-bit or 8-bit weights the biases tell in what dtype they compute.
        exact = next((p.dtype for p in projector.parameters() if p.is_floating_point()), features.dtype)
        tokens: Tensor = projector(features.to(exact))
        return tokens

    def reached(self, loss: Tensor | None) -> Tensor | None:
        """See :meth:`rmt.RMTPreTrainedModel.reached`; a batch without images has no gradient for what reads images.

        Nor have the layers of a vision tower behind the one whose features are taken. Where nothing else learns, a loss
        without a gradient could not be differentiated: such a batch teaches nothing.
        """
        before, loss = loss, super().reached(loss)
        alone = self.training and torch.is_grad_enabled() and loss is not None and not loss.requires_grad
        if loss is None or (loss is before and not alone):
            return loss
        inner = self.backbone.model
        readers = [*inner.multi_modal_projector.parameters(), *inner.vision_tower.parameters()]
        return loss + sum(p.sum() * 0.0 for p in readers if p.requires_grad)

    def encode(self, pixel_values: Shaped[Tensor, "images ..."]) -> Float[Tensor, "images tokens hidden"]:
        """Images as the language model sees them."""
        return self.project(self.vision_features(pixel_values))

    def forward(  # type: ignore[override]
        self,
        input_ids: Int[Tensor, "batch seq"],
        pixel_values: Shaped[Tensor, "images ..."] | None = None,
        attention_mask: Shaped[Tensor, "batch columns"] | None = None,
        labels: Int[Tensor, "rows targets"] | None = None,
        memory: Memory | None = None,
        logits_to_keep: int | Int[Tensor, " kept"] | None = None,
        vision_features: Shaped[Tensor, "images ..."] | None = None,
        glue: Int[Tensor, "batch glued"] | None = None,
        question_ids: Int[Tensor, "batch questions width"] | None = None,
        question_mask: Shaped[Tensor, "batch questions masked"] | None = None,
        question_targets: Int[Tensor, "batch questions targets"] | None = None,
        question_pixel_values: Shaped[Tensor, "asked ..."] | None = None,
        salient: Shaped[Tensor, "batch seq *memory"] | None = None,
        memory_targets: Int[Tensor, "batch memory"] | None = None,
        segment_size: int | None = None,
        pictures: Pictures | None = None,
        cache: RMTCache | None = None,
        past_key_values: RMTCache | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        **unknown: Any,
    ) -> RMTCausalLMOutput | tuple[Any, ...]:
        """Read text and images, and predict each next token.

        Args:
            input_ids: tokens of a document, each image a run of ``config.tokens_per_image`` image tokens.
            pixel_values: images, preprocessed, (images, channels, height, width), in the order of rows and within a
                row; with a cache those of the new columns.
            vision_features: in place of ``pixel_values``, what :meth:`vision_features` gives for them.
            labels, question_targets: as of :class:`rmt.RMTForCausalLM`; at image tokens they are ignored.
            glue: positive and equal at a label and all of its image, which are not cut from each other; 0 elsewhere.
            question_pixel_values: images within questions, in the order of documents, questions and within one.
            pictures: in place of ``pixel_values``, images that know their rows (``generate`` makes them).
            attention_mask, memory, logits_to_keep, question_ids, question_mask, salient, memory_targets, segment_size,
                cache, past_key_values, use_cache, return_dict: as of :class:`rmt.RMTForCausalLM`.

        Raises:
            InputError: image tokens and images that do not match, row by row; an image larger than a segment.
        """
        before: RMTCache | None = past_key_values if cache is None else cache
        held = before.table if isinstance(before, PictureCache) else None
        images = self.pictures(pixel_values, vision_features, pictures)
        given = self._given(input_ids, attention_mask, glue, images, held, going_on=before is not None)
        if question_pixel_values is not None and question_ids is None:
            raise InputError("question_pixel_values: expected question_ids with them, got none; leave them out")
        rest = {"attention_mask": attention_mask, "memory": memory, "logits_to_keep": logits_to_keep, **unknown}
        if before is not None or use_cache:
            rest |= {"labels": labels, "question_ids": question_ids, "return_dict": return_dict}
            return self._with_cache(given, before, **rest)
        labels = self._words_only("labels", labels, given.ids)
        if question_ids is not None:
            question_ids, given = self._asked(question_ids, question_mask, question_pixel_values, given)
            question_targets = self._words_only("question_targets", question_targets, question_ids)
        return RMTForCausalLM.forward(
            self.seeing(given.lookup, given.glue),
            given.ids,
            labels=labels,
            question_ids=question_ids,
            question_mask=question_mask,
            question_targets=question_targets,
            salient=salient,
            memory_targets=memory_targets,
            segment_size=segment_size,
            return_dict=return_dict,
            **rest,
        )

    def _words_only(self, name: str, labels: Tensor | None, ids: Tensor) -> Tensor | None:
        """Labels without those of images."""
        if labels is None:
            return None
        if labels.shape != ids.shape:
            raise InputError(
                f"{name}: expected the shape of the tokens {tuple(ids.shape)}, got {tuple(labels.shape)}; give one for "
                "each, -100 where there is none"
            )
        return labels.masked_fill(ids >= self.config.vocab_size, IGNORE)

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
        if size is not None:
            check_segment_size(self.config.backbone_config, size, self.config.num_memory_tokens, self.config.memory)
        unit = self._units(input_ids, self.glue)
        return splice.cut(input_ids, attention_mask, size or self.config.segment_size, unit)

    def filled(self, ids: Tensor, mask: Tensor) -> tuple[list[Segment], Segment]:
        """How tokens of open segments, and those behind them, are cut; see :func:`rmt.cache.filled`."""
        glue = self.glue
        if glue is None and not bool((ids >= self.config.vocab_size).any()):
            return super().filled(ids, mask)
        if glue is not None:  # of new tokens; those that are open already are held together by their segment
            glue = F.pad(glue, (ids.shape[1] - glue.shape[1], 0))
        return splice.filled(ids, mask, self.config.segment_size, self._units(ids, glue))

    def _units(self, ids: Tensor, glue: Tensor | None) -> Tensor:
        tokens, vocabulary = self.config.tokens_per_image, self.config.vocab_size
        return splice.units(ids, vocabulary=vocabulary, tokens=tokens, glue=glue)

    def _ask(self, *args: Any) -> tuple[Tensor | None, Tensor]:
        view: Any = shallow(self)
        view.__dict__["glue"] = None  # is of the document
        return RMTForCausalLM._ask(view, *args)

    def pictures(
        self,
        pixel_values: Tensor | None,
        features: Tensor | None = None,
        pictures: Pictures | None = None,
        name: str = "pixel_values",
    ) -> Pictures | None:
        """The images of a call, in whatever form they were given; None for none.

        Raises:
            InputError: several forms, or tensors of another shape than the vision tower reads or gives.
        """
        if sum(x is not None for x in (pixel_values, features, pictures)) > 1:
            raise InputError("pixel_values: expected images in one form, got several; leave out vision_features")
        if pixel_values is not None:
            building.refuse_pixels(self.config.llava_config, pixel_values, name)
            return Pictures(pixel_values)
        if features is not None:
            building.refuse_features(features, self.config.patches, self.config.vision_width)
            return Pictures(features, encoded=True)
        return pictures

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
        if going_on and mask is not None and mask.shape[1] > ids.shape[1]:  # of all columns so far
            mask = mask[:, mask.shape[1] - ids.shape[1] :]
        tokens, known = self.config.tokens_per_image, 0 if held is None else len(held)
        columns = None if pictures is None else pictures.columns
        if going_on and pictures is None:
            # What a model itself says is a word, whatever it is; a whole image is what a user says.
            spoken = ids.shape[1] == 1 or int((ids == self.config.image_token_id).sum(dim=1).max()) < tokens
            columns = 0 if spoken else None
        numbered = splice.number(
            ids,
            mask,
            image_token=self.config.image_token_id,
            tokens=tokens,
            vocabulary=self.config.vocab_size,
            images=0 if pictures is None else len(pictures),
            begin=known,
            columns=columns,
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
        if mask is not None and mask.shape != ids.shape:
            raise InputError(
                f"question_mask: expected the shape of question_ids {tuple(ids.shape)}, got {tuple(mask.shape)}; give "
                "one number for each token"
            )
        known = int((given.ids >= self.config.vocab_size).sum())
        flat_mask = None if mask is None else mask.reshape(-1, width)
        pictures = self.pictures(pixel_values, name="question_pixel_values")
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


def nothing(rows: Tensor) -> Tensor:
    """Features of no images."""
    raise InputError(f"pixel_values: expected images for {len(rows)} image tokens, got none; give them")
