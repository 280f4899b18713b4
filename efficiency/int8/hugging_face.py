"""8-bit layers in transformers: a config that saves as compressed-tensors, and a quantizer that loads without it.

transformers reads ``quant_method: compressed-tensors`` with the package of that name, which turns weights into floating
point at the first forward. So a ``config.json`` of ours says just that, for the programs of others, while a model of
ours is loaded under a method of our own, :data:`NAME`, that transformers is told of when this module is imported:
:func:`adapt` puts it in place of the other in a configuration that was read. No package is needed then, layers are
:class:`~efficiency.int8.linear.Int8Linear` before weights are read, and weights are never anything but int8.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from efficiency.errors import InputError
from efficiency.int8.files import entries
from efficiency.int8.layout import METHOD, Layout
from efficiency.int8.linear import Int8Linear
from efficiency.int8.multiplied import MultipliedInt8Linear
from efficiency.int8.swap import freeze, keep_apart, swap
from efficiency.surgery import replace_modules

NAME = "int8-linear"


@register_quantization_config(NAME)
class Int8Config(QuantizationConfigMixin):
    """A :class:`~efficiency.int8.layout.Layout` as transformers wants it; written down as compressed-tensors.

    Args:
        forgetful: the class of a model whose layers leave memory as it is, but which cannot tell where memory is:
            what is saved will not do so, and whoever saves it is warned.
    """

    def __init__(self, layout: Layout, forgetful: str = "") -> None:
        self.quant_method: Any = NAME
        self.layout, self.forgetful = layout, forgetful

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """From a ``quantization_config`` of ``config.json``.

        Raises:
            InputError: anything but symmetric int8 weights and inputs, see :meth:`Layout.from_dict`.
        """
        config = cls(Layout.from_dict({**config_dict, "quant_method": METHOD}))
        return (config, kwargs) if return_unused_kwargs else config

    def to_dict(self) -> dict[str, Any]:
        """What ``config.json`` says; transformers asks when it writes one."""
        if self.forgetful:
            warnings.warn(
                f"float_memory: expected a model that tells where its memory is, got {self.forgetful}: once loaded, it "
                "will round memory like text; save the whole model",
                stacklevel=2,
            )
        return self.layout.to_dict()

    def get(self, key: str, default: Any = None) -> Any:
        """An entry, as of the dictionary that transformers takes this for; the method is our own."""
        return NAME if key == "quant_method" else self.layout.to_dict().get(key, default)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        yield from self.layout.to_dict().items()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Int8Config) and self.layout == other.layout

    __hash__ = None  # type: ignore[assignment]


@register_quantizer(NAME)
class Int8Quantizer(HfQuantizer):
    """Puts 8-bit layers in place of linear ones before weights are read, and checks that the files have them."""

    requires_calibration = True
    quantization_config: Any

    def _process_model_before_weight_loading(
        self, model: Any, checkpoint_files: Sequence[str] | None = None, **_: Any
    ) -> None:
        found = entries(checkpoint_files) if checkpoint_files else None
        swap(model, self.quantization_config.layout, found, model.base_model_prefix)

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        freeze(model)
        if self.quantization_config.layout.float_memory:
            keep_apart(model)
        # What transformers refuses by this is fine here: half() and float() leave 8-bit weights and scales alone.
        model.is_quantized = False
        _saved_as_a_whole(model)
        return model

    def _dequantize(self, model: Any, dtype: torch.dtype | None = None) -> Any:
        def choose(name: str, module: nn.Module) -> nn.Module | None:
            if not isinstance(module, Int8Linear):
                return None
            weight = module.dequantised()
            if isinstance(module, MultipliedInt8Linear):
                weight = weight * module.multiplier
            weight = weight.to(dtype or torch.float32)
            if module.stands_for == "Conv1D":
                with torch.device("meta"):
                    plain: nn.Module = Conv1D(module.out_features, module.in_features)
                weight = weight.t().contiguous()
            else:
                plain = nn.Linear(module.in_features, module.out_features, False, device="meta")
            plain.weight = nn.Parameter(weight)
            plain.register_parameter("bias", module.bias)
            return plain.train(module.training)

        replace_modules(model, choose)
        return model

    def is_serializable(self) -> bool:
        """Models are saved as they are."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Whatever is not 8-bit may be trained."""
        return True


def mark(model: PreTrainedModel) -> None:
    """Tell a model's configuration which of its layers are 8-bit, so that ``save_pretrained`` writes it down.

    Call it once more for a model that a quantised one has become a part of. Saving warns where layers leave memory as
    it is and the model is one without ``on_positions``: a part, or one that was never recurrent.

    Raises:
        InputError: no 8-bit layer.
    """
    told: Any = model.config
    layout = Layout.of(model)
    for module in model.modules():
        # Only the whole says it: names in a part's configuration would begin elsewhere.
        inner = getattr(module, "config", None)
        if isinstance(inner, PreTrainedConfig) and isinstance(getattr(inner, "quantization_config", None), Int8Config):
            del inner.quantization_config
    _saved_as_a_whole(model)
    marked = any(module.marks is not None for module in model.modules() if isinstance(module, Int8Linear))
    told.quantization_config = Int8Config(layout, type(model).__name__ if marked and not layout.float_memory else "")


def _saved_as_a_whole(model: PreTrainedModel) -> None:
    """Have its parts refuse to be saved: their configuration says nothing of 8-bit layers, so weights would be lost."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            if getattr(module.__dict__.get("save_pretrained"), "func", None) is _refuse_part:
                del module.__dict__["save_pretrained"]
            if module is not model and any(isinstance(layer, Int8Linear) for layer in module.modules()):
                module.__dict__["save_pretrained"] = partial(_refuse_part, type(module).__name__, type(model).__name__)


def _refuse_part(part: str, whole: str, *_: Any, **__: Any) -> None:
    raise InputError(
        f"save_pretrained: expected the model that was quantised, {whole}, got its part {part}, which does not know of "
        "its 8-bit layers; save the whole, or call efficiency.int8.hugging_face.mark on the part first"
    )


def adapt(config: PreTrainedConfig) -> None:
    """Have a model with this configuration, as read from a file, loaded with 8-bit layers of ours.

    Raises:
        InputError: it is not quantised, or not in the part of compressed-tensors that we know.
    """
    told: Any = config
    given = getattr(config, "quantization_config", None)
    if isinstance(given, Int8Config):
        return
    if given is None:
        raise InputError("config.json: expected a quantization_config, got none; the model is not quantised")
    told.quantization_config = Int8Config(Layout.from_dict(given if isinstance(given, dict) else given.to_dict()))
