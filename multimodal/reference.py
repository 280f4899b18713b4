"""The slow, plainly right twin of :class:`multimodal.LlavaRMT`: one document, one segment at a time, lists and loops.

A document is a list of pieces: a token id, the pixels of an image (channels, height, width), or a tuple of such that
is not to be cut, as an image with its label. Shares no code with :mod:`multimodal.splice`, :mod:`multimodal.llava` or
:mod:`rmt.cells`; a segment with its memory is :mod:`rmt.reference`'s. Gradients flow, unlike there. Formulas: Liu et
al., arXiv 2310.03744, section 3 (features of patches through two layers in place of words); Bulatov et al., arXiv
2207.06881, section 3 (memory).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rmt import reference, reference_associative

Piece = int | Tensor | tuple[int | Tensor, ...]


@dataclass(frozen=True)
class Read:
    """What reading a document gives.

    Attributes:
        logits: for the token behind each token of the document, those of images counted.
        words: which tokens are words; their ids, -100 at images.
        memory: as of :func:`rmt.reference.read`.
        segments: tokens of each.
    """

    logits: Float[Tensor, "length vocabulary"]
    words: list[int]
    memory: Any
    segments: list[int]


def read(model: Any, pieces: Sequence[Piece], memory: Any = None, depth: int | None = None) -> Read:
    """Read a document.

    Args:
        model: a :class:`multimodal.LlavaRMT` in float32 and evaluation mode.
        pieces: the document.
        memory: what was read before; None for nothing.
        depth: segments that gradients pass through, counted from the end; None for all.
    """
    segments = _segments(model, pieces)
    state = _begin(model) if memory is None else memory
    logits, words = [], []
    for number, segment in enumerate(segments):
        if depth is not None and number > 0 and (len(segments) - number) % depth == 0:
            state = _cut(state)
        hidden, state = _one_segment(model, [vector for vector, _ in segment], state)
        logits += [model.backbone.lm_head(h) for h in hidden]
        words += [word for _, word in segment]
    return Read(torch.stack(logits), words, state, [len(segment) for segment in segments])


def loss(model: Any, pieces: Sequence[Piece], memory: Any = None, depth: int | None = None) -> Float[Tensor, ""]:
    """Mean cross entropy of each word behind another token; images are not predicted. Arguments as of :func:`read`."""
    out = read(model, pieces, memory, depth)
    costs = [
        torch.logsumexp(logits, dim=0) - logits[word]
        for logits, word in zip(out.logits, out.words[1:], strict=False)
        if word >= 0
    ]
    return torch.stack(costs).mean()


def image(model: Any, pixels: Float[Tensor, "channels height width"]) -> list[Tensor]:
    """The vectors that stand for an image, each of shape (hidden,)."""
    config, inner = model.config.llava_config, model.backbone.model
    states = inner.vision_tower(pixels[None], output_hidden_states=True).hidden_states
    chosen = config.vision_feature_layer
    layers = [chosen] if isinstance(chosen, int) else chosen
    patches = []
    for position in range(states[0].shape[1]):
        if position == 0 and config.vision_feature_select_strategy == "default":
            continue  # [CLS]
        patches.append(torch.cat([states[layer][0, position] for layer in layers]))
    return list(inner.multi_modal_projector(torch.stack(patches)[None])[0])


def _segments(model: Any, pieces: Sequence[Piece]) -> list[list[tuple[Tensor, int]]]:
    """Vectors with their words: a piece goes whole to the segment that is open, or where it does not fit to a new one.

    Raises:
        ValueError: a piece larger than a segment.
    """
    size = model.config.segment_size
    segments: list[list[tuple[Tensor, int]]] = [[]]
    for piece in pieces:
        whole: list[tuple[Tensor, int]] = []
        for part in piece if isinstance(piece, tuple) else (piece,):
            if isinstance(part, Tensor):
                whole += [(vector, -100) for vector in image(model, part)]
            else:
                embed = model.backbone.get_input_embeddings()
                whole.append((embed(torch.tensor([part]))[0], part))
        if len(whole) > size:
            raise ValueError(f"reference: expected pieces of at most {size} tokens, got {len(whole)}; cut them")
        if len(segments[-1]) + len(whole) > size:
            segments.append([])
        segments[-1] += whole
    return segments


def _begin(model: Any) -> Any:
    if model.config.memory == "associative":
        return reference_associative.empty(model)
    gated = model.config.memory_update == "gated" and model.config.num_memory_tokens > 0
    return torch.zeros_like(model.cell.memory) if gated else model.cell.memory


def _one_segment(model: Any, words: list[Tensor], state: Any) -> tuple[Tensor, Any]:
    _, hidden, after, _ = reference.one_segment(model, words, state, reference.Bank())
    return hidden, after


def _cut(state: Any) -> Any:
    if isinstance(state, dict):
        return {name: tensor.detach() for name, tensor in state.items()}
    return state.detach()
