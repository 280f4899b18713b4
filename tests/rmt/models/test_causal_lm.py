"""Loss across borders, kept logits, questions, recomputation: the decoder model."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from rmt import InputError, RMTForCausalLM

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture
def model(tiny):
    settings = {"segment_size": 7, "num_memory_tokens": 3, "memory_update": "gated"}
    return RMTForCausalLM.from_backbone(tiny("llama"), **settings).eval()


@pytest.fixture
def ragged():
    ids = torch.randint(3, 61, (3, 20))
    mask = torch.ones_like(ids)
    mask[1, :6], mask[2, 9:] = 0, 0
    return ids, mask


def naive_loss(model, rows):
    """Mean over all rows of the cross entropy of each token but the first, from logits of the whole row."""
    terms = []
    for ids, labels in rows:
        logits = model(input_ids=ids[None]).logits[0, :-1]
        named = labels[1:] >= 0
        terms.append(F.cross_entropy(logits[named], labels[1:][named], reduction="none"))
    return torch.cat(terms).mean()


def test_loss_crosses_borders(model, ragged):
    ids, mask = ragged
    labels = ids.clone()
    labels[0, 3:12] = -100
    got = model(ids, mask, labels=labels).loss
    rows = [(i[m.bool()], x[m.bool()]) for i, x, m in zip(ids, labels, mask, strict=True)]
    torch.testing.assert_close(got, naive_loss(model, rows), **CLOSE)


def test_loss_of_nothing_is_zero(model, ragged):
    out = model(*ragged, labels=torch.full_like(ragged[0], -100))
    assert out.loss.item() == 0.0
    out.loss.backward()


@pytest.mark.parametrize("depth", [None, 2])
def test_checkpointed_equals_plain(model, ragged, depth):
    model.train()
    model.config.bptt_depth, model.config.gate_penalty = depth, 0.01
    grads, losses = [], []
    for recurrence in ("plain", "checkpointed"):
        model.config.recurrence = recurrence
        model.zero_grad()
        out = model(
            *ragged,
            labels=ragged[0],
            question_ids=ragged[0][:, None, :9],
            question_targets=ragged[0][:, None, :9],
        )
        out.loss.backward()
        losses.append(out.loss.detach())
        grads.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(losses[0], losses[1], atol=1e-6, rtol=0)
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, atol=1e-6, rtol=1e-5)


def test_logits_stay_only_where_asked(model, ragged):
    ids, mask = ragged
    everything = model(ids, mask).logits
    assert everything.shape == (3, 20, 61)
    assert bool((everything[~mask.bool()] == 0).all())
    assert model(ids, mask, labels=ids).logits is None
    torch.testing.assert_close(model(ids, mask, labels=ids, logits_to_keep=0).logits, everything, **CLOSE)
    for keep in (1, 5, 12, 99):
        last = model(ids, mask, logits_to_keep=keep).logits
        assert last.shape == (3, min(keep, 20), 61)
        for row in range(3):
            real = everything[row][mask[row].bool()][-keep:]
            torch.testing.assert_close(last[row, -len(real) :], real, **CLOSE)
            assert bool((last[row, : -len(real)] == 0).all())


def test_logits_of_columns(model, ragged):
    ids, mask = ragged
    columns = torch.tensor([19, 2, -13])
    got = model(ids, mask, logits_to_keep=columns).logits
    torch.testing.assert_close(got, model(ids, mask).logits[:, columns], **CLOSE)
    with pytest.raises(InputError, match="expected columns below 20"):
        model(ids, mask, logits_to_keep=torch.tensor([20]))
    with pytest.raises(InputError, match="expected 0 or more, got -1"):
        model(ids, mask, logits_to_keep=-1)


def test_a_padded_column_keeps_its_place(model, ragged):
    ids, mask = ragged[0], ragged[1].clone()
    mask[:, 18:] = 0
    assert model(ids, mask).logits.shape[1] == 20


def test_questions_equal_two_calls(model, ragged):
    questions = torch.randint(3, 61, (3, 2, 9))
    mask = torch.ones_like(questions)
    mask[0, 1], mask[1, 0, :3], mask[2, 0, 4:] = 0, 0, 0
    labels = questions.masked_fill(mask == 0, -100)
    labels[:, :, :5] = -100
    out = model(*ragged, question_ids=questions, question_mask=mask, question_targets=labels)
    assert out.logits.shape == (3, 2, 9, 61)
    terms = []
    for row in range(3):
        for number in range(2):
            real = mask[row, number].bool()
            if not bool(real.any()):
                assert bool((out.logits[row, number] == 0).all())
                continue
            ids, named = questions[row, number][real], labels[row, number][real]
            alone = model(input_ids=ids[None], memory=out.memory.index([row])).logits[0]
            torch.testing.assert_close(out.logits[row, number][real], alone, **CLOSE)
            terms.append(F.cross_entropy(alone[:-1], named[1:], ignore_index=-100, reduction="none")[named[1:] >= 0])
    torch.testing.assert_close(out.loss, torch.cat(terms).mean(), **CLOSE)


def test_two_losses_add(model, ragged):
    asked = {"question_ids": ragged[0][:, None, :9], "question_targets": ragged[0][:, None, :9]}
    both = model(*ragged, labels=ragged[0], **asked).loss
    one, other = model(*ragged, labels=ragged[0]).loss, model(*ragged, **asked).loss
    torch.testing.assert_close(both, one + other, **CLOSE)


def test_question_trains_what_the_document_wrote(model, ragged):
    embeddings = model.get_input_embeddings()
    word = 60
    ids = ragged[0].clamp(max=59)
    ids[:, 0] = word  # stands in the document only, three segments before its end
    model(ids, question_ids=ids[:, None, 3:9], question_targets=ids[:, None, 3:9]).loss.backward()
    assert embeddings.weight.grad[word].abs().max() > 0


def test_reading_in_two_calls(model, ragged):
    ids = ragged[0][:, :19]
    whole = model(input_ids=ids)
    first = model(input_ids=ids[:, :14])
    second = model(input_ids=ids[:, 14:], memory=first.memory)
    torch.testing.assert_close(torch.cat([first.logits, second.logits], dim=1), whole.logits, **CLOSE)
    torch.testing.assert_close(second.memory.tensors["tokens"], whole.memory.tensors["tokens"], **CLOSE)
    assert whole.memory.meta.segments_read == second.memory.meta.segments_read == 3
    assert whole.memory.meta.tokens_read == second.memory.meta.tokens_read == 19


def test_tuple(model, ragged):
    loss, memory = model(*ragged, labels=ragged[0], return_dict=False)
    assert loss.dim() == 0
    assert memory.batch_size == 3


def test_bad_calls(model, ragged):
    ids, mask = ragged
    with pytest.raises(InputError, match="expected no labels"):
        model(ids, mask, labels=ids, use_cache=True)
    with pytest.raises(InputError, match=r"expected one for each of 3 rows, got 1; fork it"):
        model(ids, mask, memory=model.initial_memory(1))
    with pytest.raises(InputError, match="at least one token in each row"):
        model(ids, torch.zeros_like(mask))
    with pytest.raises(InputError, match="at least one token in some question"):
        model(ids, mask, question_ids=ids[:, None], question_mask=torch.zeros_like(ids[:, None]))
