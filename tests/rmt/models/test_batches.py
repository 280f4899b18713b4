"""Padding on either side, order and company: each sample's result is the one it has alone, in every family."""

from __future__ import annotations

import pytest
import torch

from rmt import RMTForCausalLM, RMTForQuestionAnswering, RMTForSequenceClassification

ENCODERS = ("bert", "roberta", "distilbert", "deberta-v2", "modernbert")
DECODERS = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gpt2", "gpt_neox")
LENGTHS = (17, 4, 7, 15)
# The recurrence repeats each float32 sum up to three times; differences stay within some 1e-6.
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def make(kind, tiny, kit=None, **changes):
    settings = {"segment_size": 7, "num_memory_tokens": 3, "memory_update": "gated"} | changes
    if kind in DECODERS:
        return RMTForCausalLM.from_backbone(tiny(kind), **settings).eval()
    special = {"cls_token_id": 0 if kind == "roberta" else 1, "sep_token_id": 2}
    return (kit or RMTForSequenceClassification).from_backbone(tiny(kind), **settings, **special).eval()


def documents() -> list[torch.Tensor]:
    return [torch.randint(3, 61, (length,)) for length in LENGTHS]


def batch(rows: list[torch.Tensor], sides: str, padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows in one batch, each padded on the side its letter names (l, r, or m for both)."""
    width = max(len(r) for r in rows) + 2
    ids = torch.full((len(rows), width), padding)
    mask = torch.zeros_like(ids)
    for number, (row, side) in enumerate(zip(rows, sides, strict=True)):
        first = {"l": width - len(row), "r": 0, "m": 1}[side]
        ids[number, first : first + len(row)] = row
        mask[number, first : first + len(row)] = 1
    return ids, mask


@pytest.mark.parametrize("kind", [*ENCODERS, *DECODERS])
@pytest.mark.parametrize("sides", ["llll", "rrrr", "lmrl"])
def test_each_as_alone(kind, sides, tiny):
    model = make(kind, tiny)
    rows = documents()
    ids, mask = batch(rows, sides, padding=5)
    with torch.no_grad():
        together = model(input_ids=ids, attention_mask=mask)
        for number, row in enumerate(rows):
            alone = model(input_ids=row[None])
            logits = together.logits[number]
            if kind in DECODERS:
                logits = logits[mask[number].bool()]
            torch.testing.assert_close(logits, alone.logits[0], **CLOSE)
            got = together.memory.tensors["tokens"][number]
            torch.testing.assert_close(got, alone.memory.tensors["tokens"][0], **CLOSE)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_order_does_not_matter(kind, tiny):
    model = make(kind, tiny)
    ids, mask = batch(documents(), "lrmr", padding=0)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        one, other = model(ids, mask), model(ids[order], mask[order])
    torch.testing.assert_close(one.logits[order], other.logits, **CLOSE)
    torch.testing.assert_close(one.memory.tensors["tokens"][order], other.memory.tensors["tokens"], **CLOSE)


def test_padding_tokens_have_no_say(tiny):
    model = make("bert", tiny)
    rows = documents()
    with torch.no_grad():
        one, other = (model(*batch(rows, "rrrr", padding=p)) for p in (0, 44))
    assert torch.equal(one.logits, other.logits)


def losses(model, ids, mask):
    """A number from everything a row gives: its logits and its memory."""
    out = model(input_ids=ids, attention_mask=mask)
    logits = out.logits[mask.bool()] if isinstance(model, RMTForCausalLM) else out.logits
    return logits.square().sum() + out.memory.tensors["tokens"].square().sum()


@pytest.mark.parametrize("kind", [*ENCODERS, *DECODERS])
def test_gradients_add_up(kind, tiny):
    model = make(kind, tiny)
    rows = documents()
    losses(model, *batch(rows, "rlmr", padding=9)).backward()
    together = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for row in rows:
        losses(model, row[None], torch.ones(1, len(row))).backward()
    assert {"cell.memory", "cell.slot_gate.weight"} <= set(together)
    for name, parameter in model.named_parameters():
        if name in together:
            # Gradients here are of order 1 to 1e3; float32 sums in another order differ in the sixth digit.
            scale = float(parameter.grad.abs().max())
            torch.testing.assert_close(together[name], parameter.grad, atol=2e-5 * max(scale, 1.0), rtol=1e-4)


@pytest.mark.parametrize("kind", ENCODERS)
def test_span_model_each_as_alone(kind, tiny):
    model = make(kind, tiny, RMTForQuestionAnswering)
    rows, asked = documents(), [torch.randint(3, 61, (length,)) for length in (3, 9, 5, 8)]
    ids, mask = batch(rows, "lmrr", padding=7)
    questions, questions_mask = batch(asked, "rlrl", padding=7)
    with torch.no_grad():
        together = model(ids, mask, question_ids=questions, question_mask=questions_mask)
        for number, (row, question) in enumerate(zip(rows, asked, strict=True)):
            alone = model(input_ids=row[None], question_ids=question[None])
            real = mask[number].bool()
            torch.testing.assert_close(together.start_logits[number][real], alone.start_logits[0], **CLOSE)
            torch.testing.assert_close(together.end_logits[number][real], alone.end_logits[0], **CLOSE)
            assert together.start_logits[number][~real].isneginf().all()
