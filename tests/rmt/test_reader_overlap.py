"""A text is read while it is tokenised: nothing waits for its end but what has to."""

from __future__ import annotations

import threading

import pytest
from transformers import AutoTokenizer

from rmt.checkpoint import Checkpoint
from rmt.pretrained import of_minilm
from rmt.reader import Reader
from tests.rmt.test_reader import same, text_of, worded


@pytest.fixture(scope="module")
def reader():
    tokenizer = of_minilm(AutoTokenizer.from_pretrained)
    return Reader(worded(tokenizer), tokenizer, dtype="float32", batch_segments=4)


def test_reads_while_it_tokenises(reader, tmp_path, monkeypatch):
    """The text's last part comes when its first has been read."""
    begun = threading.Event()
    text, run = text_of(4_000), reader.run

    def first(*args):
        begun.set()
        return run(*args)

    def parts(source):
        yield text
        assert begun.wait(20)
        yield " said the king"

    monkeypatch.setattr(reader, "run", first)
    monkeypatch.setattr("rmt.reader.iter_text", parts)
    memory = reader.read("some text", progress=False, checkpoint=tmp_path / "at", checkpoint_every=1_000)
    monkeypatch.undo()
    path = tmp_path / "text.txt"
    path.write_text(text + " said the king")
    whole = reader.read(path, progress=False)
    assert same(memory, whole)
    assert (memory.meta.digest, memory.meta.tokens_read) == (whole.meta.digest, whole.meta.tokens_read)
    again = reader.read(path, progress=False, checkpoint=tmp_path / "at")  # nothing is left to read
    assert same(again, whole)


def test_no_checkpoint_waits_for_the_text(reader, tmp_path, monkeypatch):
    """The text goes on when far more than a checkpoint's distance has been read; then one is written."""
    read, far, text = [], threading.Event(), text_of(4_000)
    run = reader.run

    def counted(ids, *args):
        read.append(ids.size)
        if sum(read) > 2_000:
            far.set()
        return run(ids, *args)

    def parts(source):
        yield text
        assert far.wait(20)
        yield text

    monkeypatch.setattr(reader, "run", counted)
    monkeypatch.setattr("rmt.reader.iter_text", parts)
    kept = []
    monkeypatch.setattr(Checkpoint, "keep", lambda self, memory, position: kept.append(position))
    memory = reader.read("some text", progress=False, checkpoint=tmp_path / "at", checkpoint_every=100)
    assert kept[0] > 2_000
    assert len(kept) > 2
    assert memory.meta.tokens_read == sum(read)
