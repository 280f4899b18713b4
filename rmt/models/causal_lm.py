"""Language modelling over a document of any length, and answers in words. Decoder backbones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from rmt.backbone import CACHE
from rmt.cache import RMTCache, advance, filled
from rmt.cells.tokens import CellOutput
from rmt.config import RMTConfig
from rmt.errors import InputError
from rmt.generation import RMTGenerationMixin
from rmt.logits import Placement, placement, put_back
from rmt.memory import Memory
from rmt.models.base import RMTPreTrainedModel, memory_tokens, refuse_unknown
from rmt.models.building import decoder_backbone, decoder_config, new_decoder, word_spread
from rmt.models.heads import in_format_of
from rmt.models.outputs import RMTCausalLMOutput
from rmt.recurrence import Emit, State
from rmt.segments import Segment, next_token_targets

IGNORE = -100


@dataclass(frozen=True)
class Pass:
    """What one reading of a batch gives: the memory, and sums that are not yet means.

    Attributes:
        state: the memory after it.
        loss: summed cross entropy in nats, None where there were no targets.
        penalty: summed gate penalty, None where there is none.
        logits: the kept ones, None where none were.
    """

    state: State
    loss: Tensor | None
    penalty: Tensor | None
    logits: Tensor | None


class RMTForCausalLM(RMTPreTrainedModel, RMTGenerationMixin):
    """A causal language model whose context is a memory of all segments before, and the open one.

    Layout of a segment: [memory | segment | memory] (RMT, arXiv 2207.06881, section 3.2). The first token of
    a segment is predicted at the last token of the one before.
    """

    layout = "decoder"
    # Tells transformers that steps cannot be taken back, which assisted decoding would need.
    _is_stateful = True

    def __init__(self, config: RMTConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__(config, backbone if backbone is not None else new_decoder(config))
        self.post_init()

    @classmethod
    def from_backbone(
        cls,
        backbone: str | PreTrainedModel,
        *,
        segment_size: int = 128,
        num_memory_tokens: int = 10,
        backbone_kwargs: dict[str, Any] | None = None,
        **config: Any,
    ) -> RMTForCausalLM:
        """A new model over pretrained weights, in eval mode; over a model, in the mode that it is in.

        Args:
            backbone: hub name, folder, or a causal language model (taken over, not copied).
            segment_size, num_memory_tokens: see :class:`rmt.RMTConfig`.
            backbone_kwargs: for ``AutoModelForCausalLM.from_pretrained``, such as ``dtype``.
            config: further fields of :class:`rmt.RMTConfig`.

        Raises:
            InputError: an unknown family, no head, or a segment beyond the backbone's positions.
        """
        model = decoder_backbone(backbone, backbone_kwargs)
        full = decoder_config(model, segment_size=segment_size, num_memory_tokens=num_memory_tokens, **config)
        built = cls(full, model)
        built.cell.reset_parameters(word_spread(model))
        if model.generation_config is not None:
            built.generation_config = model.generation_config
        return built.train(model.training)

    def get_output_embeddings(self) -> nn.Module:
        """The head of the backbone."""
        return self.backbone.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the head of the backbone."""
        self.backbone.set_output_embeddings(new_embeddings)

    def lm_logits(self, hidden: Float[Tensor, "*rest hidden"]) -> Float[Tensor, "*rest vocab"]:
        """Logits of last hidden states, capped where the backbone caps them (cap * tanh(logits / cap))."""
        logits = self.get_output_embeddings()(hidden)
        cap = getattr(self.config.backbone_config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def forward(
        self,
        input_ids: Int[Tensor, "batch seq"],
        attention_mask: Shaped[Tensor, "batch columns"] | None = None,
        labels: Int[Tensor, "batch seq"] | None = None,
        memory: Memory | None = None,
        logits_to_keep: int | Int[Tensor, " kept"] | None = None,
        question_ids: Int[Tensor, "batch questions width"] | None = None,
        question_mask: Shaped[Tensor, "batch questions width"] | None = None,
        question_targets: Int[Tensor, "batch questions width"] | None = None,
        salient: Shaped[Tensor, "batch seq *memory"] | None = None,
        memory_targets: Int[Tensor, "batch memory"] | None = None,
        segment_size: int | None = None,
        cache: RMTCache | None = None,
        past_key_values: RMTCache | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        **unknown: Any,
    ) -> RMTCausalLMOutput | tuple[Any, ...]:
        """Read, and predict each next token.

        Args:
            input_ids: document tokens without special tokens.
            attention_mask: nonzero at real tokens; padding may stand on either side. Of the shape of
                ``input_ids``, or with ``cache`` of all columns so far.
            labels: as a rule ``input_ids`` themselves (shifted inside, across segment borders); -100 is
                ignored.
            memory: what was read before; None for nothing.
            logits_to_keep: None for all logits where no ``labels`` were given and none where they were, so
                that training takes constant space; n > 0 for the last n real positions of each row,
                right-aligned in (batch, min(n, seq), vocabulary); 0 for all; a tensor for these columns. Zero
                where no real token is. With questions it applies to them, and None keeps all of theirs and
                none of the document's.
            question_ids, question_mask: several prompts to each document, answers appended in training, each
                asked of a copy of its memory.
            question_targets: -100 on the prompts and on padding, the token itself on the answers.
            salient: true at tokens worth remembering, of shape (batch, seq), or (batch, seq, memory) where it is known
                by which memory token; guides ``gate_penalty`` in training.
            memory_targets: the token that each memory token should stand for after the document, -100 for
                none: an aid that tells training where to file a fact. Memory tokens are judged by the head
                itself.
            segment_size: cut the document into segments of this many tokens instead of the configured size.
            cache, use_cache: read on with a cache, which leaves the last segment open; see :mod:`rmt.cache`.
                Without, the last segment is written into the memory however short it is.
            past_key_values: the older name of ``cache``.
            return_dict: False for a tuple.

        Returns:
            ``loss`` is the mean over tokens with a label; with both kinds of labels, the sum of the two
            means. ``logits`` of questions have shape (batch, questions, kept, vocabulary).
        """
        refuse_unknown(unknown)
        cache = past_key_values if cache is None else cache
        if cache is not None or use_cache:
            if labels is not None or question_ids is not None:
                raise InputError(
                    "use_cache: expected no labels and no questions with it, got some; pass use_cache=False"
                )
            cached = self._read_on(input_ids, attention_mask, memory, cache, logits_to_keep)
            return cached if return_dict is not False else cached.to_tuple()
        segments = self.segments(input_ids, attention_mask, segment_size)
        state = self.state_of(memory, input_ids.shape[0])
        targets = None if labels is None else next_token_targets(labels, attention_mask, IGNORE)
        silent = question_ids is not None or (labels is not None and logits_to_keep is None)
        place = None if silent else placement(input_ids, attention_mask, logits_to_keep)
        read = self._read(segments, state, targets, place, salient)
        after = self.memory_after(read.state, memory, segments)
        loss, logits = mean_loss(read.loss, targets), read.logits
        if question_ids is not None:
            asked, logits = self._ask(after, question_ids, question_mask, question_targets, logits_to_keep)
            loss = asked if loss is None else loss if asked is None else loss + asked
        if loss is not None and memory_targets is not None:
            loss = loss + self.filing_loss(after, memory_targets)
        if loss is not None and read.penalty is not None:
            loss = loss + self.config.gate_penalty * read.penalty / len(segments)
        out = RMTCausalLMOutput(loss=self.reached(loss), logits=logits, memory=after)
        return out if return_dict is not False else out.to_tuple()

    def filled(self, ids: Tensor, mask: Tensor) -> tuple[list[Segment], Segment]:
        """How tokens of open segments, and those behind them, are cut; see :func:`rmt.cache.filled`."""
        return filled(ids, mask, self.config.segment_size)

    def _read_on(
        self,
        ids: Tensor,
        mask: Tensor | None,
        memory: Memory | None,
        cache: RMTCache | None,
        keep: int | Tensor | None,
    ) -> RMTCausalLMOutput:
        if cache is None:
            cache = RMTCache.begin(self, memory, ids.shape[0])
        if not isinstance(cache, RMTCache):
            raise InputError(
                f"cache: expected an RMTCache, got {type(cache).__name__}; pass one that this model returned"
            )
        logits, cache = advance(self, ids, mask, cache, keep)
        held: dict[str, Any] = {CACHE: cache}
        return RMTCausalLMOutput(logits=logits, memory=cache.memory, **held)

    def filing_loss(self, memory: Memory, labels: Int[Tensor, "batch memory"]) -> Tensor:
        """Cross entropy of the head on each memory token that has a label, by itself and normalised."""
        tokens = memory_tokens(memory)[labels >= 0]
        if not len(tokens):
            return tokens.sum()
        tokens = in_format_of(self.get_output_embeddings(), F.layer_norm(tokens, tokens.shape[-1:]))
        logits = self.lm_logits(tokens).float()
        return F.cross_entropy(logits, labels[labels >= 0])

    def _read(
        self,
        segments: list[Segment],
        state: State,
        targets: Tensor | None,
        place: Placement | None,
        salient: Tensor | None = None,
        write_last: bool = True,
    ) -> Pass:
        """One reading. Loss and logits are made inside the step, so that a segment's logits die with it."""

        def head(segment: Segment, out: CellOutput) -> Emit:
            emit: Emit = {}
            nowhere = torch.zeros_like(segment.mask)
            kept = nowhere if place is None else segment.gather(place.columns, fill=-1) >= 0
            wanted = None if targets is None else segment.gather(targets, fill=IGNORE)
            named = nowhere if wanted is None else wanted != IGNORE
            either = kept | named
            logits = self.lm_logits(out.hidden[either])
            if place is not None:
                emit["logits"] = logits[kept[either]]
            if wanted is not None:
                emit["loss"] = F.cross_entropy(logits[named[either]].float(), wanted[named].long(), reduction="sum")
            return emit

        loss: Tensor | None = None
        penalty: Tensor | None = None
        kept: list[Tensor] = []
        counts = targets is not None
        steps = self.run_segments(
            segments, state, head, salient=salient, every_segment_counts=counts, write_last=write_last
        )
        for after, emit in steps:
            state = after
            if "loss" in emit:
                loss = emit["loss"] if loss is None else loss + emit["loss"]
            if "penalty" in emit:
                penalty = emit["penalty"] if penalty is None else penalty + emit["penalty"]
            if "logits" in emit:
                kept.append(emit["logits"])
        return Pass(state, loss, penalty, None if place is None else put_back(segments, kept, place))

    def _ask(
        self,
        memory: Memory,
        ids: Tensor,
        mask: Tensor | None,
        labels: Tensor | None,
        keep: int | Tensor | None,
    ) -> tuple[Tensor | None, Tensor]:
        batch, count, width = ids.shape
        flat, flat_mask, real, state = self.questions(memory, ids, mask)
        targets = None
        if labels is not None:
            targets = next_token_targets(labels.reshape(-1, width)[real], flat_mask, IGNORE)
        place = placement(flat, flat_mask, keep)
        read = self._read(self.segments(flat, flat_mask), state, targets, place, write_last=False)
        assert read.logits is not None
        out = read.logits.new_zeros(batch * count, *read.logits.shape[1:]).index_put((real,), read.logits)
        return mean_loss(read.loss, targets), out.view(batch, count, *out.shape[1:])


def mean_loss(total: Tensor | None, targets: Tensor | None) -> Tensor | None:
    """The summed loss over the tokens that have a target; zero where none has."""
    if total is None or targets is None:
        return None
    return total / (targets != IGNORE).sum().clamp(min=1)
