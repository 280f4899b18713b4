"""Classify a document of any length, or questions about it. Encoder backbones."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from rmt.cells.tokens import CellOutput
from rmt.config import RMTConfig
from rmt.memory import Memory
from rmt.models.base import RMTPreTrainedModel, memory_tokens, refuse_unknown
from rmt.models.building import encoder_backbone, encoder_config, new_backbone, word_spread
from rmt.models.heads import classification_loss, in_format_of, warn_of_opening
from rmt.models.outputs import RMTClassifierOutput
from rmt.recurrence import Emit, State
from rmt.segments import Segment


class RMTForSequenceClassification(RMTPreTrainedModel):
    """A label for a document, from the opening position of its last segment and the memory of all before.

    Questions: ``model(input_ids=document).memory`` once, then ``model(input_ids=question,
    memory=memory.fork(n))``. In training both go through one call with ``question_ids``.
    """

    layout = "encoder"

    def __init__(self, config: RMTConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__(config, backbone if backbone is not None else new_backbone(config))
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, int(config.num_labels or 2))
        self.post_init()

    @classmethod
    def from_backbone(
        cls,
        backbone: str | PreTrainedModel,
        *,
        segment_size: int = 128,
        num_memory_tokens: int = 10,
        num_labels: int = 2,
        backbone_kwargs: dict[str, Any] | None = None,
        **config: Any,
    ) -> RMTForSequenceClassification:
        """A new model over pretrained weights, in eval mode; over a model, in the mode that it is in.

        Args:
            backbone: hub name, folder, or a model (taken over, not copied).
            segment_size, num_memory_tokens: see :class:`rmt.RMTConfig`.
            num_labels: classes; 1 for regression, see :func:`rmt.models.heads.classification_loss`.
            backbone_kwargs: for ``AutoModel.from_pretrained``, such as ``attn_implementation`` or ``dtype``.
            config: further fields of :class:`rmt.RMTConfig`.

        Raises:
            InputError: an unknown family, no opening and closing tokens, or a segment beyond the backbone's
                positions.
        """
        name, model = encoder_backbone(backbone, backbone_kwargs)
        full = encoder_config(
            model,
            name,
            segment_size=segment_size,
            num_memory_tokens=num_memory_tokens,
            num_labels=num_labels,
            **config,
        )
        built = cls(full, model)
        built.cell.reset_parameters(word_spread(model))
        return built.train(model.training)

    def forward(
        self,
        input_ids: Int[Tensor, "batch seq"],
        attention_mask: Shaped[Tensor, "batch seq"] | None = None,
        labels: Shaped[Tensor, ...] | None = None,
        memory: Memory | None = None,
        question_ids: Int[Tensor, "batch questions width"] | None = None,
        question_mask: Shaped[Tensor, "batch questions width"] | None = None,
        salient: Shaped[Tensor, "batch seq *memory"] | None = None,
        memory_targets: Int[Tensor, "batch memory"] | None = None,
        segment_size: int | None = None,
        return_dict: bool | None = None,
        **unknown: Any,
    ) -> RMTClassifierOutput | tuple[Any, ...]:
        """Read, and classify.

        Args:
            input_ids: document tokens without special tokens.
            attention_mask: nonzero at real tokens; padding may stand on either side.
            labels: classes (batch,), or (batch, questions) with -100 where there is no question; or what
                ``problem_type`` asks for, see :func:`rmt.models.heads.classification_loss`.
            memory: what was read before; None for nothing.
            question_ids, question_mask: several questions of each document, each asked of a copy of its
                memory.
            salient: true at tokens worth remembering, of shape (batch, seq), or (batch, seq, memory) where it is known
                by which memory token; guides ``gate_penalty`` in training.
            memory_targets: the class that each memory token should stand for after the document, -100 for
                none: an aid that tells training where to file a fact. Memory tokens are judged by the
                classifier itself.
            segment_size: cut the document into segments of this many tokens instead of the configured size.
            return_dict: False for a tuple.

        Raises:
            InputError: empty rows, no question at all, or labels or a memory that do not fit.
        """
        refuse_unknown(unknown)
        segments = self.segments(input_ids, attention_mask, segment_size)
        warn_of_opening(input_ids, attention_mask, self.cell.special[0])
        state = self.state_of(memory, input_ids.shape[0])
        state, pooled, penalty = self._read(segments, state, salient)
        after = self.memory_after(state, memory, segments)
        if question_ids is None:
            logits = self._scores(pooled)
        else:
            logits = self._ask(after, question_ids, question_mask)
        loss = None
        if labels is not None:
            loss = classification_loss(logits, labels, self.config.problem_type)
            if memory_targets is not None:
                loss = loss + self.filing_loss(after, memory_targets)
            if penalty is not None:
                loss = loss + self.config.gate_penalty * penalty / len(segments)
        out = RMTClassifierOutput(loss=self.reached(loss), logits=logits, memory=after)
        return out if return_dict is not False else out.to_tuple()

    def ask(
        self,
        memory: Memory,
        question_ids: Int[Tensor, "batch questions width"],
        question_mask: Shaped[Tensor, "batch questions width"] | None = None,
    ) -> Float[Tensor, "batch questions labels"]:
        """Logits of several questions of each document, float32, without the document: its memory is enough.

        The same as a forward over each question with a fork of its document's memory. Associative memory is not
        copied where questions fit into a segment.

        Args:
            memory: of each document; left as it is.
            question_ids, question_mask: see :meth:`forward`; zero where there is no question.

        Raises:
            InputError: a memory of another model or of another number of documents, or no question at all.
        """
        self.state_of(memory, question_ids.shape[0])
        return self._ask(memory, question_ids, question_mask)

    def filing_loss(self, memory: Memory, labels: Int[Tensor, "batch memory"]) -> Tensor:
        """Cross entropy of the classifier on each memory token, by itself and normalised."""
        tokens = memory_tokens(memory)
        tokens = in_format_of(self.classifier, F.layer_norm(tokens, tokens.shape[-1:]))
        logits = self.classifier(tokens).float()
        total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")
        return total / (labels >= 0).sum().clamp(min=1)

    def _scores(self, pooled: Tensor) -> Tensor:
        scores: Tensor = self.classifier(in_format_of(self.classifier, self.dropout(pooled)))
        return scores

    def _read(
        self, segments: list[Segment], state: State, salient: Tensor | None = None, write_last: bool = True
    ) -> tuple[State, Tensor, Tensor | None]:
        def head(_: Segment, out: CellOutput) -> Emit:
            return {"opening": out.opening.clone()}  # a view would keep the whole segment's hidden states

        pooled: Tensor | None = None
        penalty: Tensor | None = None
        steps = self.run_segments(
            segments, state, head, salient=salient, every_segment_counts=False, write_last=write_last
        )
        for segment, (after, emit) in zip(segments, steps, strict=True):
            state, opening = after, emit["opening"]
            pooled = opening if pooled is None else torch.where(segment.active[:, None], opening, pooled)
            if "penalty" in emit:
                penalty = emit["penalty"] if penalty is None else penalty + emit["penalty"]
        assert pooled is not None
        return state, pooled, penalty

    def _ask(self, memory: Memory, ids: Tensor, mask: Tensor | None) -> Tensor:
        batch, count, _ = ids.shape
        flat, flat_mask, real, state = self.questions(memory, ids, mask)
        logits = ids.new_zeros(batch * count, self.classifier.out_features, dtype=torch.float32)
        _, pooled, _ = self._read(self.segments(flat, flat_mask), state, write_last=False)
        logits = logits.index_put((real,), self._scores(pooled).float())
        return logits.view(batch, count, -1)
