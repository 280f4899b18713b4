"""Image towers of Hugging Face models: from pixels to a row of features a patch.

What differs between families of towers is data here, and only here. Knows nothing of language models, of how images are
loaded and prepared, nor of where features go; a tower is never changed but by :func:`freeze` and :func:`thaw`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import output_capturing

from rmt.errors import InputError

Layer = int | list[int]
Tower = TypeVar("Tower", bound=nn.Module)

# Images that one forward pass of a tower sees, where nothing else is said.
BATCH = 32
# Since 5.24 transformers keeps only the hidden states that are asked for by number; before, all of them.
_BY_NUMBER = hasattr(output_capturing, "select_hidden_states")


@dataclass(frozen=True)
class TowerFamily:
    """What differs between families of image towers, as data.

    Attributes:
        model: class of transformers that holds the tower alone.
        leading: tokens in front of the patches; the first of them stands for the whole image. Where there is none, the
            mean over patches does.
        remainder: whether a published tower has images that patches do not cover; its convolution leaves the last
            pixels of a row and a column out (SigLIP so400m: 384 pixels, patches of 14).
    """

    model: str
    leading: int
    remainder: bool = False


# By the model_type of a tower's configuration.
SUPPORTED: dict[str, TowerFamily] = {
    "clip_vision_model": TowerFamily("CLIPVisionModel", leading=1),
    "siglip_vision_model": TowerFamily("SiglipVisionModel", leading=0, remainder=True),
    "dinov2": TowerFamily("Dinov2Model", leading=1),
}
# Models that hold a tower beside other things, in the part of their configuration called vision_config.
WHOLE = ("clip", "siglip")


def tower_family(vision_config: PreTrainedConfig) -> TowerFamily:
    """The family of an image tower.

    Raises:
        InputError: an unknown one.
    """
    kind = getattr(vision_config, "model_type", "")
    family = SUPPORTED.get(kind)
    if family is None:
        raise InputError(
            f"expected an image tower of a known family ({', '.join(sorted(SUPPORTED))}), got model_type {kind!r}; "
            "to add one, enter it in multimodal.encoders.SUPPORTED: its forward must take pixel_values and give "
            "hidden_states of (images, tokens, hidden)"
        )
    return family


def load_tower(name: str | Path, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """An image tower from a folder, out of a whole CLIP or SigLIP model or saved on its own.

    Args:
        name: a folder that ``save_pretrained`` wrote, or a name on the hub.
        dtype: of the weights; as they were saved where None.

    Returns:
        A model of the family's own class, in evaluation mode, its parameters not frozen.

    Raises:
        InputError: no such model, another family, or a file that lacks weights of the tower.
    """
    name = str(name)
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{name}: expected a folder or name of a CLIP or SigLIP model, got none that can be read ({error}); "
            "give a folder that save_pretrained wrote"
        ) from error
    vision = config.vision_config if config.model_type in WHOLE else config
    kind: Any = getattr(transformers, tower_family(vision).model)
    try:
        tower, told = kind.from_pretrained(
            name, config=vision, dtype="auto" if dtype is None else dtype, output_loading_info=True
        )
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{name}: expected the weights of a {kind.__name__}, got a file that cannot be read ({error}); "
            "save the model again"
        ) from error
    if lacking := sorted(told["missing_keys"]):
        raise InputError(
            f"{name}: expected all weights of a {kind.__name__}, got a file without {len(lacking)} of them "
            f"({lacking[0]} first); save the model again"
        )
    result: PreTrainedModel = tower.eval()
    return result


def freeze(tower: Tower) -> Tower:
    """Stop a tower from learning: no parameter wants a gradient, and nothing is drawn at random. Gives it back."""
    return tower.requires_grad_(False).eval()


def thaw(tower: Tower) -> Tower:
    """Let a tower learn: every parameter wants a gradient, and it is in training mode. Gives it back."""
    return tower.requires_grad_(True).train()


def trains(tower: nn.Module) -> bool:
    """Whether any parameter of a tower wants a gradient."""
    return any(p.requires_grad for p in tower.parameters())


def patches_of(vision_config: PreTrainedConfig, strategy: str = "default") -> int:
    """Rows of features that an image gives.

    Args:
        vision_config: the tower's, with image_size and patch_size in pixels.
        strategy: ``default`` leaves the first token out, whatever it is, as transformers does: CLIP's class token, yet
            SigLIP's first patch, so a SigLIP tower wants ``full``, which leaves nothing out.

    Raises:
        InputError: an unknown family or strategy, or images that patches do not cover.
    """
    family, size, patch = tower_family(vision_config), vision_config.image_size, vision_config.patch_size
    _check_strategy(strategy)
    if not (isinstance(size, int) and isinstance(patch, int) and 0 < patch <= size):
        raise InputError(f"expected an image_size of at least one patch_size, in pixels, got {size} and {patch}")
    if size % patch and not family.remainder:
        raise InputError(
            f"expected an image_size that is a multiple of patch_size, got {size} and {patch}; "
            f"make it {size // patch * patch}"
        )
    return int((size // patch) ** 2 + family.leading - (strategy == "default"))


def patch_features(
    tower: nn.Module,
    pixel_values: Tensor,
    layer: Layer = -2,
    strategy: str = "default",
    *,
    batch: int | None = BATCH,
) -> Float[Tensor, "images patches hidden"]:
    """What a tower sees in each patch of each image: what ``LlavaModel.get_image_features`` hands to its projector.

    LLaVA (arXiv 2304.08485, section 4.1) takes the layer before the last. Where no parameter of the tower wants a
    gradient, nor the pixels do, there is no graph. Equal to transformers' bit for bit for images of one part; over
    several parts sums may be rounded otherwise, as the kernels choose by the number of rows.

    Args:
        tower: of a family in SUPPORTED, or another with ``hidden_states`` of (images, tokens, hidden).
        pixel_values: (images, channels, height, width), floating point, as the tower's image processor gives them, on
            any device: a part at a time is taken to the tower's.
        layer: number of the hidden states, 0 for what goes into the first layer, -1 for what comes out of the last;
            several are put side by side.
        strategy: see :func:`patches_of`.
        batch: images of a part; None for all at once. What is needed beside the result does not grow with images.

    Returns:
        In the dtype and on the device of the tower; hidden is the tower's times the number of layers.

    Raises:
        InputError: pixels of another shape or kind, a layer that is not there, a batch below one.
    """
    numbers = [layer] if isinstance(layer, int) else list(layer)
    _check_strategy(strategy)
    first = 1 if strategy == "default" else 0
    found = [_beside([h[:, first:] for h in states]) for states in _states(tower, pixel_values, numbers, batch)]
    return found[0] if len(found) == 1 else torch.cat(found)


def global_features(
    tower: nn.Module, pixel_values: Tensor, layers: Sequence[int], *, batch: int | None = BATCH
) -> Float[Tensor, "images scales_hidden"]:
    """What a tower sees in each image as a whole, at several depths, side by side.

    The input of LLaMA-Adapter's projection, Concat({I_m}) of arXiv 2303.16199, section 3.4. A depth's feature is its
    class token, or the mean over patches in a family that has none. As the layers give them, without a last norm.

    Args:
        tower, pixel_values, batch: see :func:`patch_features`; the tower's family must be in SUPPORTED.
        layers: numbers of hidden states, in the order they are wanted.

    Raises:
        InputError: as :func:`patch_features`, and for an unknown family.
    """
    leading = tower_family(tower.config).leading  # type: ignore[arg-type]
    parts = _states(tower, pixel_values, list(layers), batch)
    found = [_beside([h[:, 0] if leading else h.mean(dim=1) for h in states]) for states in parts]
    return found[0] if len(found) == 1 else torch.cat(found)


def check_pixels(vision_config: PreTrainedConfig, pixel_values: Tensor) -> None:
    """Refuse pixels that a tower cannot see.

    Raises:
        InputError: no tensor of (images, channels, height, width) in floating point with at least one image, or
            other channels or sizes than the tower's.
    """
    channels, size = getattr(vision_config, "num_channels", 3), vision_config.image_size
    wanted = f"pixel_values of (images, {channels}, {size}, {size}) in floating point"
    cure = "prepare images with the tower's image processor"
    if not isinstance(pixel_values, Tensor):
        raise InputError(f"expected {wanted}, got a {type(pixel_values).__name__}; {cure}")
    shape = tuple(pixel_values.shape)
    if len(shape) != 4 or shape[1:] != (channels, size, size) or not pixel_values.is_floating_point():
        raise InputError(f"expected {wanted}, got {shape} in {str(pixel_values.dtype).removeprefix('torch.')}; {cure}")
    if not shape[0]:
        raise InputError(f"expected {wanted}, got no image; leave pixel_values out where a text has none")


def _states(tower: nn.Module, pixel_values: Tensor, layers: list[int], batch: int | None) -> Iterator[list[Tensor]]:
    """Hidden states of the layers, (images, tokens, hidden) each, for one part of the images after another."""
    config: Any = tower.config
    check_pixels(config, pixel_values)
    numbers = _known(layers, config.num_hidden_layers)
    if batch is not None and batch < 1:
        raise InputError(f"batch: expected 1 image or more, or None for all at once, got {batch}; leave it out")
    # A tower that is an Accelerate or PEFT wrapper may have no device of its own to ask for.
    device = next(tower.parameters()).device
    graph = torch.is_grad_enabled() and (trains(tower) or pixel_values.requires_grad)
    for part in pixel_values.split(batch or len(pixel_values)):
        with torch.set_grad_enabled(graph):
            out = tower(part.to(device), output_hidden_states=numbers if _BY_NUMBER else True, return_dict=True)
        yield [out.hidden_states[number] for number in numbers]


def _known(layers: list[int], count: int) -> list[int]:
    """Numbers of hidden states counted from the front; a tower of ``count`` layers has count + 1 of them."""
    if not layers:
        raise InputError("layer: expected at least one number of a layer, got none; -2 is LLaVA's")
    for number in layers:
        if not -count - 1 <= number <= count:
            raise InputError(f"layer: expected a number from {-count - 1} to {count}, got {number}; -2 is LLaVA's")
    return [number % (count + 1) for number in layers]


def _beside(states: list[Tensor]) -> Tensor:
    """Features of several layers side by side."""
    return states[0] if len(states) == 1 else torch.cat(states, dim=-1)


def _check_strategy(strategy: str) -> None:
    """Refuse a strategy that is none."""
    if strategy not in ("default", "full"):
        raise InputError(
            f"strategy: expected 'default' (without the first token) or 'full', got {strategy!r}; choose one of them"
        )
