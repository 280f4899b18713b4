"""Associative memory against its twin: outputs, memory, batches, gradients, and that its switches switch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rmt import reference
from rmt.backbone import FAMILIES
from rmt.cells.associative import Store, dpfp
from rmt.errors import InputError
from rmt.models.causal_lm import RMTForCausalLM
from rmt.models.sequence_classification import RMTForSequenceClassification
from tests.rmt import families
from tests.rmt.tiny import causal, classifier, content, ragged

SWITCHES = {
    "paper": {},
    "heads": {"associative_heads": 2},
    "normalised": {"associative_normalize": True},
    "in turn": {"associative_in_turn": True, "associative_normalize": True, "associative_heads": 2},
    "uncorrected": {"associative_correction": False, "associative_expansion": 1},
    "gated": {"memory_update": "gated", "gate_threshold": 0.5, "associative_heads": 4, "associative_normalize": True},
}
LENGTHS = [11, 4, 1, 9]


def awake(model, spread=None):
    """A model whose associations are not zero: at zero every check of them is empty."""
    torch.manual_seed(1)
    nn.init.normal_(model.cell.value, std=spread or (0.1 if model.cell.gated else 0.3))
    if model.cell.gated:
        nn.init.normal_(model.cell.slot_gate, std=0.5)
        nn.init.constant_(model.cell.slot_gate_bias, 3.0)  # some gates shut, some open
    return model.eval()


def close(got, expected):
    """Within 1e-5 of the size of what is expected."""
    return float((got - expected).abs().max()) <= 1e-5 * max(1e-2, float(expected.abs().max()))


@pytest.mark.parametrize("switch", sorted(SWITCHES))
@pytest.mark.parametrize("kind", [causal, classifier])
def test_a_ragged_batch_is_its_documents_alone(kind, switch):
    model = awake(kind(memory="associative", num_memory_tokens=2, associative_key_size=16, **SWITCHES[switch]))
    ids, mask = ragged(LENGTHS)
    with torch.no_grad():
        out = model(input_ids=ids, attention_mask=mask)
    twin = reference.as_reference(model)
    for row, length in enumerate(LENGTHS):
        tokens = ids[row, :length].tolist()
        expected = reference.read(twin, tokens)
        assert float(expected["associations"].abs().max()) > 1e-3 or (switch == "gated" and length < 11)
        for name, tensor in expected.items():
            assert close(out.memory.tensors[name][row], tensor), name
        if kind is causal:
            assert close(out.logits[row, :length], reference.next_token_logits(twin, tokens))
        else:
            assert close(out.logits[row], reference.classify(twin, tokens))


@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_every_family(kind):
    inner = families.build(kind)
    made = RMTForSequenceClassification if kind in families.ENCODERS else RMTForCausalLM
    extra = {"cls_token_id": 1, "sep_token_id": 2} if kind in families.ENCODERS else {}
    model = awake(
        made.from_backbone(
            inner, segment_size=5, num_memory_tokens=2, memory="associative", associative_key_size=8, **extra
        )
    )
    ids = content(1, 13) % families.VOCAB
    twin = reference.as_reference(model)
    with torch.no_grad():
        out = model(input_ids=ids)
    expected = reference.read(twin, ids[0].tolist())
    assert float(expected["associations"].abs().max()) > 1e-3
    assert all(close(out.memory.tensors[name][0], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    "name", ["associative_correction", "associative_normalize", "associative_in_turn", "memory_update"]
)
def test_each_switch_changes_what_is_written(name):
    ids = content(1, 12)
    values = {"memory_update": ("replace", "gated")}.get(name, (True, False))
    written = []
    for value in values:
        model = awake(causal(memory="associative", num_memory_tokens=2, **{name: value}))
        written.append(model(ids).memory.tensors["associations"])
    assert not torch.allclose(*written)


def test_shut_gates_change_no_bit():
    model = causal(memory="associative", memory_update="gated", gate_threshold=0.9, num_memory_tokens=2)
    nn.init.normal_(model.cell.value, std=0.3)
    before = awake(causal(memory="associative", num_memory_tokens=2))(content(1, 8)).memory
    after = model.eval()(content(1, 12, seed=3), memory=before).memory
    assert all(torch.equal(after.tensors[k], t) for k, t in before.tensors.items())
    assert not torch.equal(model.train()(content(1, 12, seed=3), memory=before).memory.tensors["associations"],
                           before.tensors["associations"])  # fmt: skip


def test_what_is_written_under_a_key_is_read_under_it():
    model = awake(causal(memory="associative", num_memory_tokens=1, associative_normalize=True))
    cell, at = model.cell, slice(0, 1)
    nothing = Store.of(cell.initial(1))
    token = torch.randn(1, 1, 1, 32)
    with torch.no_grad():
        cell.strength_bias.fill_(30.0)  # beta is 1
        cell.query.copy_(cell.key)
        once, _ = cell.write(at, token, nothing.at(at), torch.tensor([[True]]))
        read = cell.read(at, token, once) - token
        twice, _ = cell.write(at, token, once, torch.tensor([[True]]))
    value = token @ cell.value[0].T
    assert torch.allclose(read, value, atol=1e-4)
    # A key that is known brings nothing new: the delta rule has nothing left to add, nor has gamma.
    assert torch.allclose(once.associations, twice.associations, atol=1e-3)
    assert torch.allclose(once.normalizers, twice.normalizers, atol=1e-3)


def test_dpfp_by_hand():
    # [relu(x), relu(-x)] = [1, 0, 0, 2]; rolled by one [2, 1, 0, 0], by two [0, 2, 1, 0].
    assert dpfp(torch.tensor([1.0, -2.0]), 2).tolist() == [2, 0, 0, 0, 0, 0, 0, 0]
    assert dpfp(torch.tensor([1.0, 2.0]), 2).tolist() == [0, 2, 0, 0, 0, 0, 0, 0]


def test_checkpointed_gradients_are_the_plain_ones():
    ids, mask = ragged(LENGTHS)
    found = {}
    for recurrence in ("plain", "checkpointed"):
        model = awake(causal(memory="associative", recurrence=recurrence)).train()
        model(ids, attention_mask=mask, labels=ids).loss.backward()
        found[recurrence] = {n: p.grad for n, p in model.named_parameters()}
    assert found["plain"]["cell.query"].abs().max() > 0
    for name, grad in found["plain"].items():
        assert torch.allclose(grad, found["checkpointed"][name], atol=1e-6), name


def test_gradient_stops_at_the_depth():
    model = awake(causal(memory="associative", bptt_depth=2)).train()
    for length, reached in ((8, True), (16, False)):
        state = {k: t.clone().requires_grad_() for k, t in model.initial_memory(1).tensors.items()}
        memory = model.initial_memory(1)
        out = model(content(1, length), labels=content(1, length), memory=type(memory)(state))
        grads = torch.autograd.grad(out.loss, list(state.values()), allow_unused=True)
        assert any(g is not None and bool(g.abs().sum() > 0) for g in grads) is True
        last = model(content(1, length), memory=type(memory)(state)).logits[:, -1].sum()
        grads = torch.autograd.grad(last, list(state.values()), allow_unused=True)
        assert any(g is not None and bool(g.abs().sum() > 0) for g in grads) is reached


def test_a_memory_survives_a_file_and_another_model_refuses_it(tmp_path):
    model = awake(causal(memory="associative"))
    memory = model(content(1, 9)).memory
    memory.save(tmp_path / "m", model)
    again = type(memory).load(tmp_path / "m", model)
    question = content(1, 3, seed=5)
    assert torch.equal(model(question, memory=again).logits, model(question, memory=memory).logits)
    with pytest.raises(InputError, match="expected tokens of shape"):
        causal()(question, memory=again)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"memory": "matrix"}, "memory in"),
        ({"num_memory_tokens": 0}, "num_memory_tokens above 0"),
        ({"associative_heads": 3}, "multiple of 3 heads"),
        ({"associative_heads": 5, "associative_key_size": 20}, "divide the hidden size"),
        ({"associative_expansion": 0}, "associative_expansion from 1"),
        (
            {"associative_expansion": 4, "associative_key_size": 8, "associative_heads": 2},
            "associative_expansion from 1 to 3",
        ),
        ({"associative_expansion": 1, "associative_heads": 64}, "associative_expansion from 1 to 0"),
        ({"associative_normalize": 1}, "true or false"),
        ({"retrieval_every": 2}, "retrieval_every=0"),
    ],
)
def test_bad_configurations(fields, message):
    with pytest.raises(InputError, match=message):
        causal(**({"memory": "associative"} | fields))


@pytest.mark.parametrize("width", [3, 9])
@pytest.mark.parametrize("kind", [causal, classifier])
def test_questions_share_a_memory_and_give_what_each_gives_alone(kind, width):
    """A question no longer than a segment reads its document's memory without a copy; a longer one has its own."""
    model = awake(kind(memory="associative", num_memory_tokens=2))
    ids, mask = ragged([11, 7])
    questions = content(6, width, seed=8).view(2, 3, width)
    there = torch.ones_like(questions)
    there[0, 1, 2:] = 0  # a shorter question
    there[1, 2] = 0  # none at all
    with torch.no_grad():
        out = model(input_ids=ids, attention_mask=mask, question_ids=questions, question_mask=there)
        for row in range(2):
            for column in range(3 - row):
                real = there[row, column].bool()
                memory = out.memory.index([row])
                alone = model(input_ids=questions[row, column][real][None], memory=memory).logits[0]
                got = out.logits[row, column]
                assert close(got[: int(real.sum())] if kind is causal else got, alone)


def test_gradients_through_shared_memory_are_those_of_copies():
    ids, questions = content(2, 8), content(6, 3, seed=4).view(2, 3, 3)
    model = awake(causal(memory="associative")).train()
    model(ids, question_ids=questions, question_targets=questions).loss.backward()
    shared = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    memory = model(ids).memory.fork(3)
    model(questions.flatten(0, 1), labels=questions.flatten(0, 1), memory=memory).loss.backward()
    assert shared["cell.value"].abs().max() > 0
    for name, parameter in model.named_parameters():
        assert torch.allclose(shared[name], parameter.grad, atol=1e-5), name


def test_a_memory_moved_to_another_format_is_read():
    model = awake(causal(memory="associative", num_memory_tokens=2))
    memory, question = model(content(1, 9)).memory, content(1, 3, seed=5)
    moved = model(question, memory=memory.to(torch.bfloat16))
    assert moved.memory.tensors["associations"].dtype == torch.float32
    assert (moved.logits - model(question, memory=memory).logits).abs().max() < 0.3
    assert torch.equal(model(question, memory=memory.to(torch.float64)).logits, model(question, memory=memory).logits)


@pytest.mark.parametrize("size", [1e-4, 1.0, 300.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_normalised_features_are_of_unit_length_whatever_the_size_of_a_key(dtype, size):
    model = awake(causal(memory="associative", associative_normalize=True, associative_heads=2))
    keys = torch.randn(1, 3, 50, 64, generator=torch.Generator().manual_seed(0))
    features = model.cell._features((keys * size).to(dtype)).float()
    assert torch.allclose(features.norm(dim=-1), torch.ones(1, 3, 2, 50), atol=2e-3)
    assert torch.allclose(features, model.cell._features(keys), atol=3e-3)
    assert not model.cell._features(torch.zeros(1, 1, 1, 64, dtype=dtype)).isnan().any()


def test_half_precision_reads_a_large_memory():
    model = awake(causal(memory="associative"), spread=3.0).half()
    model.cell.float()
    out = model(content(1, 40))
    assert out.logits.isfinite().all()
    assert all(t.isfinite().all() for t in out.memory.tensors.values())


def test_a_segment_may_fill_what_memory_tokens_at_one_end_leave():
    inner = families.build("llama", max_position_embeddings=20)
    fields = {"segment_size": 14, "num_memory_tokens": 6}
    model = awake(RMTForCausalLM.from_backbone(inner, memory="associative", **fields))
    assert model(content(1, 20) % families.VOCAB).logits.shape[1] == 20
    with pytest.raises(InputError, match="at most 8"):
        RMTForCausalLM.from_backbone(families.build("llama", max_position_embeddings=20), **fields)


def test_tokens_that_write_in_turn_keep_a_memory_bounded():
    """Eight tokens under much the same keys: at once they overshoot, in turn each adds what is still missing."""
    sizes = {}
    for in_turn in (False, True):
        fields = {"num_memory_tokens": 8, "associative_normalize": True, "associative_in_turn": in_turn}
        model = awake(causal(memory="associative", **fields), spread=0.1)
        with torch.no_grad():
            first = model(content(1, 40)).memory
            last = model(content(1, 200, seed=2), memory=first).memory
        sizes[in_turn] = [float(m.tensors["associations"].norm()) for m in (first, last)]
    assert sizes[True][1] < 3 * sizes[True][0]
    assert sizes[False][1] > 10 * sizes[True][1], "the control: at once it grows"
