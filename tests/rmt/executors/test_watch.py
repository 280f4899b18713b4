"""What a watcher is told are the norms of the memory after each segment."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rmt import Reader
from rmt.errors import InputError
from rmt.executors import norms
from tests.rmt.test_associative import awake
from tests.rmt.test_reader import tokenizer  # noqa: F401
from tests.rmt.tiny import causal, classifier, content


@pytest.mark.parametrize("memory", ["tokens", "associative"])
def test_every_segment_is_told_of(memory, tokenizer):  # noqa: F811
    model = causal(memory=memory)
    model = awake(model) if memory == "associative" else model.eval()
    seen = []
    reader = Reader(model, tokenizer, dtype="float32", watch=seen.append)
    ids = content(1, 10)[0].numpy()
    memory_after = reader.read(np.asarray(ids), progress=False)
    assert len(seen) == 3
    for name, got in seen[-1].items():
        kept = memory_after.tensors[name][0]
        assert torch.allclose(got[0], torch.stack([part.norm() for part in kept]))
    first = model(content(1, 10)[:, :4]).memory
    assert torch.allclose(seen[0][name], norms(dict(first.tensors))[name], rtol=1e-4)
    with pytest.raises(InputError, match="sequential with watch"):
        Reader(model, tokenizer, executor="packed", watch=seen.append)


@pytest.mark.parametrize("make", [classifier, causal])
def test_watching_changes_no_bit(make, tokenizer, tmp_path):  # noqa: F811
    model, ids = make(memory_update="gated"), content(1, 250)[0].numpy()
    alone = Reader(model, tokenizer, dtype="float32", executor="sequential", batch_segments=4)
    watched = Reader(model, tokenizer, dtype="float32", batch_segments=4, watch=lambda _: None)
    assert alone.settings() == watched.settings(), "one takes the other's checkpoints"
    for name, tensor in alone.read(ids, progress=False).tensors.items():
        assert torch.equal(tensor, watched.read(ids, progress=False).tensors[name])


def test_several_documents_are_not_watched(tokenizer):  # noqa: F811
    reader = Reader(causal(), tokenizer, dtype="float32", watch=lambda _: None)
    documents = list(content(2, 9).numpy())
    for read in (reader.read_many, reader.read_batch):
        with pytest.raises(InputError, match=r"without watch=.* with read\(\)"):
            read(documents)
