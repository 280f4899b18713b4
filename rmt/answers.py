"""Answers from a memory: a label with its probabilities from a classifier, words from a language model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from rmt.errors import InputError
from rmt.memory import Memory


@dataclass(frozen=True)
class Answer:
    """An answer.

    Attributes:
        question: what was asked.
        text: the label, or what a language model said.
        label: index of the label; None from a language model.
        probabilities: of every label, by name; empty from a language model.
    """

    question: str
    text: str
    label: int | None = None
    probabilities: dict[str, float] = field(default_factory=dict)

    @property
    def probability(self) -> float | None:
        """Of the label that was chosen."""
        return self.probabilities.get(self.text)


def answer(
    model: Any, tokenizer: PreTrainedTokenizerBase, memory: Memory, questions: list[str], **generate: Any
) -> list[Answer]:
    """Ask questions in words, each of one memory as it is, in one batch.

    A language model, which writes on behind its prompt, works on a copy of the memory for each; so does a classifier
    with memory tokens, where a copy is small. A classifier with associative memory looks at the one there is.

    Args:
        model: a classifier or a language model of :mod:`rmt.models`.
        tokenizer: the backbone's.
        memory: of one document.
        questions: in words.
        generate: for a language model, arguments of ``generate``; by default greedy, and at most 32 tokens where
            its generation configuration says nothing.

    Raises:
        InputError: no question, one without tokens, or a model that does not answer from memory alone.
    """
    if not questions:
        raise InputError("questions: expected at least one, got none; ask something")
    ids = [np.asarray(tokenizer(q, add_special_tokens=False)["input_ids"], dtype=np.int64) for q in questions]
    empty = [n + 1 for n, row in enumerate(ids) if not len(row)]
    if empty:
        raise InputError(
            f"questions: expected words that this model knows, got none of its {len(tokenizer):,} tokens in number "
            f"{empty[0]} ({questions[empty[0] - 1]!r}); ask otherwise, or leave it out"
        )
    if not generate and model.layout == "encoder":
        scores = classify(model, memory, ids)
        names = [str(model.config.id2label[n]) for n in range(scores.shape[1])]
        return [
            Answer(question, names[best], best, dict(zip(names, row, strict=True)))
            for question, row, best in zip(questions, scores.tolist(), scores.argmax(dim=1).tolist(), strict=True)
        ]
    said = continue_text(model, memory, ids, **generate)
    texts = tokenizer.batch_decode(said, skip_special_tokens=True)
    return [Answer(question, text.strip()) for question, text in zip(questions, texts, strict=True)]


def classify(model: Any, memory: Memory, questions: list[np.ndarray]) -> torch.Tensor:
    """Probabilities of every label for every question, float32 of shape (questions, labels).

    Args:
        model: with a classifier.
        memory: of one document.
        questions: token ids of each, int64.

    Raises:
        InputError: a model without a classifier, or one whose answer is not one label.
    """
    if not hasattr(model, "classifier"):
        raise InputError(
            f"ask: expected a classifier or a language model, got {type(model).__name__}; it needs the document itself"
        )
    kind = "regression" if model.config.num_labels == 1 else model.config.problem_type
    if kind not in (None, "single_label_classification"):
        raise InputError(f"ask: expected a classifier that gives one label, got {kind}; call the model for its logits")
    ids, mask = pad(questions, model.device)
    with torch.inference_mode():
        return model.ask(memory, ids[None], mask[None])[0].softmax(dim=-1)


def continue_text(model: Any, memory: Memory, prompts: list[np.ndarray], **generate: Any) -> torch.Tensor:
    """What a language model says behind each prompt, ids of shape (prompts, new tokens).

    Args:
        model: a language model.
        memory: of one document; copied for each prompt, of which there should be few where it is large.
        prompts: token ids of each, int64.
        generate: arguments of ``generate``.

    Raises:
        InputError: not a language model.
    """
    if model.layout != "decoder":
        raise InputError(f"generate: expected a language model, got {type(model).__name__}; leave these arguments out")
    ids, mask = pad(prompts, model.device, left=True)
    most = getattr(model.generation_config, "max_new_tokens", None) or 32
    arguments = {"max_new_tokens": most, "do_sample": False, **generate}
    if (several := arguments.get("num_return_sequences") or 1) > 1:
        raise InputError(f"num_return_sequences: expected one answer a question, got {several}; ask it more often")
    if arguments.get("pad_token_id") is None and getattr(model.generation_config, "pad_token_id", None) is None:
        # What ends a text also fills up behind it: id 0 is a word to many a tokenizer.
        named = arguments.get("eos_token_id", getattr(model.generation_config, "eos_token_id", None))
        first = named[0] if isinstance(named, list) else named
        arguments["pad_token_id"] = 0 if first is None else first
    out = model.generate(input_ids=ids, attention_mask=mask, memory=memory.fork(len(prompts)), **arguments)
    return getattr(out, "sequences", out)[:, ids.shape[1] :]


def pad(rows: list[np.ndarray], device: torch.device, left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ids in one tensor and its mask, both (rows, longest)."""
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        place = slice(-len(row), None) if left else slice(0, len(row))
        ids[number, place] = torch.from_numpy(row)
        mask[number, place] = 1
    return ids.to(device), mask.to(device)
