"""All layers at once give what one segment after another gives, whoever runs the pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rmt import Reader, reference
from rmt.errors import InputError
from rmt.executors import Sequential, Speculative, Wavefront, choose
from rmt.executors.captured import cuda_graph, direct_call
from rmt.segments import split
from tests.rmt.test_associative import awake, close
from tests.rmt.test_reader import tokenizer  # noqa: F401
from tests.rmt.tiny import causal, classifier, content, ragged

HOW = {
    "batched": Wavefront(batched=True),
    "replayed": Wavefront(record=direct_call),
    "side by side": Wavefront(batched=False),
    "short": Wavefront(least=99),
}


def made(kind, **fields):
    model = awake(kind(memory="associative", num_memory_tokens=2, associative_key_size=16, **fields))
    model.set_attn_implementation("eager")
    return model


@pytest.mark.parametrize("lengths", [[19], [3], [16, 16, 16, 16], [11, 4, 1, 18]])
@pytest.mark.parametrize("how", sorted(HOW))
@pytest.mark.parametrize("kind", [causal, classifier])
def test_against_the_reference(kind, how, lengths):
    model = made(kind)
    ids, mask = ragged(lengths)
    with torch.inference_mode():
        segments = split(ids, mask, 4)
        before = model.cell.initial(len(lengths))
        got = HOW[how].read(model, iter(segments), before)
    assert all(not t.any() for t in before.values()), "what was given is left as it was"
    twin = reference.as_reference(model)
    for row, length in enumerate(lengths):
        expected = reference.read(twin, ids[row, :length].tolist())
        assert float(expected["associations"].abs().max()) > 1e-3
        for name, tensor in expected.items():
            assert close(got[name][row], tensor)


def test_layers_that_are_not_alike_run_one_by_one():
    model = made(causal)
    model.core.layers[1].mlp.up_proj = nn.Linear(32, 48)
    segments = split(content(1, 17), None, 4)
    with torch.inference_mode():
        expected = Sequential().read(model, segments, model.cell.initial(1))
        got = Wavefront(batched=True).read(model, segments, model.cell.initial(1))
    assert close(got["associations"], expected["associations"])


def test_a_reader_goes_on_after_a_block(tokenizer):  # noqa: F811
    model = made(causal)
    ids = content(1, 300)[0].numpy()
    reader = Reader(model, tokenizer, dtype="float32", executor="wavefront")
    assert reader.executor.name == "wavefront"
    assert reader.block < len(ids), "several blocks are read"
    expected = reference.read(reference.as_reference(model), ids.tolist())
    got = reader.read(np.asarray(ids), progress=False)
    for name, tensor in expected.items():
        assert close(got.tensors[name][0], tensor)


def test_a_diagonal_is_recorded_once_and_what_it_gave_is_not_overwritten():
    recorded = []

    def record(run):
        recorded.append(run)
        return direct_call(run)

    model, executor = made(causal), Wavefront(record=record)
    segments = split(content(1, 32), None, 4)
    with torch.inference_mode():
        first = executor.read(model, segments, model.cell.initial(1))
        kept = {name: tensor.clone() for name, tensor in first.items()}
        again = executor.read(model, split(content(1, 32, seed=9), None, 4), first)
    assert len(recorded) == 1
    assert all(torch.equal(first[name], tensor) for name, tensor in kept.items())
    assert not torch.allclose(again["associations"], kept["associations"])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
@pytest.mark.parametrize("how", [Wavefront(), Wavefront(record=cuda_graph)])
def test_on_a_gpu(how):
    model = made(causal).cuda()
    with torch.inference_mode():
        segments = split(content(2, 64).cuda(), None, 4)
        expected = Sequential().read(model, segments, model.cell.initial(2))
        got = how.read(model, segments, model.cell.initial(2))
    assert all(close(got[name], tensor) for name, tensor in expected.items())


def test_choice():
    config = causal(memory="associative").config
    assert choose(config, "wavefront")[0] == Wavefront(32, batched=False)
    assert choose(config, device="cuda")[0] == Wavefront(32, least=6)
    assert "2 segments can be on their way" in choose(config, device="cuda")[1]
    assert choose(config, "captured", device="cuda")[0] == Wavefront(32, least=6, record=cuda_graph)
    gated = causal(memory="associative", memory_update="gated").config
    assert isinstance(choose(gated)[0], Speculative)
    with pytest.raises(InputError, match="associative memory, local to a layer, got tokens"):
        choose(causal().config, "wavefront")


def test_reading_ahead_with_gates_that_shut():
    model = made(causal, memory_update="gated", gate_threshold=0.5)
    segments = split(content(1, 60), None, 4)
    with torch.inference_mode():
        expected = Sequential().read(model, segments, model.cell.initial(1))
        got = Speculative(8).read(model, segments, model.cell.initial(1))
    assert float(expected["associations"].abs().max()) > 1e-3
    assert all(close(got[name], tensor) for name, tensor in expected.items())
