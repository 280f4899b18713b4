"""From features of image patches to embeddings that a language model reads, by four kinds of projector.

======================  ===========================================================  ======================
kind                    what it is                                                   embeddings of an image
======================  ===========================================================  ======================
``linear``              one linear layer: LLaVA (arXiv 2304.08485, equation 1)       one a patch
``mlp``                 two layers and a GELU: LLaVA-1.5 (arXiv 2310.03744, 3.3);    one a patch
                        transformers' own module
``pooled``              means over squares of k x k patches, then the two layers     a k²-th of the patches
``resampler``           learned queries that attend to the patches: the Perceiver    as many as queries
                        Resampler of Flamingo (arXiv 2204.14198, figure 5)
======================  ===========================================================  ======================

``mlp`` and ``pooled`` have the same weights by the same names, so a published LLaVA-1.5 checkpoint fits either. Each
maps (images, patches, vision) to (images, tokens, hidden), in the dtype of its weights or under autocast, and stands in
the place of ``LlavaModel.multi_modal_projector``. Knows nothing of towers, tokens or segments.
"""

from __future__ import annotations

from math import isqrt
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlavaConfig
from transformers.activations import ACT2FN
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from multimodal.encoders import patches_of
from rmt.errors import InputError

KINDS = ("mlp", "linear", "pooled", "resampler")


def build(config: Any) -> nn.Module:
    """The projector that a model's configuration asks for, freshly initialised at the scale of word embeddings.

    Args:
        config: has ``projector``, a name of KINDS; ``llava_config``; and where the kind asks for them
            ``projector_pool``, patches a side of what is made one, ``projector_pad``, whether the last square of a
            row may have fewer, and ``projector_queries``.

    Raises:
        InputError: an unknown kind, or a pool or queries that do not fit the tower.
    """
    pool, queries = getattr(config, "projector_pool", 2), getattr(config, "projector_queries", 64)
    pad = getattr(config, "projector_pad", False)
    return new_projector(config.projector, config.llava_config, pool=pool, queries=queries, pad=pad)


def new_projector(
    kind: str, llava_config: LlavaConfig, *, pool: int = 2, queries: int = 64, pad: bool = False
) -> nn.Module:
    """A projector by name; arguments as :func:`build` finds them.

    Raises:
        InputError: as :func:`build`.
    """
    vision: Any = llava_config.vision_config
    patches = patches_of(vision, llava_config.vision_feature_select_strategy)
    tokens_per_image(kind, patches, pool, queries, pad=pad)
    makers = {
        "mlp": lambda: LlavaMultiModalProjector(llava_config),
        "linear": lambda: Linear(llava_config),
        "pooled": lambda: Pooled(llava_config, pool, pad=pad),
        "resampler": lambda: Resampler(llava_config, queries),
    }
    made: nn.Module = makers[kind]()
    initialise(made, getattr(llava_config.text_config, "initializer_range", 0.02))
    return made


def tokens_per_image(kind: str, patches: int, pool: int = 2, queries: int = 64, *, pad: bool = False) -> int:
    """Embeddings that an image becomes.

    Args:
        kind: of KINDS.
        patches: rows of features of an image, see :func:`multimodal.encoders.patches_of`.
        pool, queries, pad: see :func:`build`.

    Raises:
        InputError: an unknown kind, fewer than one query, or a pool that does not divide the grid without ``pad``.
    """
    if kind not in KINDS:
        raise InputError(f"projector: expected one of {', '.join(KINDS)}, got {kind!r}; choose one of them")
    if kind == "resampler":
        if queries < 1:
            raise InputError(f"projector_queries: expected 1 or more, got {queries}; 64 is Flamingo's")
        return queries
    if kind == "pooled":
        side = _side(patches)
        if not 1 <= pool <= side or (side % pool and not pad):
            fits = [k for k in range(2, side + 1) if side % k == 0]
            raise InputError(
                f"projector_pool: expected a divisor of the grid's side of {side} patches, got {pool}; "
                f"take one of {fits}, or set projector_pad for smaller squares at two edges"
            )
        return (-(-side // pool)) ** 2
    return patches


def initialise(projector: nn.Module, std: float, init: Any = nn.init) -> None:
    """Start a projector so that features of size 1 come out at the size of word embeddings.

    Args:
        projector: of this module, or transformers' own.
        std: of word embeddings.
        init: has ``normal_``, ``zeros_`` and ``ones_``; transformers' own passes over what a checkpoint brought.
    """
    if isinstance(projector, LlavaMultiModalProjector):
        _start_mlp(projector, std, init)
    else:
        projector.reset_parameters(std, init)  # type: ignore[operator]


class Linear(nn.Module):
    """H = W Z (arXiv 2304.08485, equation 1), with a bias where the configuration says so."""

    def __init__(self, config: LlavaConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(_width(config), _hidden(config), bias=config.multimodal_projector_bias)

    def reset_parameters(self, std: float = 0.02, init: Any = nn.init) -> None:
        """See :func:`initialise`."""
        _start(self.linear, std, init)

    def forward(self, features: Float[Tensor, "images patches vision"]) -> Float[Tensor, "images tokens hidden"]:
        """One embedding a patch."""
        return self.linear(features)


class Pooled(nn.Module):
    """Means over squares of patches, then LLaVA-1.5's two layers.

    Args:
        pool: patches along a side of a square.
        pad: whether the last squares of a row and a column may have fewer patches, where the grid's side is no
            multiple of ``pool``; their mean is over the patches they have.
    """

    def __init__(self, config: LlavaConfig, pool: int, *, pad: bool = False) -> None:
        super().__init__()
        self.pool, self.pad = pool, pad
        hidden, bias = _hidden(config), config.multimodal_projector_bias
        self.linear_1 = nn.Linear(_width(config), hidden, bias=bias)
        self.act = ACT2FN[config.projector_hidden_act]
        self.linear_2 = nn.Linear(hidden, hidden, bias=bias)

    def reset_parameters(self, std: float = 0.02, init: Any = nn.init) -> None:
        """See :func:`initialise`."""
        _start_mlp(self, std, init)

    def forward(self, features: Float[Tensor, "images patches vision"]) -> Float[Tensor, "images tokens hidden"]:
        """One embedding a square, row by row.

        Raises:
            InputError: patches that form no square grid, or one that ``pool`` does not divide.
        """
        tokens_per_image("pooled", features.shape[1], self.pool, pad=self.pad)
        grid = features.transpose(1, 2).unflatten(2, (_side(features.shape[1]), -1))
        means = F.avg_pool2d(grid, self.pool, ceil_mode=self.pad, count_include_pad=False)
        return self.linear_2(self.act(self.linear_1(means.flatten(2).transpose(1, 2))))


class Resampler(nn.Module):
    """A fixed number of embeddings out of any number of patches (arXiv 2204.14198, appendix A.1.1, figure 5).

    x starts as the queries and has the tower's width; for each block x ← x + attention(q = x, kv = [features, x]), then
    x ← x + mlp(x), with a norm in front of each. A last norm and a linear layer lead to the language model's width.
    Flamingo's embeddings of time are left out: there is one image, and where patches are, the tower has said.

    Args:
        queries: embeddings of an image, 64 in the paper.
        depth: blocks.
    """

    def __init__(self, config: LlavaConfig, queries: int, *, depth: int = 2) -> None:
        super().__init__()
        width = _width(config)
        # A table, so that a model which initialises its parts by their kind knows what this is.
        self.queries = nn.Embedding(queries, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, _hidden(config), bias=config.multimodal_projector_bias)

    def reset_parameters(self, std: float = 0.02, init: Any = nn.init) -> None:
        """See :func:`initialise`. Queries start small, as the Perceiver's (arXiv 2103.03206, appendix)."""
        init.normal_(self.queries.weight, mean=0.0, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                init.ones_(module.weight)
                init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                _start(module, 1.0, init)
        _start(self.output, std, init)

    def forward(self, features: Float[Tensor, "images patches vision"]) -> Float[Tensor, "images tokens hidden"]:
        """One embedding a query."""
        x = self.queries.weight.expand(len(features), -1, -1)
        for block in self.blocks:
            x = block(x, features)
        return self.output(self.norm(x))


class _Block(nn.Module):
    """One round of a resampler: heads of 64 channels, an MLP four times as wide, no biases but the norms'."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = next(n for n in range(max(1, width // 64), 0, -1) if width % n == 0)
        self.query_norm, self.feature_norm, self.mlp_norm = (nn.LayerNorm(width) for _ in range(3))
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.mlp_in, self.mlp_out = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(
        self, x: Float[Tensor, "images queries width"], features: Float[Tensor, "images patches width"]
    ) -> Float[Tensor, "images queries width"]:
        """See :class:`Resampler`."""
        asking = self.query_norm(x)
        seen = torch.cat([self.feature_norm(features), asking], dim=1)
        q, k, v = (
            projected.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for projected in (self.query(asking), self.key(seen), self.value(seen))
        )
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x))))


def _width(config: LlavaConfig) -> int:
    """Of features: the tower's for each of its layers that are put side by side."""
    vision: Any = config.vision_config
    layer = config.vision_feature_layer
    return int(vision.hidden_size) * (1 if isinstance(layer, int) else len(layer))


def _hidden(config: LlavaConfig) -> int:
    """Of embeddings: the language model's."""
    text: Any = config.text_config
    return int(text.hidden_size)


def _side(patches: int) -> int:
    """Of the square grid that patches form."""
    if (side := isqrt(patches)) ** 2 != patches:
        raise InputError(
            f"expected patches that form a square grid, got {patches} of them; set vision_feature_select_strategy to "
            "'default' for a tower with a class token (CLIP), to 'full' for one without (SigLIP)"
        )
    return side


# Mean square of gelu(x) where x is normal: what two layers lose of an input's size between them.
GELU_POWER = 0.425


def _start(linear: nn.Linear, std: float, init: Any, power: float = 1.0) -> None:
    """Outputs of size ``std`` for inputs of mean square ``power``; no bias."""
    init.normal_(linear.weight, mean=0.0, std=std / (linear.in_features * power) ** 0.5)
    if linear.bias is not None:
        init.zeros_(linear.bias)


def _start_mlp(mlp: Any, std: float, init: Any) -> None:
    """Of ``mlp`` and ``pooled``, which have the same parts."""
    _start(mlp.linear_1, 1.0, init)
    _start(mlp.linear_2, std, init, GELU_POWER)
