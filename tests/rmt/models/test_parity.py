"""Without memory tokens and with one segment, every family computes what its backbone computes."""

from __future__ import annotations

import pytest
import torch

from rmt import RMTForCausalLM, RMTForQuestionAnswering, RMTForSequenceClassification

ENCODERS = ("bert", "roberta", "distilbert", "deberta-v2", "modernbert")
DECODERS = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gpt2", "gpt_neox")
OPENING = {"roberta": 0}
# float32 with hidden states of order one: two orders of the same sums differ by about 1e-6.
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(3, 61, (3, 11))


@pytest.mark.parametrize("kind", ENCODERS)
def test_encoder_equals_backbone(kind, tiny, ids):
    backbone = tiny(kind)
    model = RMTForSequenceClassification.from_backbone(
        backbone, segment_size=16, num_memory_tokens=0, cls_token_id=OPENING.get(kind, 1), sep_token_id=2
    )
    model.eval()
    closed = torch.cat([torch.full((3, 1), OPENING.get(kind, 1)), ids, torch.full((3, 1), 2)], dim=1)
    with torch.no_grad():
        plain = backbone(input_ids=closed, attention_mask=torch.ones_like(closed)).last_hidden_state
        cell = model.cell(model.core, model.segments(ids, None)[0], model.cell.initial(3))
        logits = model(input_ids=ids).logits
        head = model.classifier(plain[:, 0])
    torch.testing.assert_close(cell.hidden, plain[:, 1:-1], **CLOSE)
    torch.testing.assert_close(cell.opening, plain[:, 0], **CLOSE)
    torch.testing.assert_close(logits, head, **CLOSE)


@pytest.mark.parametrize("kind", ENCODERS)
def test_span_model_equals_backbone(kind, tiny, ids):
    backbone = tiny(kind)
    model = RMTForQuestionAnswering.from_backbone(
        backbone, segment_size=16, num_memory_tokens=0, cls_token_id=OPENING.get(kind, 1), sep_token_id=2
    ).eval()
    closed = torch.cat([torch.full((3, 1), OPENING.get(kind, 1)), ids, torch.full((3, 1), 2)], dim=1)
    with torch.no_grad():
        plain = backbone(input_ids=closed, attention_mask=torch.ones_like(closed)).last_hidden_state
        start, end = model.qa_outputs(plain[:, 1:-1]).unbind(-1)
        out = model(input_ids=ids)
    torch.testing.assert_close(out.start_logits, start, **CLOSE)
    torch.testing.assert_close(out.end_logits, end, **CLOSE)


@pytest.mark.parametrize("kind", DECODERS)
def test_decoder_equals_backbone(kind, tiny, ids):
    backbone = tiny(kind)
    model = RMTForCausalLM.from_backbone(backbone, segment_size=16, num_memory_tokens=0).eval()
    with torch.no_grad():
        plain = backbone(input_ids=ids, labels=ids)
        out = model(input_ids=ids, labels=ids, logits_to_keep=0)
    torch.testing.assert_close(out.logits, plain.logits, **CLOSE)
    torch.testing.assert_close(out.loss, plain.loss, **CLOSE)


@pytest.mark.parametrize("kind", [*ENCODERS, *DECODERS])
def test_memory_changes_the_answer(kind, tiny, ids):
    """The control of this file: with memory tokens the same input gives other numbers, in every family."""
    torch.manual_seed(1)
    backbone = tiny(kind)
    if kind in ENCODERS:
        model = RMTForSequenceClassification.from_backbone(
            backbone, segment_size=16, num_memory_tokens=3, cls_token_id=OPENING.get(kind, 1), sep_token_id=2
        )
    else:
        model = RMTForCausalLM.from_backbone(backbone, segment_size=16, num_memory_tokens=3)
    model.eval()
    with torch.no_grad():
        after = model(input_ids=torch.randint(3, 61, (3, 9))).memory
        first, second = model(input_ids=ids).logits, model(input_ids=ids, memory=after).logits
    assert (first - second).abs().max() > 1e-3
