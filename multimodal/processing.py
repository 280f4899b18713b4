"""Text and images to what a recurrent LLaVA takes: transformers' LlavaProcessor, counting our projector's tokens.

Knows the processors of transformers, and of a model only how many tokens an image becomes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, no_type_check

from transformers import AutoProcessor, LlavaProcessor, PreTrainedConfig

from rmt.errors import InputError


class LlavaRMTProcessor(LlavaProcessor):
    """A LlavaProcessor in whose output an image is ``tokens_per_image`` image tokens.

    Without that number, and with it for the projector "mlp", it does what its parent does; so a processor that
    transformers saved loads unchanged. Pooled and resampled images need the number, which :meth:`for_model` fills in.

    Args:
        image_processor: as of LlavaProcessor, as all that follow but the last.
        tokenizer: with the image token in its vocabulary.
        patch_size: pixels to a patch's side.
        vision_feature_select_strategy: "default" leaves [CLS] out, "full" keeps it.
        chat_template: Jinja text.
        image_token: what stands for an image in a text.
        num_additional_image_tokens: 1 where the encoder has a [CLS].
        tokens_per_image: positions of an image behind the projector; None to count its patches.
    """

    tokens_per_image: int | None

    # transformers reads the names that a saved processor may set from this function's code: no wrapper may hide it.
    @no_type_check
    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        patch_size: int | None = None,
        vision_feature_select_strategy: str | None = None,
        chat_template: str | dict[str, str] | None = None,
        image_token: str = "<image>",
        num_additional_image_tokens: int = 0,
        tokens_per_image: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            image_processor,
            tokenizer,
            patch_size=patch_size,
            vision_feature_select_strategy=vision_feature_select_strategy,
            chat_template=chat_template,
            image_token=image_token,
            num_additional_image_tokens=num_additional_image_tokens,
            **kwargs,
        )
        if tokens_per_image is not None and not (isinstance(tokens_per_image, int) and tokens_per_image >= 1):
            raise InputError(f"tokens_per_image: expected a positive integer, got {tokens_per_image!r}; change it")
        self.tokens_per_image = tokens_per_image

    @classmethod
    def for_model(cls, config: Any, processor: LlavaProcessor) -> LlavaRMTProcessor:
        """The processor that fits a model, out of one that fits its parts.

        Args:
            config: a `LlavaRMTConfig`: its ``tokens_per_image``, ``image_token_id`` and ``llava_config`` count.
            processor: with the model's tokenizer and its encoder's image processor.

        Raises:
            InputError: the image token, or the size of images, is not the model's.
        """
        vision = config.llava_config.vision_config
        if processor.image_token_id != config.image_token_id:
            raise InputError(
                f"processor: expected {processor.image_token} to be token {config.image_token_id} as in the model, got "
                f"{processor.image_token_id}; take the processor that was saved with the model"
            )
        sizes = _sizes(processor.image_processor)
        if sizes and sizes != {int(vision.image_size)}:
            raise InputError(
                f"processor: expected images of {vision.image_size} × {vision.image_size} pixels as the encoder takes, "
                f"got {' × '.join(map(str, sorted(sizes)))}; set the image processor's size and crop_size"
            )
        strategy = config.llava_config.vision_feature_select_strategy
        return cls(
            processor.image_processor,
            processor.tokenizer,
            patch_size=int(vision.patch_size),
            vision_feature_select_strategy=strategy,
            chat_template=processor.chat_template,
            image_token=processor.image_token,
            num_additional_image_tokens=int(processor.num_additional_image_tokens or 0),
            tokens_per_image=int(config.tokens_per_image),
        )

    def replace_image_token(self, image_inputs: Any, image_idx: int, **kwargs: Any) -> str:
        """The run of image tokens of one image; called by transformers."""
        if self.tokens_per_image is None:
            return super().replace_image_token(image_inputs, image_idx, **kwargs)
        return self.image_token * self.tokens_per_image

    def validate_inputs(
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **kwargs: Any
    ) -> None:
        """One clear error where images and image tokens do not go together; called by transformers.

        Images in one list are counted over all texts, those in a list of lists text by text.
        """
        if isinstance(text, list) and all(isinstance(sample, str) for sample in text):
            tags = [sample.count(self.image_token) for sample in text]
            if _nested(images) and (len(images) != len(tags) or [len(row) for row in images] != tags):
                counts = [len(row) for row in images]
                raise InputError(
                    f"images: expected as many a text as it has {self.image_token}, {tags}, got {counts}; mend the "
                    "texts or the lists of images"
                )
            given = 0 if images is None else sum(map(len, images)) if _nested(images) else _count(images)
            if given != sum(tags):
                raise InputError(
                    f"images: expected {sum(tags)}, one for each {self.image_token} in {len(tags)} texts, got {given}; "
                    "mend the texts or give the images that are missing"
                )
        super().validate_inputs(images=images, text=text, videos=videos, audio=audio, **kwargs)

    def _get_num_multimodal_tokens(self, image_sizes: Any = None, **kwargs: Any) -> Any:
        found = super()._get_num_multimodal_tokens(image_sizes, **kwargs)
        if self.tokens_per_image is not None and image_sizes is not None:
            found.num_image_tokens = [self.tokens_per_image] * len(image_sizes)
        return found


def register(config_class: type[PreTrainedConfig]) -> None:
    """Make `AutoProcessor` find :class:`LlavaRMTProcessor` for models of a configuration class, `LlavaRMTConfig`."""
    AutoProcessor.register(config_class, LlavaRMTProcessor, exist_ok=True)


def _nested(images: Any) -> bool:
    return isinstance(images, (list, tuple)) and bool(images) and all(isinstance(row, (list, tuple)) for row in images)


def _count(images: Any) -> int:
    if isinstance(images, Sequence) and not isinstance(images, str):
        return len(images)
    shape = getattr(images, "shape", None)
    return int(shape[0]) if shape is not None and len(shape) == 4 else 1


def _sizes(image_processor: Any) -> set[int]:
    """Sides of the images that leave an image processor, where it says them."""
    crops = getattr(image_processor, "do_center_crop", False)
    size = getattr(image_processor, "crop_size", None) if crops else getattr(image_processor, "size", None)
    size = {} if size is None else dict(size)
    return {int(size[key]) for key in ("height", "width") if size.get(key) is not None}
