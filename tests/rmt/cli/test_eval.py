"""``rmt eval memory`` from end to end, and our models behind the protocol of ``evals``."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from evals import evaluate
from evals.model import MemoryModel
from evals.tasks.memory import PLACES, MemoryTasks
from rmt import Reader
from rmt.cli.adapters import ReaderModel, _heard
from rmt.cli.common import parse_lengths
from rmt.cli.models import reader
from rmt.errors import InputError
from rmt.executors import EXECUTORS
from rmt.models import RMTForSequenceClassification
from tests.rmt import test_associative, test_retrieval, tiny


@pytest.mark.parametrize("kind", ["classifier", "language_model"])
def test_command(rmt, request, kind, document, tmp_path):
    model, out = request.getfixturevalue(kind), tmp_path / "out"
    base = (
        "eval",
        "memory",
        "--model",
        model,
        "--text",
        document,
        "--out",
        out,
        "--lengths",
        "150,300",
    )
    first = rmt(*base, "--n", 2, "--json", "--no-progress")
    assert first.exit_code == 0, first.output
    result = json.loads(first.stdout)
    assert result == json.loads((out / "results.json").read_text())
    assert {(c["task"], c["length"]) for c in result["cells"]} == {
        (task, length) for task in ("memorize", "detect", "reasoning") for length in (150, 300)
    }
    assert {c["control"] for c in result["cells"]} >= {"memory", "zeroed", "shuffled"}
    assert result["seed"] == 0
    assert (out / "memory.png").read_bytes().startswith(b"\x89PNG")
    assert {p.name for p in out.iterdir()} == {"results.json", "memory.png", "rows.jsonl", "cost.jsonl"}

    rows = (out / "rows.jsonl").read_bytes()
    (out / "rows.jsonl").write_bytes(rows[: len(rows) // 2])  # as a kill leaves it
    again = rmt(*base, "--n", 2, "--no-progress")
    assert again.exit_code == 0, again.output
    assert "detect" in again.stdout
    assert sorted((out / "rows.jsonl").read_bytes().splitlines()) == sorted(rows.splitlines())
    assert json.loads((out / "results.json").read_text())["cells"] == result["cells"]


def test_adapter(classifier, document):
    ours = reader(classifier, "float32")
    model = ReaderModel(ours)
    assert isinstance(model, MemoryModel)
    ids = ours.tokenizer(document.read_text(), add_special_tokens=False)["input_ids"]
    made = list(MemoryTasks(ours.tokenizer, np.array(ids), 200).documents(2))
    states = model.read(made)
    alone = ours.read(made[1].tokens(), progress=False)
    assert torch.equal(states[1].tensors["tokens"], alone.tensors["tokens"])
    answers = model.answer(states[1], made[1].questions)
    spoken = ours.ask(alone, [q.text for q in made[1].questions])
    assert [PLACES[a] for a in answers] == [a.text for a in spoken], "labels stand in another order than places"
    shuffled = model.shuffled(states[0], 0).tensors["tokens"]
    assert not torch.equal(shuffled, states[0].tensors["tokens"])
    assert torch.equal(shuffled.sort(dim=-1).values, states[0].tensors["tokens"].sort(dim=-1).values)
    assert torch.equal(model.initial().tensors["tokens"], ours.model.initial_memory(1).tensors["tokens"])


KINDS = {
    "associative": {"memory": "associative", "associative_key_size": 16},
    "retrieval": {"retrieval_every": 1, "retrieval_budget": 3, "retrieval_top": 2},
}


@pytest.mark.parametrize("kind", KINDS)
def test_all_controls_of_every_kind_of_memory(kind, tokenizer, document):
    awake = {"associative": test_associative.awake, "retrieval": test_retrieval.awake}[kind]
    inner = tiny.BertModel(tiny.bert_config(vocab_size=len(tokenizer)), add_pooling_layer=False)
    fields = {"segment_size": 16, "num_memory_tokens": 3, "num_labels": 6} | KINDS[kind]
    ours = Reader(awake(RMTForSequenceClassification.from_backbone(inner, **fields)), tokenizer, dtype="float32")
    model, asked = ReaderModel(ours), []
    ids = np.array(tokenizer(document.read_text(), add_special_tokens=False)["input_ids"])
    documents = list(MemoryTasks(tokenizer, ids, 100, ["detect"]).documents(4))

    class Asked(ReaderModel):
        def answer(self, state, questions):
            asked.append(state)
            return super().answer(state, questions)

    cells = evaluate(Asked(ours), documents, batch_size=2)
    assert {cell.control for cell in cells} == {"memory", "zeroed", "shuffled", "swapped"}
    assert all(cell.n for cell in cells)

    state, shuffled = asked[0], model.shuffled(asked[0], 0)
    assert state.tensors.keys() == shuffled.tensors.keys()
    for name, tensor in state.tensors.items():
        other = shuffled.tensors[name]
        if name in ("segments", "bank_at", "bank_drift", "bank_scores"):
            assert torch.equal(other, tensor), "only channels are shuffled"
        else:
            assert not torch.equal(other, tensor), name
            assert torch.equal(other.sort(dim=-1).values, tensor.sort(dim=-1).values)
    if kind == "retrieval":
        assert bool(state.tensors["bank_at"].any()), "nothing was kept"


def test_other_labels_are_refused(classifier):
    ours = reader(classifier)
    ours.model.config.id2label = {n: f"animal {n}" for n in range(6)}
    with pytest.raises(InputError, match="animal 0"):
        ReaderModel(ours)


def test_what_is_heard():
    assert _heard(" kitchen.") == PLACES.index("kitchen")
    assert _heard("Garden and more") == PLACES.index("garden")
    assert _heard("the garden") == -1
    assert _heard("") == -1


def test_lengths():
    assert parse_lengths("4k, 64k,1M,500,4000") == [4_000, 64_000, 1_000_000, 500]
    for bad in ("", "k", "-4k", "4kk", "1.5k", "4k,,1M"):
        with pytest.raises(InputError, match="--lengths"):
            parse_lengths(bad)


@pytest.mark.parametrize("words", [[], ["read"], ["ask"], ["eval"], ["eval", "memory"], ["info"]])
def test_help_has_examples(words):
    from rmt.cli.app import app

    result = CliRunner().invoke(app, [*words, "--help"])
    assert result.exit_code == 0
    if words not in ([], ["eval"]):
        assert f"\n    rmt {' '.join(words)}" in result.stdout, "an example on a line of its own"


@pytest.mark.parametrize("words", [["read"], ["eval", "memory"]])
def test_help_names_every_executor(words):
    from rmt.cli.app import app

    shown = CliRunner().invoke(app, [*words, "--help"], terminal_width=200).stdout
    (line,) = [line for line in shown.splitlines() if "--executor" in line]
    assert set(EXECUTORS) <= set(line.replace(",", " ").replace(".", " ").split())
