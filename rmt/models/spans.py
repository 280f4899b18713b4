"""The best answer spans of a document of any length, from start and end logits that come in pieces.

Knows nothing of models: numbers in, spans out, in constant memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rmt.errors import InputError


@dataclass(frozen=True)
class Span:
    """Tokens ``start`` to ``end`` of a document, both included, and the sum of their start and end logits."""

    start: int
    end: int
    score: float


@dataclass(frozen=True)
class SpanSearch:
    """The best spans so far, and what a span that ends later still needs: the last few start logits.

    A span (i, j) scores start[i] + end[j], 0 <= j - i < ``longest`` (as in BERT, arXiv 1810.04805, section
    4.2). The result is exact over the whole document, whatever the pieces.

    Attributes:
        longest: most tokens of an answer.
        top: spans to keep.
        read: tokens so far.
        starts: float32 (questions, at most longest - 1).
        scores, begins, ends: the best so far, (questions, at most top), best first.
    """

    longest: int
    top: int
    read: int
    starts: Float[Tensor, "questions carried"]
    scores: Float[Tensor, "questions found"]
    begins: Int[Tensor, "questions found"]
    ends: Int[Tensor, "questions found"]

    @classmethod
    def begin(cls, questions: int, longest: int, top: int, device: torch.device | str = "cpu") -> SpanSearch:
        """Nothing seen yet."""
        if longest < 1 or top < 1:
            raise InputError(f"expected max_answer_tokens and top to be 1 or more, got {longest} and {top}")
        none = torch.zeros(questions, 0, device=device)
        return cls(longest, top, 0, none, none, none.long(), none.long())

    def add(self, starts: Float[Tensor, "questions width"], ends: Float[Tensor, "questions width"]) -> SpanSearch:
        """What is known after the logits of the next ``width`` tokens."""
        device, (questions, width) = starts.device, starts.shape
        carried = self.starts.shape[1]
        known = torch.cat([self.starts, starts.float()], dim=1)
        back = torch.arange(self.longest, device=device)
        origin = torch.arange(width, device=device)[:, None] + carried - back[None]
        pairs = known[:, origin.clamp(min=0)] + ends.float()[:, :, None]
        pairs = pairs.masked_fill(origin < 0, float("-inf")).view(questions, -1)
        best, flat = pairs.topk(min(self.top, pairs.shape[1]), dim=1)
        last = self.read + flat // self.longest
        scores = torch.cat([self.scores, best], dim=1)
        begins = torch.cat([self.begins, last - flat % self.longest], dim=1)
        stops = torch.cat([self.ends, last], dim=1)
        order = scores.sort(dim=1, descending=True, stable=True).indices[:, : self.top]
        return replace(
            self,
            read=self.read + width,
            starts=known[:, max(0, known.shape[1] - self.longest + 1) :],
            scores=scores.gather(1, order),
            begins=begins.gather(1, order),
            ends=stops.gather(1, order),
        )

    def spans(self) -> list[list[Span]]:
        """The best of each question, best first; fewer than ``top`` where a short document has fewer."""
        rows = zip(self.begins.tolist(), self.ends.tolist(), self.scores.tolist(), strict=True)
        return [[Span(b, e, s) for b, e, s in zip(*row, strict=True) if s != float("-inf")] for row in rows]


def pieces(document: Any, size: int) -> Iterator[Int[Tensor, " width"]]:
    """Token ids of a document as int64 tensors of ``size``, the last shorter.

    Args:
        document: what has a length and gives token ids by slices (a token file, an array, a tensor, a list),
            or an iterator of such things, read once and never held whole.
        size: tokens of a piece.
    """
    if not isinstance(document, Iterator):
        for start in range(0, len(document), size):
            yield torch.as_tensor(document[start : start + size]).long()
        return
    held = torch.zeros(0, dtype=torch.long)
    for chunk in document:
        held = torch.cat([held, torch.as_tensor(chunk).long()])
        whole = held.shape[0] // size * size
        if whole:
            yield from held[:whole].split(size)
        held = held[whole:]
    if held.shape[0]:
        yield held
