"""Losses that teach an image tower and a text tower one space: CLIP's and SigLIP's, given both sides' embeddings.

Both are functions of embeddings and of a temperature; the parameters of :class:`Scale` are the caller's to train. Pairs
that say the same may be named: in a small world two images of a batch often have one caption, and the published losses
would push such an image from a caption that is right for it. Knows nothing of towers or of data.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from rmt.errors import InputError

# CLIP does not let logits be scaled by more.
MOST = 100.0


class Scale(nn.Module):
    """What similarities are multiplied with, and for SigLIP what is added: learned, one number each.

    Args:
        kind: ``clip``: exp(log_scale) starts at 1 / 0.07 (arXiv 2103.00020, section 2.5), there is no bias; ``siglip``:
            at 10 with a bias of -10 (arXiv 2303.15343, algorithm 1).

    Raises:
        InputError: another kind.
    """

    def __init__(self, kind: str = "clip") -> None:
        super().__init__()
        if kind not in ("clip", "siglip"):
            raise InputError(f"kind: expected 'clip' or 'siglip', got {kind!r}; choose one of them")
        self.kind = kind
        self.log_scale = nn.Parameter(torch.empty(()))
        self.bias = nn.Parameter(torch.empty(())) if kind == "siglip" else None
        self.reset_parameters()

    def reset_parameters(self, init: Any = nn.init) -> None:
        """The papers' starts."""
        init.constant_(self.log_scale, math.log(10.0 if self.kind == "siglip" else 1 / 0.07))
        if self.bias is not None:
            init.constant_(self.bias, -10.0)

    @torch.no_grad()
    def clip_(self) -> None:
        """Bring CLIP's scale back to 100 after a step that left it higher, so that it can still learn to be less."""
        if self.kind == "clip":
            self.log_scale.clamp_(max=math.log(MOST))

    def forward(
        self,
        images: Float[Tensor, "batch space"],
        texts: Float[Tensor, "batch space"],
        same: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss of its kind, see :func:`clip_loss` and :func:`siglip_loss`."""
        if self.bias is None:
            return clip_loss(images, texts, self.log_scale, same)
        return siglip_loss(images, texts, self.log_scale, self.bias, same)


def clip_loss(
    images: Float[Tensor, "batch space"],
    texts: Float[Tensor, "batch space"],
    log_scale: Float[Tensor, ""],
    same: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """CLIP's symmetric cross-entropy (arXiv 2103.00020, figure 3), in float32.

    logits = min(exp(log_scale), 100) · x yᵀ with rows x, y of length 1; the loss is the mean of two cross-entropies, of
    the right text for each image and of the right image for each text. Above 100 the scale has no gradient: call
    :meth:`Scale.clip_` after each step.

    Args:
        images, texts: pairs, of any length but zero.
        log_scale: natural logarithm of the scale.
        same: a number for each pair; those of pairs that say the same are equal. Then all that say the same are right,
            equally so. None: no two do.

    Raises:
        InputError: no pair.
    """
    logits = log_scale.float().clamp(max=math.log(MOST)).exp() * _similarities(images, texts)
    right = _pairs(len(logits), same, logits.device).float()
    right = right / right.sum(dim=1, keepdim=True)  # symmetric, so it is also each text's
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


def siglip_loss(
    images: Float[Tensor, "batch space"],
    texts: Float[Tensor, "batch space"],
    log_scale: Float[Tensor, ""],
    bias: Float[Tensor, ""],
    same: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """SigLIP's sigmoid loss (arXiv 2303.15343, equation 1 as its algorithm 1 has it), in float32.

    -1/|B| Σᵢ Σⱼ log σ(zᵢⱼ (t xᵢ·yⱼ + b)), with t = exp(log_scale), z = 1 for pairs and -1 elsewhere. (Equation 1
    writes the bias with the other sign than algorithm 1, which starts it at -10 and is what was trained.)

    Args:
        images, texts, log_scale, same: see :func:`clip_loss`; the scale is not bounded.
        bias: b.

    Raises:
        InputError: no pair.
    """
    logits = log_scale.float().exp() * _similarities(images, texts) + bias.float()
    right = _pairs(len(logits), same, logits.device)
    return -F.logsigmoid(torch.where(right, logits, -logits)).sum() / len(logits)


def _similarities(images: Tensor, texts: Tensor) -> Tensor:
    """Cosines of all images (rows) with all texts, in float32 under autocast too."""
    if not len(images):
        raise InputError("expected at least one image with its text, got none; leave out batches without images")
    with torch.autocast(images.device.type, enabled=False):
        return F.normalize(images.float(), dim=-1) @ F.normalize(texts.float(), dim=-1).T


def _pairs(count: int, same: Tensor | None, device: torch.device) -> Tensor:
    """Which texts are right for which images, (batch, batch)."""
    numbers = torch.arange(count, device=device) if same is None else same.to(device)
    return numbers[:, None] == numbers[None, :]
