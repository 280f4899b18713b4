"""A reader over every kind of memory: what it refuses, resumes, answers and reads after training with PEFT."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoTokenizer

from rmt.errors import InputError
from rmt.memory import Memory
from rmt.pretrained import of_minilm
from rmt.reader import Reader
from tests.rmt.test_associative import awake
from tests.rmt.test_reader import Lazy, same, worded
from tests.rmt.tiny import causal, classifier, content


@pytest.fixture(scope="module")
def tokenizer():
    return of_minilm(AutoTokenizer.from_pretrained)


def test_refuses_a_memory_of_other_shapes(tokenizer):
    """One that a forward gave, and that names no model."""
    ids = content(1, 8)
    kinds = {
        "three": causal(),
        "four": causal(num_memory_tokens=4),
        "matrix": causal(memory="associative"),
        "kept": causal(retrieval_every=1),
    }
    for name, model in kinds.items():
        reader = Reader(model, tokenizer, dtype="float32")
        for other, of in kinds.items():
            memory = of(ids).memory
            if name == other:
                reader.read(ids[0], memory=memory, progress=False)
                continue
            for use in (
                lambda memory=memory, reader=reader: reader.read(ids[0], memory=memory, progress=False),
                lambda memory=memory, reader=reader: reader.session(memory),
                lambda memory=memory, reader=reader: reader.ask(memory, ["Where?"]),
            ):
                with pytest.raises(InputError, match="of another model"):
                    use()


@pytest.mark.parametrize("memory", ["tokens", "associative"])
def test_a_classifier_answers_as_its_forward_does(tokenizer, monkeypatch, memory):
    model = worded(tokenizer, memory_update="replace", memory=memory)
    if memory == "associative":
        torch.nn.init.normal_(model.cell.value, std=0.3)
    reader = Reader(model, tokenizer, dtype="float32")
    read = reader.read(content(1, 50)[0], progress=False)
    before = {name: t.clone() for name, t in read.tensors.items()}
    questions = ["Where is Mary?", "gold", "Where was the king?"]
    long = "Where is the dog that nobody in the old land had said to be king?"  # of several segments
    expected = []
    for question in [*questions, long]:
        ids = torch.tensor([tokenizer(question, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            expected.append(model.eval()(input_ids=ids, memory=read).logits[0].softmax(dim=-1))
    assert not torch.allclose(expected[0], model(ids[:, :4]).logits[0].softmax(dim=-1), atol=1e-3)
    answers = reader.ask(read, [*questions, long])
    if memory == "associative":
        monkeypatch.setattr(Memory, "fork", lambda *_: pytest.fail("a copy of a large memory"))
        answers[: len(questions)] = reader.ask(read, questions)
    for answer, wanted in zip(answers, expected, strict=True):
        assert list(answer.probabilities.values()) == pytest.approx(wanted.tolist(), abs=1e-5)
    assert same(read, Memory(before)), "a question writes nothing"


@pytest.mark.parametrize("make", [classifier, causal])
def test_a_wavefront_resumes_to_the_bit(make, tokenizer, tmp_path):
    model = awake(make(memory="associative", num_memory_tokens=2, associative_key_size=16, associative_normalize=True))
    reader = Reader(model, tokenizer, dtype="float32", executor="wavefront", batch_segments=4)
    size, path = reader.block, tmp_path / "a.partial"
    tokens, broken = 5 * size + 7, 3 * size + 1

    def document(**fault):
        return Short(tokens, **fault)

    unbroken = reader.read(document(), progress=False)
    with pytest.raises(KeyboardInterrupt):
        reader.read(document(broken=broken), checkpoint=path, checkpoint_every=size, progress=False)
    kept = Memory.load(path)
    assert 0 < int(kept.meta.extra["position"]) < broken
    assert not same(kept, unbroken)
    resumed = reader.read(document(), checkpoint=path, checkpoint_every=size, progress=False)
    assert same(resumed, unbroken)
    assert resumed.meta == unbroken.meta
    in_order = Reader(model, tokenizer, dtype="float32", executor="sequential").read(document(), progress=False)
    for name, tensor in in_order.tensors.items():
        torch.testing.assert_close(unbroken.tensors[name], tensor, atol=1e-4, rtol=1e-4)


class Short(Lazy):
    """Tokens of the small vocabulary."""

    def __getitem__(self, part):
        return 3 + super().__getitem__(part) % 60


def test_lora_over_associative_memory_trains_and_reads(tokenizer, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    def fresh():
        return causal(memory="associative", num_memory_tokens=2, associative_key_size=16)

    model = get_peft_model(fresh(), LoraConfig(target_modules=["q_proj", "v_proj"], modules_to_save=["cell"])).train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    ids, losses = content(2, 22), []
    for _ in range(5):
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name
    assert any("modules_to_save" in name and p.requires_grad for name, p in model.named_parameters())

    model.save_pretrained(tmp_path)
    trained = PeftModel.from_pretrained(fresh(), tmp_path).merge_and_unload().eval()
    with torch.no_grad():
        expected = model.eval()(input_ids=ids[:1]).memory
    reader = Reader(trained, tokenizer, dtype="float32")
    memory = reader.read(ids[0], progress=False)
    for name, tensor in expected.tensors.items():
        assert bool(tensor.any()), "nothing was written"
        torch.testing.assert_close(memory.tensors[name], tensor, atol=1e-4, rtol=1e-4)
