"""Old memories kept and looked at again (RMT-R, Kuratov et al., arXiv 2402.10790, section 3): a bank of copies.

What a memory of a few tokens writes over is gone; a copy of it may not be. Every so many segments a copy of the
memory is put into a bank of constant size, and what the backbone is shown of a segment attends to the best copies.
Knows nothing of backbones, layouts or how a memory is written.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from rmt.config import RMTConfig

State = dict[str, Tensor]
SMALLEST = 1e-12  # a norm is at least this where it divides


class Retrieval(nn.Module):
    """Single-head cross-attention from memory tokens and words to copies of old memories.

    With n(x) = x normalised to mean 0 and variance 1, m the memory as the backbone is shown it, c a token of a copy
    (shown likewise) and h the hidden size:

        k = W_k n(c),  v = W_v n(c)
        m' = m + W_o sum_c softmax_c(q k / sqrt(h)) v,   q = W_q n(m)     what is shown; what is stored is m
        x' = x + U_o sum_c softmax_c(q k / sqrt(h)) v,   q = U_q n(x)     for each word embedding x

    The sums run over the tokens of the ``retrieval_top`` copies whose mean k has the largest cosine with the query:
    the mean of q over the memory tokens, or the q of that word. The choice is hard; gradient reaches W_q, W_k and U_q
    through the weights within what was chosen. W_o and U_o are zero at first: a new model is the one without.

    The first line is the paper's, over a bank of bounded size. The second is ours: the text of a question says which
    old memory matters, and memory tokens stand before it. In a decoder a query may not know the words behind it, or
    it would tell the answer (a mean over the text would); so each word asks for itself, which holds in an encoder too.

    All of it is computed in float32. Under autograd every segment keeps its bank, budget x memory x hidden numbers a
    row: constant in a segment, but more than the memory alone.
    """

    def __init__(self, config: RMTConfig) -> None:
        super().__init__()
        self.config = config
        hidden = config.hidden_size
        # Not "query" and so on: as LoRA targets these names would reach in here.
        self.memory_query = nn.Linear(hidden, hidden, bias=False)
        self.copy_key = nn.Linear(hidden, hidden, bias=False)
        self.copy_value = nn.Linear(hidden, hidden, bias=False)
        self.memory_output = nn.Linear(hidden, hidden, bias=False)
        self.text_query = nn.Linear(hidden, hidden, bias=False)
        self.text_output = nn.Linear(hidden, hidden, bias=False)

    @torch.no_grad()
    def reset_parameters(self, init: Any = nn.init) -> None:
        """Queries, keys and values keep variance 1; outputs are zero."""
        for linear in (self.memory_query, self.copy_key, self.copy_value, self.text_query):
            init.normal_(linear.weight, mean=0.0, std=linear.in_features**-0.5)
        for linear in (self.memory_output, self.text_output):
            init.constant_(linear.weight, 0.0)

    def initial(self, tokens: Float[Tensor, "batch memory hidden"]) -> State:
        """The state beside the memory before the first segment.

        Returns:
            ``bank``: copies, float32 (batch, budget, memory, hidden).
            ``bank_at``: int64 (batch, budget), 0 where there is no copy, n at the n-th that was due: the memory after
            n * retrieval_every segments of that row.
            ``bank_scores``: float32 (batch, budget), how far the memory had moved since the copy before was due.
            ``bank_drift``: float32 (batch), how far it has moved since the last.
            ``segments``: int64 (batch), segments read.
        """
        batch, budget = len(tokens), self.config.retrieval_budget
        return {
            "bank": tokens.new_zeros(batch, budget, *tokens.shape[1:]),
            "bank_at": tokens.new_zeros(batch, budget, dtype=torch.long),
            "bank_scores": tokens.new_zeros(batch, budget),
            "bank_drift": tokens.new_zeros(batch),
            "segments": tokens.new_zeros(batch, dtype=torch.long),
        }

    def forward(
        self,
        memory: Float[Tensor, "batch memory hidden"],
        text: Float[Tensor, "batch width hidden"],
        copies: Float[Tensor, "batch budget memory hidden"],
        held: Bool[Tensor, "batch budget"],
    ) -> tuple[Float[Tensor, "batch memory hidden"], Float[Tensor, "batch width hidden"]]:
        """Memory and words with what they find on top.

        Args:
            memory: as the backbone would be shown it.
            text: word embeddings, in any dtype, which the result has too.
            copies: as the backbone would be shown them.
            held: where there is a copy.
        """
        count = memory.shape[1]
        with torch.autocast(device_type=memory.device.type, enabled=False):
            own, words = apply(self.memory_query, normed(memory)), apply(self.text_query, normed(text))
            chooser = torch.cat([own.mean(dim=1, keepdim=True).expand_as(own), words], dim=1)
            found = self._find(torch.cat([own, words], dim=1), chooser, normed(copies), held)
            shown = memory + apply(self.memory_output, found[:, :count])
            return shown, (text.float() + apply(self.text_output, found[:, count:])).to(text.dtype)

    def _find(
        self,
        query: Float[Tensor, "batch queries hidden"],
        chooser: Float[Tensor, "batch queries hidden"],
        copies: Float[Tensor, "batch budget memory hidden"],
        held: Bool[Tensor, "batch budget"],
    ) -> Float[Tensor, "batch queries hidden"]:
        """Scaled dot-product attention of each query to the tokens of the best copies; zero where none is held.

        W_k is applied to the queries and W_v to the result, for q (W_k c) = (W_k^T q) c: there are fewer of these than
        tokens in a full bank, and one alone when a text is generated.

        Args:
            query: of each asker.
            chooser: what the copies are chosen by.
            copies: their tokens, normalised.
            held: where there is a copy.
        """
        with torch.no_grad():
            means = F.normalize(apply(self.copy_key, copies.mean(dim=2)), dim=-1)
            likeness = (F.normalize(chooser, dim=-1) @ means.mT).masked_fill(~held[:, None], -torch.inf)
            best = likeness.topk(self.config.retrieval_top, dim=-1).indices
            chosen = torch.zeros_like(likeness, dtype=torch.bool).scatter(-1, best, True) & held[:, None]
            chosen = chosen.repeat_interleave(copies.shape[2], dim=-1)
        tokens = copies.flatten(1, 2)
        logits = (query @ self.copy_key.weight.float()) @ tokens.mT / query.shape[-1] ** 0.5
        # Not minus infinity: with nothing held the softmax is even, and then nothing.
        weights = logits.masked_fill(~chosen, torch.finfo(logits.dtype).min).softmax(dim=-1) * chosen
        return apply(self.copy_value, weights @ tokens)

    def keep(
        self, before: State, memory: Float[Tensor, "batch memory hidden"], active: Bool[Tensor, " batch"]
    ) -> State:
        """The state beside the memory after a segment: a copy put into the bank where one is due and worth it.

        No copy is taken of a memory that has not moved since the last was due. Rows that have ended stay bit for bit.

        Args:
            before: the state before the segment, all of it.
            memory: after it.
            active: rows that it belongs to.
        """
        every, budget = self.config.retrieval_every, self.config.retrieval_budget
        segments = before["segments"] + active.long()
        drift = before["bank_drift"] + moved(before["tokens"].detach(), memory.detach())
        due = active & (segments % every == 0)
        number = segments // every
        slot, wanted = self._slot(before["bank_at"], before["bank_scores"], number, drift)
        put = (due & wanted & (drift > 0))[:, None] & (torch.arange(budget, device=slot.device) == slot[:, None])
        return {
            "bank": torch.where(put[:, :, None, None], memory[:, None], before["bank"]),
            "bank_at": torch.where(put, number[:, None], before["bank_at"]),
            "bank_scores": torch.where(put, drift[:, None], before["bank_scores"]),
            "bank_drift": torch.where(due, 0.0, drift),
            "segments": segments,
        }

    def _slot(
        self,
        at: Int[Tensor, "batch budget"],
        scores: Float[Tensor, "batch budget"],
        number: Int[Tensor, " batch"],
        drift: Float[Tensor, " batch"],
    ) -> tuple[Int[Tensor, " batch"], Bool[Tensor, " batch"]]:
        """Where copy ``number`` (from 1) would stand, an empty place if there is one, and whether it is kept.

        recent: in place of the oldest. surprise: in place of the one with the smallest score, if its own is larger.
        spread: copies 1, 1 + s, 1 + 2s, ... with s the smallest power of two for which they fit, in place of the
        oldest that is not among them: when s doubles, what is dropped stays until its place is needed.
        """
        if self.config.retrieval_keep == "surprise":
            least, slot = torch.where(at == 0, -1.0, scores).min(dim=1)
            return slot, drift > least
        if self.config.retrieval_keep == "recent":
            return at.argmin(dim=1), torch.ones_like(number, dtype=torch.bool)
        full = (number.clamp(min=1) - 1) // self.config.retrieval_budget
        stride = (2 ** bit_length(full))[:, None]
        staying = (at > 0) & ((at - 1) % stride == 0)
        slot = at.masked_fill(staying, torch.iinfo(at.dtype).max).argmin(dim=1)
        return slot, (number - 1) % stride[:, 0] == 0


def moved(
    before: Float[Tensor, "batch memory hidden"], after: Float[Tensor, "batch memory hidden"]
) -> Float[Tensor, " batch"]:
    """|after - before| / max(|before|, |after|), from 0 to 2.

    The larger norm divides, so that the first write to a memory that starts at zero is not infinitely surprising.
    """
    size = torch.maximum(before.flatten(1).norm(dim=1), after.flatten(1).norm(dim=1))
    return (after - before).flatten(1).norm(dim=1) / size.clamp(min=SMALLEST)


def bit_length(numbers: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """Binary digits of integers from 0 to 2^62, 0 of 0."""
    powers = 2 ** torch.arange(62, device=numbers.device)
    return (numbers[:, None] >= powers).sum(dim=1)


def normed(x: Float[Tensor, "*rest hidden"]) -> Float[Tensor, "*rest hidden"]:
    """To mean 0 and variance 1, in float32."""
    return F.layer_norm(x.float(), x.shape[-1:])


def apply(linear: nn.Linear, x: Float[Tensor, "*rest hidden"]) -> Float[Tensor, "*rest hidden"]:
    """A linear map in float32, whatever its weights are kept in."""
    return F.linear(x, linear.weight.float())
