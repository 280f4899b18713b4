"""Features of images for an adapter: several layers of a vision tower side by side, and their projection.

LLaMA-Adapter (arXiv 2303.16199, section 3.3) takes global features of several scales, I_p = Projection(Concat({I_m})),
one vector an image; LLaMA-Adapter V2 (arXiv 2304.15010, section 4.3) takes visual tokens. Knows nothing of prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rmt.errors import InputError

# Towers whose first position is a class token.
WITH_CLASS_TOKEN = ("clip_vision_model",)
TOWERS = (*WITH_CLASS_TOKEN, "siglip_vision_model")
PART = 16  # images that a tower sees at once: the outputs of all its layers lie in memory until some are chosen


class PictureProjection(nn.Module):
    """A linear layer and a norm: features of images into a backbone's width, as large there as prompts are.

    Args:
        features: of an image, or of each of its tokens.
        hidden: width of the backbone.
    """

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, hidden)
        self.norm = nn.LayerNorm(hidden)

    def forward(self, features: Float[Tensor, "images tokens features"]) -> Float[Tensor, "images tokens hidden"]:
        """Prompts of images."""
        out: Tensor = self.norm(self.linear(features.to(self.linear.weight.dtype)))
        return out

    @torch.no_grad()
    def reset_parameters(self, init: Any = nn.init) -> None:
        """A fresh linear map."""
        init.normal_(self.linear.weight, mean=0.0, std=self.linear.in_features**-0.5)
        init.constant_(self.linear.bias, 0.0)
        init.constant_(self.norm.weight, 1.0)
        init.constant_(self.norm.bias, 0.0)


def check_layers(config: Any, layers: Sequence[int]) -> None:
    """Refuse a tower that is not known, or layers that it does not have.

    Raises:
        InputError: with what there is.
    """
    kind = getattr(config, "model_type", "")
    if kind not in TOWERS:
        raise InputError(f"vision: expected a tower among {', '.join(TOWERS)}, got {kind!r}; take CLIP's or SigLIP's")
    depth = config.num_hidden_layers
    if not layers or not all(-depth <= layer <= -1 for layer in layers):
        raise InputError(f"vision_layers: expected numbers from {-depth} to -1 (the last), got {layers}; change them")


def image_features(
    vision: nn.Module,
    pixel_values: Float[Tensor, "images channels height width"],
    layers: Sequence[int],
    *,
    whole: bool,
) -> Float[Tensor, "images tokens features"]:
    """Outputs of several layers of a tower, side by side in the last dimension.

    Args:
        vision: ``CLIPVisionModel`` or ``SiglipVisionModel``.
        pixel_values: as its processor gives them.
        layers: -1 for the last.
        whole: one token for each image, its class token or where there is none the mean of its patches; False for the
            patches, without the class token.
    """
    return torch.cat([_features(vision, part, layers, whole) for part in pixel_values.split(PART)])


def _features(vision: Any, pixel_values: Tensor, layers: Sequence[int], whole: bool) -> Tensor:
    states = vision(pixel_values=pixel_values, output_hidden_states=True).hidden_states
    first = int(vision.config.model_type in WITH_CLASS_TOKEN)
    if whole and not first:
        return torch.cat([states[layer].mean(dim=1, keepdim=True) for layer in layers], dim=-1)
    # Chosen before they are put together: of what is put together nothing is left out, and nothing kept for a part.
    wanted = slice(1) if whole else slice(first, None)
    return torch.cat([states[layer][:, wanted] for layer in layers], dim=-1)
