"""A compiled step gives what the reference gives, for full segments; the rest runs as it is."""

from __future__ import annotations

import jaxtyping
import pytest
import torch
from transformers import AutoTokenizer, BertModel

from rmt import RMTForSequenceClassification, pretrained, reference
from rmt.errors import InputError
from rmt.executors import Compiled, Sequential, Speculative, choose, writer
from rmt.executors.compiled import Step
from rmt.reader import Reader
from tests.rmt.tiny import bert_config, causal, classifier, content

SHUT = {"memory_update": "gated", "gate_threshold": 0.0}


@pytest.fixture(autouse=True)
def unchecked():
    """Shapes go unchecked: what compiles cannot look through the checks."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def tokenizer():
    return pretrained.of_minilm(AutoTokenizer.from_pretrained)


def relative(got, expected):
    return float((got - expected).abs().max() / expected.abs().max())


def read(executor, model, ids, mask=None, reads=None):
    state = dict(model.initial_memory(len(ids)).tensors)
    with torch.inference_mode():
        return executor.read(reads or writer(model), model.segments(ids, mask), state)["tokens"]


@pytest.mark.parametrize("make", [classifier, causal])
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_against_the_reference(make, batch, backend, capsys):
    model = make(**SHUT).eval().requires_grad_(False)
    size = model.config.segment_size
    ids, mask = content(batch, 5 * size + 3), torch.ones(batch, 5 * size + 3)
    if batch > 1:
        mask[1, 3 * size + 1 :] = 0  # a document that ends earlier, within a segment
    executor, reads = Compiled(Sequential(), backend=backend), writer(model)
    got = read(executor, model, ids, mask, reads)
    twin = reference.as_reference(model)
    for row, memory in enumerate(got):
        expected = reference.read(twin, ids[row][mask[row].bool()].tolist())
        assert relative(memory, expected) < 1e-5
    (step,) = executor._steps.values()
    assert list(step.seconds) == [(batch, size)]
    assert "compiled the step of" in capsys.readouterr().err
    assert torch.equal(read(executor, model, ids, mask, reads), got)
    assert not capsys.readouterr().err, "a second document compiled again"


def test_what_is_compiled(monkeypatch):
    """Full segments in batches of the right number of rows, and nothing else."""
    model = classifier(**SHUT).eval()
    size = model.config.segment_size
    step, shapes = Step(writer(model), 2, "eager"), []
    inner = step._step
    step._step = lambda ids, *rest: shapes.append(tuple(ids.shape)) or inner(ids, *rest)
    for batch, length in ((2, size), (1, size), (2, size - 1)):
        segment = model.segments(content(batch, length), None)[0]
        state = dict(model.initial_memory(batch).tensors)
        got = step.cell(step.core, segment, state).state["tokens"]
        torch.testing.assert_close(got, model.cell(model.core, segment, state).state["tokens"], atol=1e-5, rtol=0)
    padded = torch.ones(2, size)
    padded[1, -1] = 0
    step.cell(step.core, model.segments(content(2, size), padded)[0], dict(model.initial_memory(2).tensors))
    assert set(shapes) == {(2, size)}
    assert len(shapes) == 2  # the first call compiles


@pytest.mark.parametrize("part", [1, 3])
def test_parts_are_ordered_as_without(part):
    model = classifier(memory_update="gated").eval().requires_grad_(False)
    torch.nn.init.normal_(model.cell.slot_gate.weight, std=0.6)
    torch.nn.init.constant_(model.cell.slot_gate.bias, -5.0)
    model.config.gate_threshold = 0.1
    ids, order = content(1, 41 * model.config.segment_size + 1), Speculative(8, part=part)
    compiled = read(Compiled(order, rows=part, backend="eager"), model, ids)
    torch.testing.assert_close(compiled, read(order, model, ids), atol=1e-5, rtol=0)
    assert not torch.equal(compiled, model.initial_memory(1).tensors["tokens"])


def test_bits_follow_from_the_place_in_the_document(tokenizer, monkeypatch):
    """The beginning runs as it is, also where the text comes in pieces; what follows is compiled."""
    inner = BertModel(bert_config(vocab_size=len(tokenizer)), add_pooling_layer=False)
    model = RMTForSequenceClassification.from_backbone(inner, segment_size=4, num_memory_tokens=3, **SHUT)
    reader = Reader(model, tokenizer, dtype="float32", executor="compiled", batch_segments=2)
    reader.executor = Compiled(Sequential(2), least=4, backend="eager")
    size, places = reader.segment_size, []
    at = Compiled.at
    monkeypatch.setattr(Compiled, "at", lambda self, segment: places.append(segment) or at(self, segment))
    ids = content(1, 7 * size)[0].tolist()
    whole = reader.read(ids, progress=False)
    assert places == [0, 2, 4, 6]
    assert list(next(iter(reader.executor._steps.values())).seconds) == [(1, size)]
    session = reader.session()
    for start in range(0, len(ids), 5):
        session.feed(ids[start : start + 5])
    assert torch.equal(session.finish().tensors["tokens"], whole.tensors["tokens"])
    short = Compiled(Sequential(2), least=4)
    assert [short.at(n) is short for n in (0, 3, 4, 9)] == [False, False, True, True]


def test_choice(monkeypatch):
    plain, gated = classifier().config, classifier(memory_update="gated").config
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    assert choose(plain, "compiled", 8)[0] == Compiled(Sequential(8))
    assert choose(gated, "compiled")[0] == Compiled(Speculative(32, part=1), rows=1)
    assert choose(causal(memory_update="gated").config, "compiled")[0] == Compiled(Speculative(32, part=4), rows=4)
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(InputError, match=r"expected a C\+\+ compiler .* got no g\+\+; install gcc"):
        choose(plain, "compiled")
    monkeypatch.setattr("rmt.executors.compiled.find_spec", lambda _: None)
    with pytest.raises(InputError, match="expected Triton"):
        choose(plain, "compiled", device="cuda")
