"""What heads of encoders share: number formats, the loss of a classifier, a look at what they are given."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils import logging

from rmt.errors import InputError

logger = logging.get_logger(__name__)

PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")


def in_format_of(head: nn.Module, hidden: Float[Tensor, "*rest hidden"]) -> Float[Tensor, "*rest hidden"]:
    """Hidden states in the number format of a head, which need not be that of backbone or memory."""
    dtype = head.weight.dtype
    # A quantised head holds integers, and converts by itself.
    return hidden.to(dtype) if isinstance(dtype, torch.dtype) and dtype.is_floating_point else hidden


def classification_loss(
    logits: Float[Tensor, "*rows labels"], labels: Shaped[Tensor, ...], problem_type: str | None = None
) -> Float[Tensor, ""]:
    """The loss of a classifier, chosen as transformers' ``BertForSequenceClassification`` chooses it.

    Args:
        logits: (batch, labels), or (batch, questions, labels).
        labels: of single labels, classes of the shape of ``logits`` less its last dimension, -100 where there is none
            (zero loss where there is none at all); else numbers of the shape of ``logits``.
        problem_type: ``regression`` (mean squared error), ``single_label_classification`` (cross entropy in nats) or
            ``multi_label_classification`` (binary cross entropy); None for regression where there is one label, single
            labels where ``labels`` are whole numbers, else several.

    Raises:
        InputError: labels of another shape, or questions with anything but single labels.
    """
    if problem_type is None:
        whole = labels.dtype in (torch.long, torch.int)
        kind = "single_label_classification" if whole else "multi_label_classification"
        problem_type = "regression" if logits.shape[-1] == 1 else kind
    if problem_type not in PROBLEM_TYPES:
        raise InputError(f"problem_type: expected one of {', '.join(PROBLEM_TYPES)}, got {problem_type!r}; change it")
    single = problem_type == "single_label_classification"
    if logits.dim() > 2 and not single:
        raise InputError(
            f"labels: expected single labels (whole numbers, one a question) with question_ids, got {problem_type}; "
            "ask one question a call, with memory="
        )
    expected = logits.shape[:-1] if single else logits.shape
    if labels.squeeze().shape != torch.Size(n for n in expected if n != 1):
        raise InputError(
            f"labels: expected shape {tuple(expected)} for {problem_type}, got {tuple(labels.shape)} of "
            f"{labels.dtype}; reshape them, or set problem_type in the configuration"
        )
    logits, labels = logits.float(), labels.reshape(expected)
    if problem_type == "regression":
        return F.mse_loss(logits, labels.float())
    if not single:
        return F.binary_cross_entropy_with_logits(logits, labels.float())
    flat = labels.flatten().long()
    total = F.cross_entropy(logits.flatten(0, -2), flat, ignore_index=-100, reduction="sum")
    return total / (flat != -100).sum().clamp(min=1)


def warn_of_opening(input_ids: Tensor, attention_mask: Tensor | None, opening: int) -> None:
    """Warn once where a row begins with the token that the encoder layout itself puts in front."""
    if torch.compiler.is_compiling():
        return
    begins = input_ids[:, 0].eq(opening)
    if attention_mask is not None:
        begins = begins & attention_mask[:, 0].bool()
    if bool(begins.any()):
        logger.warning_once(
            "input_ids begin with the special token that the model puts there itself; tokenise with "
            "add_special_tokens=False"
        )
