"""Heads in other number formats than the backbone, the loss of a classifier, a warning about special tokens."""

from __future__ import annotations

import inspect
import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import BertConfig, BertForSequenceClassification

from rmt import InputError, RMTForCausalLM, RMTForQuestionAnswering, RMTForSequenceClassification
from rmt.models import heads
from rmt.models.heads import classification_loss, in_format_of
from tests.rmt.tiny import causal, classifier, content

SETTINGS = {"segment_size": 7, "num_memory_tokens": 3, "memory_update": "gated", "cls_token_id": 1, "sep_token_id": 2}
CLASSES = torch.tensor([1, 0, 2])
# Three numbers a document, as regression and several labels take them.
NUMBERS = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


def scores(model, ids):
    out = model(input_ids=ids)
    return out.logits if hasattr(out, "logits") else out.start_logits


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kit", [RMTForSequenceClassification, RMTForQuestionAnswering])
def test_a_backbone_in_half_precision_under_a_head_in_full(kit, dtype, tiny, tmp_path):
    tiny("bert").save_pretrained(tmp_path)
    model = kit.from_backbone(str(tmp_path), **SETTINGS, backbone_kwargs={"dtype": dtype})
    assert {model.backbone.dtype, next(model.cell.parameters()).dtype} == {dtype, torch.float32}
    ids = torch.randint(3, 61, (2, 20))
    got = scores(model, ids)
    # The backbone rounds to 8 (bfloat16) or 11 bits in each of its two layers, for three segments.
    torch.testing.assert_close(got.float(), scores(model.float(), ids), atol=0.05, rtol=0.05)
    model.to(dtype)
    if kit is RMTForQuestionAnswering:
        assert model.best_spans(ids[:, :5], ids[0])
        return
    asked = model(ids, question_ids=ids[:, None, :5], labels=torch.tensor([[0], [1]]))
    asked.loss.backward()
    assert model.classifier.weight.grad.isfinite().all()


@pytest.mark.parametrize("build", [causal, classifier])
def test_memory_is_filed_by_a_head_in_half_precision(build):
    model = build(memory_update="gated").eval()
    ids = content(2, 9)
    memory, labels = model(input_ids=ids).memory, torch.tensor([[1, -100, 3], [0, 2, -100]])
    wanted = model.filing_loss(memory, labels)
    got = model.to(torch.bfloat16).filing_loss(memory, labels)
    torch.testing.assert_close(got.float(), wanted, atol=0.05, rtol=0.05)  # eight bits of weights and input


def test_a_quantised_head_converts_by_itself():
    head = nn.Linear(4, 2)
    head.weight = nn.Parameter(torch.zeros(2, 4, dtype=torch.int8), requires_grad=False)
    assert in_format_of(head, torch.ones(3, 4)).dtype is torch.float32


@pytest.mark.parametrize(
    ("count", "problem_type", "labels"),
    [
        (1, None, NUMBERS[:, 0]),
        (1, None, CLASSES),
        (3, None, CLASSES),
        (3, None, CLASSES.int()),
        (3, None, NUMBERS),
        (3, "regression", NUMBERS),
        (3, "single_label_classification", CLASSES),
        (3, "multi_label_classification", NUMBERS),
    ],
)
def test_losses_are_those_of_transformers(count, problem_type, labels):
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = BertConfig(vocab_size=20, num_labels=count, problem_type=problem_type, **shape)
    ids = torch.randint(3, 20, (3, 5))
    labels_there = labels.float() if count == 1 else labels.long() if labels.dtype is torch.int else labels
    wanted = BertForSequenceClassification(config).eval()(input_ids=ids, labels=labels_there)
    torch.testing.assert_close(classification_loss(wanted.logits, labels, problem_type), wanted.loss)


def test_the_model_asks_for_its_problem_type():
    ids = content(3, 9)
    for fields, labels, loss in (
        ({"num_labels": 1}, NUMBERS[:, 0], F.mse_loss),
        ({"num_labels": 3, "problem_type": "regression"}, NUMBERS, F.mse_loss),
        ({"num_labels": 3}, NUMBERS, F.binary_cross_entropy_with_logits),
    ):
        out = classifier(**fields).eval()(input_ids=ids, labels=labels)
        torch.testing.assert_close(out.loss, loss(out.logits, labels.view_as(out.logits)))


def test_no_label_at_all_is_no_loss():
    model, ids = classifier().train(), content(2, 9)
    out = model(input_ids=ids, labels=torch.full((2,), -100))
    assert out.loss.item() == 0.0
    out.loss.backward()
    asked = model(input_ids=ids, question_ids=ids[:, None], labels=torch.full((2, 1), -100))
    assert asked.loss.item() == 0.0


def test_labels_of_questions_count_where_there_is_one():
    ids, labels = content(2, 9), torch.tensor([[4, -100], [0, 5]])
    out = classifier().eval()(input_ids=ids, question_ids=ids.view(2, 1, 9).expand(2, 2, 9), labels=labels)
    torch.testing.assert_close(out.loss, F.cross_entropy(out.logits.flatten(0, 1), labels.flatten()))


@pytest.mark.parametrize(
    ("shape", "labels", "problem_type", "message"),
    [
        ((3, 4), CLASSES[:2], None, r"expected shape \(3,\) for single_label_classification, got \(2,\)"),
        ((3, 4), CLASSES.float(), None, r"expected shape \(3, 4\) for multi_label_classification, got \(3,\)"),
        ((3, 2, 4), torch.zeros(2, 3).long(), None, r"expected shape \(3, 2\)"),
        ((3, 2, 4), torch.zeros(3, 2, 4), None, "single labels .* with question_ids, got multi_label"),
        ((3, 2, 1), torch.zeros(3, 2), None, "single labels .* with question_ids, got regression"),
        ((3, 4), CLASSES, "ranking", "expected one of regression, .*, got 'ranking'"),
    ],
)
def test_labels_that_do_not_fit(shape, labels, problem_type, message):
    with pytest.raises(InputError, match=message) as error:
        inspect.unwrap(classification_loss)(torch.zeros(shape), labels, problem_type)
    assert "\n" not in str(error.value)


def test_questions_without_a_token():
    ids = content(2, 9)
    with pytest.raises(InputError, match="at least one token in some question, got none"):
        classifier()(input_ids=ids, question_ids=ids[:, None], question_mask=torch.zeros_like(ids[:, None]))


@pytest.fixture
def warnings(caplog):
    heads.logger.warning_once.__func__.cache_clear()
    caplog.set_level(logging.WARNING, logger=heads.logger.name)
    return lambda: [r for r in caplog.records if "add_special_tokens=False" in r.getMessage()]


@pytest.mark.parametrize("kit", [RMTForSequenceClassification, RMTForQuestionAnswering])
def test_an_opening_token_in_the_text_is_warned_of_once(kit, tiny, warnings):
    model = kit.from_backbone(tiny("bert"), **SETTINGS)
    ids = torch.randint(3, 61, (2, 9))
    mask = torch.ones_like(ids)
    ids[1, 0], mask[1, 0] = 1, 0
    model(ids, mask)
    assert not warnings(), "padding may be any token"
    for _ in range(2):
        model(ids)
    assert len(warnings()) == 1


def test_no_warning_where_there_is_nothing_to_say(warnings, tiny, monkeypatch):
    ids = torch.ones(1, 4, dtype=torch.long)
    RMTForCausalLM.from_backbone(tiny("llama"), segment_size=7)(input_ids=ids)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    heads.warn_of_opening(ids, None, 1)
    assert not warnings()
