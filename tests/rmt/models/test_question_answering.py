"""Spans over the whole document: two numbers a token, the loss, the streamed search."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from rmt import InputError, RMTForQuestionAnswering

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture
def model(tiny):
    special = {"cls_token_id": 1, "sep_token_id": 2}
    settings = {"segment_size": 7, "num_memory_tokens": 3, "memory_update": "gated"}
    model = RMTForQuestionAnswering.from_backbone(tiny("bert"), **settings, **special).eval()
    with torch.no_grad():
        model.qa_outputs.weight.normal_()
    return model


@pytest.fixture
def asked():
    ids, questions = torch.randint(3, 61, (3, 20)), torch.randint(3, 61, (3, 9))
    mask = torch.ones_like(ids)
    mask[1, :6], mask[2, 12:] = 0, 0
    return {"input_ids": ids, "attention_mask": mask, "question_ids": questions}


def test_question_is_read_first(model, asked):
    out = model(**asked)
    after_question = model(input_ids=asked["question_ids"]).memory
    same = model(asked["input_ids"], asked["attention_mask"], memory=after_question)
    torch.testing.assert_close(out.start_logits, same.start_logits, **CLOSE)
    other = model(**asked | {"question_ids": asked["question_ids"].flip(1)})
    real = asked["attention_mask"].bool()
    assert (out.start_logits[real] - other.start_logits[real]).abs().max() > 1e-3


def test_loss(model, asked):
    start, end = torch.tensor([3, 6, 0]), torch.tensor([15, 9, 11])
    out = model(**asked, start_positions=start, end_positions=end)
    wanted = (F.cross_entropy(out.start_logits, start) + F.cross_entropy(out.end_logits, end)) / 2
    torch.testing.assert_close(out.loss, wanted)
    out.loss.backward()
    assert model.qa_outputs.weight.grad.isfinite().all()
    assert model.cell.memory.grad.abs().max() > 0


def test_positions_outside_count_for_nothing(model, asked):
    start, end = torch.tensor([3, 20, -1]), torch.tensor([15, 99, -100])
    got = model(**asked, start_positions=start, end_positions=end).loss
    first = {name: t[:1] for name, t in asked.items()}
    torch.testing.assert_close(got, model(**first, start_positions=start[:1], end_positions=end[:1]).loss, **CLOSE)
    none = model(**asked, start_positions=torch.full((3,), 20), end_positions=torch.full((3,), 20)).loss
    assert none.item() == 0.0


def test_position_at_padding(model, asked):
    with pytest.raises(InputError, match=r"got padding in rows \[1\]"):
        model(**asked, start_positions=torch.tensor([0, 2, 0]), end_positions=torch.tensor([0, 7, 0]))


def test_checkpointed_equals_plain(model, asked):
    model.train()
    model.config.gate_penalty = 0.01
    positions = {"start_positions": torch.tensor([3, 6, 0]), "end_positions": torch.tensor([15, 9, 11])}
    grads = []
    for recurrence in ("plain", "checkpointed"):
        model.config.recurrence = recurrence
        model.zero_grad()
        model(**asked, **positions, salient=asked["input_ids"] > 50).loss.backward()
        grads.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, atol=1e-6, rtol=1e-5)


def test_only_quiet_document_segments_are_penalised(model, asked):
    """The question is worth writing down; so is a segment with a salient token."""
    model.train()
    model.config.gate_penalty = 1.0
    positions = {"start_positions": torch.tensor([3, 6, 0]), "end_positions": torch.tensor([15, 9, 11])}
    every = torch.ones_like(asked["input_ids"])
    with torch.no_grad():
        wanted = model.eval()(**asked, **positions).loss
        model.train()
        silent = model(**asked, **positions, salient=every).loss
        penalised = model(**asked, **positions).loss
    torch.testing.assert_close(silent, wanted, **CLOSE)
    assert penalised > wanted + 0.1


@pytest.mark.parametrize("longest", [1, 5, 12])
def test_best_spans_equal_all_pairs(model, longest):
    document, questions = torch.randint(3, 61, (23,)), torch.randint(3, 61, (2, 9))
    mask = torch.ones_like(questions)
    mask[1, 5:] = 0
    out = model(document.expand(2, -1), question_ids=questions, question_mask=mask)
    length = len(document)
    for row, found in enumerate(
        model.best_spans(questions, document, question_mask=mask, max_answer_tokens=longest, top=3)
    ):
        pairs = out.start_logits[row][:, None] + out.end_logits[row][None]
        allowed = torch.ones(length, length).triu().tril(longest - 1).bool()
        best = pairs.masked_fill(~allowed, float("-inf")).flatten().topk(3)
        assert [(s.start, s.end) for s in found] == [(int(i) // length, int(i) % length) for i in best.indices]
        torch.testing.assert_close(torch.tensor([s.score for s in found]), best.values, **CLOSE)


def test_best_spans_of_a_stream(model):
    document, question = torch.randint(3, 61, (23,)), torch.randint(3, 61, (1, 4))
    wanted = model.best_spans(question, document, top=2)
    assert model.best_spans(question, iter(document.split([5, 1, 11, 6])), top=2) == wanted
    assert model.best_spans(question, document.numpy(), memory=model.initial_memory(1), top=2) == wanted


def test_best_spans_of_nothing(model):
    with pytest.raises(InputError, match="at least one token, got none"):
        model.best_spans(torch.tensor([[5]]), iter([]))
