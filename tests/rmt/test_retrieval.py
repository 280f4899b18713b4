"""Old memories: which are kept, what finds them, and that every path sees them alike."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rmt import reference
from rmt.cells import retrieval
from rmt.cells.retrieval import Retrieval
from rmt.errors import InputError
from rmt.executors import Sequential, choose, writer
from rmt.executors.packed import Packed
from rmt.memory import Memory
from rmt.models.base import RMTPreTrainedModel
from rmt.segments import split
from tests.rmt.tiny import causal, classifier, content, gradients, largest_gap, ragged

TOLERANCE = 1e-5  # float32; sums are taken in another order
KEEPS = ("recent", "spread", "surprise")
KINDS = {"encoder": classifier, "decoder": causal}
SMALL = {"segment_size": 2, "retrieval_every": 1, "retrieval_budget": 3, "retrieval_top": 2}


def awake(model: RMTPreTrainedModel, seed: int = 5) -> RMTPreTrainedModel:
    """Outputs that are not zero, so that what is found is seen; gates spread around their threshold.

    The backbone is made calmer, or rounding would grow from segment to segment.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.backbone.named_parameters():
            if parameter.dim() > 1 and "embed" not in name:
                parameter.mul_(0.6)
        for linear in (model.cell.retrieval.memory_output, model.cell.retrieval.text_output):
            linear.weight.normal_(0.0, 0.2, generator=generator)
        if model.cell.slot_gate is not None:
            model.cell.slot_gate.weight.normal_(0.0, 0.3, generator=generator)
            model.cell.channel_gate.weight.normal_(0.0, 0.3, generator=generator)
            model.config.gate_threshold = 0.5
    return model


def make(kind: str = "decoder", **fields) -> RMTPreTrainedModel:
    return awake(KINDS[kind](**(SMALL | fields))).eval()


def kept(memory: Memory, row: int = 0) -> dict[int, Tensor]:
    """Copies of one document by their number."""
    at = memory.tensors["bank_at"][row].tolist()
    return {number: copy for number, copy in zip(at, memory.tensors["bank"][row], strict=True) if number}


def gap_to_twin(model: RMTPreTrainedModel, lengths: list[int]) -> float:
    """The largest difference to the twin over memories, banks and the answers to one question of each document."""
    ids, mask = ragged(lengths)
    question = content(len(lengths), 5, seed=9)
    twin = reference.as_reference(model)
    with torch.no_grad():
        memory = model(input_ids=ids, attention_mask=mask).memory
        answers = model(input_ids=question, memory=memory).logits
    worst = 0.0
    for row, length in enumerate(lengths):
        tokens, bank = reference.read_on(twin, ids[row, :length].tolist())
        answer = reference.classify if model.layout == "encoder" else reference.next_token_logits
        said = answer(twin, question[row].tolist(), tokens, bank)
        ours, theirs = kept(memory, row), {number: copy for number, _, copy in bank.copies}
        if ours.keys() != theirs.keys() or int(memory.tensors["segments"][row]) != bank.segments:
            return float("inf")
        pairs = [(memory.tensors["tokens"][row], tokens), (answers[row], said)]
        pairs += [(ours[number], theirs[number]) for number in ours]
        worst = max(worst, *(float((one - other).abs().max()) for one, other in pairs))
    return worst


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("update", ["replace", "gated"])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_twin(kind, update, keep):
    for every in (1, 2):
        model = make(kind, memory_update=update, retrieval_keep=keep, retrieval_every=every)
        assert gap_to_twin(model, [31]) <= TOLERANCE
        assert gap_to_twin(model, [31, 3, 16, 1]) <= TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_the_comparison_is_not_empty(kind):
    model, quiet = make(kind), make(kind)
    ids, question = content(2, 13), content(2, 5, seed=1)
    for output in ("memory_output", "text_output"):
        with torch.no_grad():
            getattr(quiet.cell.retrieval, output).weight.zero_()
            one, other = (m(input_ids=question, memory=m(input_ids=ids).memory).logits for m in (model, quiet))
        assert (one - other).abs().max() > 1e-2
        quiet = make(kind)


RIGHT_KEEP, RIGHT_SLOT, RIGHT_BITS = Retrieval.keep, Retrieval._slot, retrieval.bit_length


def a_segment_early(self: Retrieval, before: dict[str, Tensor], *rest: Tensor) -> dict[str, Tensor]:
    return RIGHT_KEEP(self, before | {"segments": before["segments"] + 1}, *rest)


def a_place_on(self: Retrieval, *rest: Tensor) -> tuple[Tensor, Tensor]:
    slot, wanted = RIGHT_SLOT(self, *rest)
    return (slot + 1) % self.config.retrieval_budget, wanted


def a_number_on(self: Retrieval, at: Tensor, scores: Tensor, number: Tensor, drift: Tensor) -> tuple[Tensor, Tensor]:
    return RIGHT_SLOT(self, at, scores, number + 1, drift)


def a_stride_early(numbers: Tensor) -> Tensor:
    return RIGHT_BITS(numbers + 1)


@pytest.mark.parametrize(
    ("keep", "where", "name", "wrong"),
    [
        *((keep, Retrieval, "keep", a_segment_early) for keep in KEEPS),
        ("spread", Retrieval, "_slot", a_place_on),
        ("surprise", Retrieval, "_slot", a_place_on),
        ("spread", Retrieval, "_slot", a_number_on),
        ("spread", retrieval, "bit_length", a_stride_early),
    ],
)
def test_an_off_by_one_in_keeping_is_noticed(monkeypatch, keep, where, name, wrong):
    model = make(retrieval_keep=keep, retrieval_every=2)
    assert gap_to_twin(model, [41, 24]) <= TOLERANCE
    monkeypatch.setattr(where, name, wrong)
    assert gap_to_twin(model, [41, 24]) > TOLERANCE


# The model with and without.


@pytest.mark.parametrize("update", ["replace", "gated"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_new_model_is_the_one_without(kind, update):
    plain = KINDS[kind](segment_size=2, memory_update=update).eval()
    model = KINDS[kind](**SMALL, memory_update=update, seed=1).eval()
    missing = model.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing
    assert all(name.startswith("cell.retrieval.") for name in missing)
    with torch.no_grad():
        one, other = (m(input_ids=content(2, 13)) for m in (plain, model))
    assert torch.equal(one.logits, other.logits)
    assert torch.equal(one.memory.tensors["tokens"], other.memory.tensors["tokens"])
    assert set(one.memory.tensors) == {"tokens"}  # and off, nothing is kept


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_have_ended_keep_all_of_it_bit_for_bit(kind):
    model = make(kind)
    ids, mask = ragged([12, 3])
    segments = split(ids, mask, 2)
    state = model.cell.initial(2)
    with torch.no_grad():
        for number, segment in enumerate(segments):
            before, state = state, model.cell(model.core, segment, state).state
            if number >= 2:
                assert all(torch.equal(before[name][1], state[name][1]) for name in state)
                assert not torch.equal(before["tokens"][0], state["tokens"][0])
    assert state["segments"].tolist() == [6, 2]


def test_a_decoder_does_not_look_ahead():
    model = make()
    ids = content(1, 10)
    other = ids.clone()
    other[0, 7] = ids[0, 7] % 50 + 5
    with torch.no_grad():
        one, two = model(input_ids=ids).logits, model(input_ids=other).logits
    assert torch.equal(one[:, :7], two[:, :7])
    assert not torch.equal(one[:, 7:], two[:, 7:])


@pytest.mark.parametrize("update", ["replace", "gated"])
def test_generation_equals_teacher_forcing(update):
    model = make(segment_size=3, memory_update=update)
    with torch.no_grad():
        memory = model(input_ids=content(2, 14)).memory
        prompt = content(2, 4, seed=3)
        out = model.generate(
            prompt, memory=memory, max_new_tokens=11, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        whole = model(input_ids=out, memory=memory)
        blind = model(input_ids=out)
    assert torch.equal(whole.logits[:, 3:-1].argmax(dim=-1), out[:, 4:])
    assert not torch.equal(blind.logits[:, 3:-1].argmax(dim=-1), out[:, 4:])
    after = model(input_ids=prompt, memory=memory, use_cache=True).cache.flush(model)
    expected = model(input_ids=prompt, memory=memory).memory
    for name, tensor in expected.tensors.items():
        torch.testing.assert_close(after.tensors[name], tensor, atol=1e-4, rtol=1e-4)
        assert after.tensors[name].dtype == tensor.dtype


# Gradients.


def trained(recurrence: str, depth: int | None = None, kind: str = "decoder") -> RMTPreTrainedModel:
    model = make(kind, recurrence=recurrence, bptt_depth=depth).train()
    ids, mask = ragged([17, 6, 12])
    labels = ids if kind == "decoder" else torch.tensor([[0, 1], [2, 3], [4, 5]])
    questions = content(6, 3, seed=2).view(3, 2, 3)
    extra = {"question_ids": questions} | ({"question_targets": questions} if kind == "decoder" else {})
    model(input_ids=ids, attention_mask=mask, labels=labels, **extra).loss.backward()
    return model


@pytest.mark.parametrize("depth", [None, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_checkpointed_gradients_are_the_plain_ones(kind, depth):
    plain = gradients(trained("plain", depth, kind))
    assert largest_gap(plain, gradients(trained("checkpointed", depth, kind))) <= 1e-6
    for name, grad in plain.items():
        if name.startswith("cell.retrieval."):
            assert bool((grad != 0).any()), name


def far_gradient(depth: int | None) -> Tensor:
    """Gradient of the last loss in the embeddings of words that stand in the first segments only."""
    model = make(bptt_depth=depth).train()
    ids = torch.arange(5, 17)[None]
    labels = ids.clone()
    labels[:, :-1] = -100
    model(input_ids=ids, labels=labels).loss.backward()
    return model.get_input_embeddings().weight.grad[5:13]  # of 6 segments the first 4


@pytest.mark.parametrize("depth", [1, 2])
def test_truncation_cuts_the_bank_too(depth, monkeypatch):
    import rmt.recurrence as recurrence

    assert bool((far_gradient(None) != 0).any())
    assert not far_gradient(depth).any()
    right = recurrence.cut
    monkeypatch.setattr(recurrence, "cut", lambda t, rows: t if t.dim() == 4 else right(t, rows))
    assert bool((far_gradient(depth) != 0).any()), "the bank carries no gradient, so nothing was shown"


# The memory as a value.


def test_a_memory_can_be_kept_moved_and_forked(tmp_path: Path):
    model = make()
    with torch.no_grad():
        memory = model(input_ids=content(3, 13)).memory
    shapes = {name: tuple(t.shape) for name, t in memory.tensors.items()}
    assert shapes == {
        "tokens": (3, 3, 32), "bank": (3, 3, 3, 32), "bank_at": (3, 3), "bank_scores": (3, 3), "bank_drift": (3,),
        "segments": (3,),
    }  # fmt: skip
    with torch.no_grad():
        longer = model(input_ids=content(3, 63)).memory
    assert longer.nbytes == memory.nbytes
    memory.save(tmp_path / "a", model)
    back = Memory.load(tmp_path / "a", model)
    for name, tensor in memory.tensors.items():
        assert torch.equal(back.tensors[name], tensor)
        assert back.tensors[name].dtype == tensor.dtype
    half = Memory(memory.tensors | {"segments": torch.tensor([1001, 2003, 3005])}).to(torch.bfloat16)
    assert half.tensors["bank"].dtype == torch.bfloat16
    assert half.tensors["segments"].tolist() == [1001, 2003, 3005]
    question = content(3, 4, seed=8)
    with torch.no_grad():
        one = model(input_ids=question, memory=back).logits
        two = model(input_ids=question.repeat_interleave(2, dim=0), memory=memory.fork(2)).logits
        three = model(input_ids=question[[2, 0]], memory=memory.index([2, 0])).logits
    torch.testing.assert_close(two[::2], one, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(three, one[[2, 0]], atol=TOLERANCE, rtol=0)


def test_copies_stay_float32_whatever_the_backbone_is():
    model = make().to(torch.bfloat16)
    with torch.no_grad():
        memory = model(input_ids=content(2, 9)).memory
    assert {str(t.dtype) for t in memory.tensors.values()} == {"torch.float32", "torch.int64"}
    assert memory.tensors["segments"].tolist() == [5, 5]


def test_memories_of_other_models_are_refused():
    model = make()
    for other in (make(retrieval_budget=4), causal(segment_size=2)):
        with torch.no_grad():
            memory = other.eval()(input_ids=content(1, 9)).memory
        with pytest.raises(InputError, match="of another model"):
            model(input_ids=content(1, 4), memory=memory)
    names = {make(retrieval_keep=keep, retrieval_every=every).fingerprint() for keep in KEEPS for every in (1, 2)}
    assert len(names) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_read_in_order(kind):
    model = make(kind, memory_update="gated")
    executor, why = choose(model.config)
    assert isinstance(executor, Sequential)
    assert "retrieval_every=1" in why
    with pytest.raises(InputError, match="retrieval_every=1"):
        choose(model.config, "speculative")
    segments = split(content(1, 21), None, 2)
    with torch.inference_mode():
        expected = Sequential().read(model, segments, model.cell.initial(1))
        narrow = Sequential().read(writer(model), segments, model.cell.initial(1))
    for name in expected:
        torch.testing.assert_close(narrow[name], expected[name], atol=TOLERANCE, rtol=0)


def test_documents_side_by_side_have_banks_of_their_own():
    model = make("encoder")
    documents = [content(1, length, seed=length) for length in (21, 2, 9)]
    runs = [[part.numpy() for part in ids[0].split(2)] for ids in documents]
    with torch.inference_mode():
        packed = dict(Packed(slots=2).read_many(writer(model), runs, model.cell.initial(1), 2))
        for number, ids in enumerate(documents):
            alone = Sequential().read(writer(model), split(ids, None, 2), model.cell.initial(1))
            for name in alone:
                torch.testing.assert_close(packed[number][name], alone[name], atol=TOLERANCE, rtol=0)
