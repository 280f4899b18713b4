"""Answer spans in a document of any length. Encoder backbones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from rmt.cells.tokens import CellOutput
from rmt.config import RMTConfig
from rmt.errors import InputError
from rmt.memory import Memory
from rmt.models.base import RMTPreTrainedModel, refuse_unknown
from rmt.models.building import encoder_backbone, encoder_config, new_backbone, word_spread
from rmt.models.heads import in_format_of, warn_of_opening
from rmt.models.outputs import RMTQuestionAnsweringOutput
from rmt.models.spans import Span, SpanSearch, pieces
from rmt.recurrence import Emit
from rmt.segments import Segment, join


class RMTForQuestionAnswering(RMTPreTrainedModel):
    """Start and end of an answer, over all tokens of a document.

    The question is read first, into the memory; then the document, segment by segment, each token giving two
    numbers: the memory tells every segment what is asked. Nothing else is kept of a segment.
    """

    layout = "encoder"

    def __init__(self, config: RMTConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__(config, backbone if backbone is not None else new_backbone(config))
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
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
    ) -> RMTForQuestionAnswering:
        """A new model over pretrained weights, in eval mode; over a model, in the mode that it is in.

        Args:
            backbone: hub name, folder, or a model (taken over, not copied).
            segment_size, num_memory_tokens: see :class:`rmt.RMTConfig`.
            backbone_kwargs: for ``AutoModel.from_pretrained``, such as ``attn_implementation`` or ``dtype``.
            config: further fields of :class:`rmt.RMTConfig`.

        Raises:
            InputError: an unknown family, no opening and closing tokens, or a segment beyond the backbone's
                positions.
        """
        name, model = encoder_backbone(backbone, backbone_kwargs)
        full = encoder_config(model, name, segment_size=segment_size, num_memory_tokens=num_memory_tokens, **config)
        built = cls(full, model)
        built.cell.reset_parameters(word_spread(model))
        return built.train(model.training)

    def forward(
        self,
        input_ids: Int[Tensor, "batch seq"],
        attention_mask: Shaped[Tensor, "batch seq"] | None = None,
        question_ids: Int[Tensor, "batch width"] | None = None,
        question_mask: Shaped[Tensor, "batch width"] | None = None,
        start_positions: Int[Tensor, " batch"] | None = None,
        end_positions: Int[Tensor, " batch"] | None = None,
        memory: Memory | None = None,
        salient: Shaped[Tensor, "batch seq"] | None = None,
        segment_size: int | None = None,
        return_dict: bool | None = None,
        **unknown: Any,
    ) -> RMTQuestionAnsweringOutput | tuple[Any, ...]:
        """Read the question, then the document; score every token as start and as end of the answer.

        Args:
            input_ids: document tokens without special tokens.
            attention_mask: nonzero at real tokens; padding may stand on either side.
            question_ids, question_mask: one question to each document, read before it. Leave out where
                ``memory`` already holds it.
            start_positions, end_positions: columns of ``input_ids``. One outside them (an answer that was cut
                off) counts for nothing in the loss.
            memory: what was read before; None for nothing.
            salient: true at document tokens worth remembering; guides ``gate_penalty`` in training.
            segment_size: cut the document into segments of this many tokens instead of the configured size.
            return_dict: False for a tuple.

        Returns:
            Logits of shape (batch, seq), minus infinity at padding. The loss is the mean of the cross
            entropies of start and end over all real tokens of the document (BERT, arXiv 1810.04805, section
            4.2).
        """
        asked = [] if question_ids is None else self.segments(question_ids, question_mask)
        refuse_unknown(unknown)
        segments = self.segments(input_ids, attention_mask, segment_size)
        warn_of_opening(input_ids, attention_mask, self.cell.special[0])
        state = self.state_of(memory, input_ids.shape[0])
        numbers: list[Tensor] = []
        penalty: Tensor | None = None

        def head(_: Segment, out: CellOutput) -> Emit:
            return {"spans": self._scores(self.dropout(out.hidden))}

        # One recurrence over both, so that the question is within reach of exact and of truncated gradients
        # alike. The question itself is always worth remembering.
        shift = 0 if question_ids is None else question_ids.shape[1]
        behind = [replace(s, source=s.source + shift) for s in segments]
        told = torch.zeros_like(input_ids, dtype=torch.bool) if salient is None else salient.bool()
        worth = F.pad(told, (shift, 0), value=True) if asked or salient is not None else None
        steps = self.run_segments([*asked, *behind], state, head, salient=worth, every_segment_counts=True)
        for after, emit in steps:
            state = after
            numbers.append(emit["spans"])
            if "penalty" in emit:
                penalty = emit["penalty"] if penalty is None else penalty + emit["penalty"]
        both = join(segments, numbers[len(asked) :], input_ids.shape[1])
        if attention_mask is not None:
            both = both.masked_fill(~attention_mask.bool()[:, :, None], float("-inf"))
        start, end = both.unbind(dim=-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (position_loss(start, start_positions) + position_loss(end, end_positions)) / 2
            if penalty is not None:
                loss = loss + self.config.gate_penalty * penalty / (len(asked) + len(segments))
        after_all = self.memory_after(state, memory, [*asked, *segments])
        out = RMTQuestionAnsweringOutput(loss=self.reached(loss), start_logits=start, end_logits=end, memory=after_all)
        return out if return_dict is not False else out.to_tuple()

    @torch.no_grad()
    def best_spans(
        self,
        question_ids: Int[Tensor, "questions width"],
        document: Any,
        *,
        question_mask: Shaped[Tensor, "questions width"] | None = None,
        memory: Memory | None = None,
        max_answer_tokens: int = 30,
        top: int = 1,
    ) -> list[list[Span]]:
        """The best answers to each question in one document of any length, in constant memory.

        Args:
            question_ids, question_mask: questions to the same document, read side by side.
            document: token ids that can be sliced (a token file, an array, a list), or an iterator of pieces
                of them, such as ``TokenFile.iter(4096)``.
            memory: what was read before the questions, of one row or of one a question.
            max_answer_tokens: most tokens of an answer. It may cross segment borders.
            top: answers to each question.

        Returns:
            For each question its spans, best first; positions are tokens of the document. Exactly those that
            a search over all pairs of the document would give.

        Raises:
            InputError: an empty document.
        """
        count = question_ids.shape[0]
        device = self.device
        if memory is not None and memory.batch_size == 1:
            memory = memory.fork(count)
        state = self.state_of(memory, count)
        mask = None if question_mask is None else question_mask.to(device)
        for segment in self.segments(question_ids.to(device), mask):
            state = self.cell(self.core, segment, state).state
        search = SpanSearch.begin(count, max_answer_tokens, top, device)
        for piece in pieces(document, self.config.segment_size):
            ids = piece.to(device).expand(count, -1)
            out = self.cell(self.core, self.segments(ids, None)[0], state)
            state = out.state
            start, end = self._scores(out.hidden).unbind(dim=-1)
            search = search.add(start, end)
        if not search.read:
            raise InputError("document: expected at least one token, got none; give a document with text")
        return search.spans()

    def _scores(self, hidden: Tensor) -> Tensor:
        scores: Tensor = self.qa_outputs(in_format_of(self.qa_outputs, hidden))
        return scores.float()


def position_loss(logits: Float[Tensor, "batch seq"], positions: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Mean cross entropy in nats over rows whose position is a column; zero where there is none.

    Raises:
        InputError: a position at padding.
    """
    inside = (positions >= 0) & (positions < logits.shape[1])
    logits, positions = logits[inside], positions[inside].long()
    chosen = logits.gather(1, positions[:, None])
    if bool(chosen.isneginf().any()):
        rows = inside.nonzero().flatten()[chosen.isneginf().flatten()].tolist()
        raise InputError(
            f"positions: expected columns of real tokens, got padding in rows {rows}; count the padding in front"
        )
    return F.cross_entropy(logits, positions, reduction="sum") / max(1, int(inside.sum()))
